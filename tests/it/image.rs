//! The image of deploy/: it is built, and the parts of a server run in it, with the commands of compose.yaml.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::machine;
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

    let _alone = machine::alone();
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
