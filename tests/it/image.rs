//! The image of deploy/: it is built, and the parts of a server run in it, with the commands of compose.yaml.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::guardian;
use crate::namespace::Namespace;
use crate::program::{needs, needs_root, text};
use crate::stack::{binaries, free_port};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Chroot isolation has the host's network, so the ports are free ones.
const INSIDE: &str = r#"
part=/usr/share/rollcall/stack/part
trap 'kill $(jobs -p); wait' EXIT
cat >/etc/rollcall/stack.env <<END
ROLLCALL_LISTEN=127.0.0.1:$1
ROLLCALL_BOARD_LISTEN=127.0.0.1:$2
ROLLCALL_HTTPS_PORT=$3
ROLLCALL_BROADCAST=127.255.255.255:$4
END
$part database &
timeout 60 bash -c 'until pg_isready --quiet; do sleep 0.1; done'
rollcall-setup --yes
rollcall-server --check && echo "the settings are good"
$part server &
$part nginx &
$part board &
for port in $1 $2; do
    timeout 30 bash -c "until curl -fsS http://127.0.0.1:$port/livez; do sleep 0.1; done" 2>/dev/null && echo "livez $port"
done
setpriv --reuid rollcall --regid rollcall --clear-groups env ROLLCALL_KEYS=/etc/rollcall/certs \
    rollcall-listen --port $4 --count 1 --timeout 30s &
listener=$!
$part canary &
rollcall-admin enrol alice@example.com
cd /etc/rollcall/certs
rollcall-client --cert alice@example.com.crt --key alice@example.com.key --ca ca.crt --url https://localhost:$3
wait $listener
rollcall-admin revoke alice@example.com
rollcall-setup --yes
"#;

/// A Docker of its own, in a folder and a network of its own, runs compose.yaml by the lines of container.md.
pub const COMPOSED: &str = r#"
cd "$1"
export DOCKER_HOST=unix://$1/socket
# ip-netns(8) has given it mounts of its own.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ ! -d /run/containerd ] || mount -t tmpfs tmpfs /run/containerd
dockerd --bridge none --iptables=false --ip6tables=false --host "$DOCKER_HOST" --pidfile "$1/pid" --data-root "$1/data" \
    --exec-root "$1/run" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "rollcall-$$" >dockerd.log 2>&1 &
daemon=$!
end() {
    docker compose logs
    docker compose down --volumes
    kill $daemon
    wait
    rmdir "/sys/fs/cgroup/rollcall-$$"
}
trap end EXIT
until docker info >/dev/null 2>&1; do kill -0 $daemon || { cat dockerd.log; trap - EXIT; exit 1; }; sleep 0.1; done
docker load -i rollcall.tar
docker tag "$2" localhost/rollcall
install -m 0600 /dev/null stack.env
echo ROLLCALL_BROADCAST=127.255.255.255 >>stack.env
# More than its own limit a process may not give to another, unless it may do all.
sed "s/nofile: 65536/nofile: $(ulimit -Hn)/" "$3" >compose.yaml
docker compose up -d
docker compose exec nginx rollcall-admin enrol alice@example.com
docker compose exec nginx rollcall-server doctor
docker compose cp nginx:/etc/rollcall/certs/alice@example.com.crt .
beat() { # EMAIL PORT
    docker compose exec --workdir /etc/rollcall/certs nginx rollcall-client --cert "$1.crt" --key "$1.key" --ca ca.crt --url "https://localhost:$2"
}
# A listener as on another host.
docker compose cp nginx:/etc/rollcall/certs/broadcast.pub .
docker run --rm --network host -v "$PWD/broadcast.pub:/key.pub:ro" --entrypoint rollcall-listen localhost/rollcall --key /key.pub --count 1 >heard &
listener=$!
while kill -0 $listener; do beat alice@example.com 443 || sleep 1; done
grep alice@example.com heard
until docker compose logs listen | grep '"email":"alice@example.com"'; do sleep 0.1; done
until docker compose exec nginx env ROLLCALL_STATE=/var/lib/rollcall rollcall-client who | grep '^online .* alice@example.com'; do sleep 0.1; done
# It sees nginx's processes, to tell it.
docker compose exec daily logrotate --force /etc/logrotate.d/rollcall-server
docker compose exec nginx rollcall-admin revoke alice@example.com
refused=0
beat alice@example.com 443 || refused=$?
[ $refused = 77 ]
if docker compose logs database | grep 'FATAL: *role'; then exit 1; fi
echo ROLLCALL_HTTPS_PORT=8443 >>stack.env
docker compose up -d --force-recreate
docker compose exec nginx rollcall-admin enrol bob@example.com
until beat bob@example.com 8443; do sleep 0.1; done
"#;

fn buildah(arguments: &[&str]) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs"]).args(arguments).current_dir(ROOT);
    command
}

/// The image and its container, which go with the test.
struct Image {
    name: String,
    container: String,
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = buildah(&["rm", &self.container]).output();
        let _ = buildah(&["rmi", "--force", &self.name]).output();
    }
}

#[test]
fn the_parts_of_a_server_run_in_the_image() {
    let possible = needs_root("for an image").and(needs("mmdebstrap")).and(needs("buildah"));
    if possible.is_none() {
        return;
    }
    let name = format!("localhost/rollcall-test-{}", std::process::id());
    let image = Image { container: name.replace('/', "-"), name };
    let mut build = Command::new("stack/image");
    build.arg(&image.name).env("ROLLCALL_BIN", binaries()).current_dir(ROOT);
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let from = buildah(&["from", "--pull-never", "--name", &image.container, &image.name]).output().unwrap();
    assert!(from.status.success(), "{}", text(&from));

    let ports = [(); 4].map(|()| free_port().to_string());
    let mut run = buildah(&["run", "--isolation", "chroot", &image.container, "--"]);
    run.args(["timeout", "300", "bash", "-euo", "pipefail", "-c", INSIDE, "inside"]).args(&ports);
    let ran = run.output().unwrap();
    let said = text(&ran);
    assert!(ran.status.success(), "{said}");
    let [server, board, ..] = &ports;
    for wanted in [
        "the settings are good",
        &format!("livez {server}"),
        &format!("livez {board}"),
        "Success! (204 No Content)",
        "alice@example.com",
        "nothing has to be changed",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(!said.contains("just "), "{said}");
    composed(&image.name);
}

/// The host's Docker is used, if it has one.
fn composed(image: &str) {
    let found =
        Command::new("sh").args(["-c", "command -v dockerd && docker compose version"]).output().unwrap();
    if !found.status.success() {
        guardian::forbidden("compose.yaml is not run as a whole: dockerd or docker compose is missing here");
        return;
    }
    let Some(namespace) = Namespace::new() else { return };
    let folder = std::env::temp_dir().join(format!("rollcall-test-compose-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    guardian::watch(&folder);
    let archive = format!("docker-archive:{}/rollcall.tar", folder.display());
    let pushed = buildah(&["push", "--quiet", image, &archive]).output().unwrap();
    assert!(pushed.status.success(), "{}", text(&pushed));
    let mut run = namespace.command("timeout");
    run.args(["900", "bash", "-euo", "pipefail", "-c", COMPOSED, "composed"]).arg(&folder).arg(image);
    let ran = run.arg(Path::new(ROOT).join("deploy/compose.yaml")).stdin(Stdio::null()).output().unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    fs::remove_dir_all(&folder).unwrap();
}

/// compose.yaml starts each part that stack/part knows.
#[test]
fn compose_starts_each_part() {
    let read = |file: &str| fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let (compose, part) = (read("deploy/compose.yaml"), read("stack/part"));
    let usage = part.lines().find_map(|line| line.split_once("\"usage: $root/stack/part ")).unwrap().1;
    for name in usage.trim_end_matches("\" ;;").split('|') {
        let started = compose.contains(&format!("command: [{name}]"))
            || compose.contains(&format!("/usr/share/rollcall/stack/part {name};"));
        assert!(started, "compose.yaml does not start {name}");
    }
}
