//! deploy/README.md, step by step, in a mount, network and process namespace of its own. There is no systemd: the
//! lines of its units are run with the users, files and variables that the units give them.

use std::process::Command;

use super::page::{Page, block};
use super::{clone_into, page};
use crate::stack::{Builder, needs_root, text};

/// The folders of the host that the steps write to lie over a small disk in memory; PostgreSQL is a cluster there.
const HOST: &str = r#"
ip link set lo up
mount -t tmpfs tmpfs "$SCRATCH"
for folder in etc opt run var/lib usr/local; do
    mkdir -p "$SCRATCH/$folder/"{upper,work}
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$SCRATCH/$folder/upper,workdir=$SCRATCH/$folder/work" "/$folder"
done
export PATH=$PATH:/usr/sbin:$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
mkdir /opt/rollcall && cp -R "$CLONE/." /opt/rollcall && cd /opt/rollcall
mkdir -p /run/postgresql && mount -t tmpfs tmpfs /run/postgresql && chown postgres /run/postgresql
install -d -o postgres /var/lib/cluster
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
as_postgres initdb -D /var/lib/cluster/data -A peer >/dev/null
{ printf '%s\n' "$HBA"; cat /var/lib/cluster/data/pg_hba.conf; } >/var/lib/cluster/hba
cat /var/lib/cluster/hba >/var/lib/cluster/data/pg_hba.conf
printf '%s\n' "$IDENT" >>/var/lib/cluster/data/pg_ident.conf
as_postgres pg_ctl start -s -w -D /var/lib/cluster/data -l /var/lib/cluster/log -o "-c listen_addresses= -c unix_socket_directories=/run/postgresql"

unit() { sed -n "s/^$2=//p" "/etc/systemd/system/$1"; }
# Runs a unit's program as its user, with its variables.
start() { # UNIT
    (
        set -a
        for file in $(unit "$1" EnvironmentFile); do . "$file"; done
        while IFS= read -r variable; do export "${variable?}"; done < <(unit "$1" Environment)
        user=$(unit "$1" User)
        CREDENTIALS_DIRECTORY=$(mktemp -d)
        while IFS=: read -r name file; do
            install -o "${user:-root}" -m 0400 "$file" "$CREDENTIALS_DIRECTORY/$name"
        done < <(unit "$1" LoadCredential)
        chown "${user:-root}" "$CREDENTIALS_DIRECTORY"
        runtime=$(unit "$1" RuntimeDirectory)
        [ -z "$runtime" ] || install -d -o "$user" -g "$user" -m "$(unit "$1" RuntimeDirectoryMode)" "/run/$runtime"
        # A plus is for root.
        while IFS=+ read -r _ program; do $program; done < <(unit "$1" ExecStartPre)
        exec setpriv --reuid "${user:-root}" --regid "${user:-root}" --clear-groups bash -c "exec $(unit "$1" ExecStart)"
    ) >"/var/lib/$1.log" 2>&1 &
    echo $! >"/var/lib/$1.pid"
}
# Runs a unit of root's with the file system and the capabilities that it has.
locked_in() { # UNIT
    (
        set -a
        for file in $(unit "$1" EnvironmentFile); do . "$file"; done
        WRITABLE=$(unit "$1" ReadWritePaths) PROGRAM=$(unit "$1" ExecStart)
        BOUNDING=$(unit "$1" CapabilityBoundingSet | sed 's/CAP_/,+/g')
        exec unshare -m bash -euc '
            for folder in $WRITABLE; do mount --bind "$folder" "$folder"; done
            for folder in $(cut -d " " -f 5 /proc/self/mountinfo); do
                case " $WRITABLE " in *" $folder "*) continue ;; esac
                case $folder in /proc* | /dev* | /sys* | /run/netns*) continue ;; esac
                mount -o remount,bind,ro "$folder"
            done
            mount -t tmpfs tmpfs /tmp
            for folder in / /etc /usr/local /var/lib; do if [ -w "$folder" ]; then exit 1; fi; done
            while IFS= read -r program; do
                setpriv --bounding-set "-all${BOUNDING,,}" --no-new-privs $program </dev/null
            done <<<"$PROGRAM"'
    )
}
restart() { kill "$(cat "/var/lib/$1.pid")"; sleep 1; start "$1"; }
until_it() { # COMMAND…
    for _ in $(seq 300); do ! "$@" >/dev/null 2>&1 || return 0; sleep 0.1; done
    tail -n 20 /var/lib/*.log /var/lib/rollcall/nginx/*.log >&2
    echo "in vain: $*" >&2
    return 1
}
"#;

#[test]
fn the_steps_make_a_host_and_devices() {
    let Some(()) = needs_root("for mounts") else { return };
    let stack = Builder::new().stopped();
    let clone = stack.state.join("clone");
    std::fs::create_dir(&clone).unwrap();
    clone_into(&clone);
    let scratch = stack.state.join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let blocks = Page::read("deploy/README.md").blocks();
    let files = blocks.iter().find(|block| block.text.contains("peer map=rollcall")).unwrap();
    let (hba, ident) = files.text.split_once("\n\n").unwrap();
    let renewed = "rollcall-client --url https://rollcall.example.com --cert /etc/rollcall/client/client.crt \
                   --key /etc/rollcall/client/client.key --ca /etc/rollcall/client/ca.crt";

    let mut script = format!("set -euo pipefail\n{HOST}");
    let mut add = |line: &str| {
        script.push_str(line);
        script.push('\n');
    };
    for line in [
        "cd /opt/rollcall",
        "install -m 0755 target/release/rollcall-{server,board,admin,client,listen} /usr/local/bin/",
        "install -d /etc/rollcall /var/lib/rollcall/nginx/tmp",
    ] {
        page::documented(line);
        add(line);
    }
    add(&block("setpriv --reuid postgres --regid postgres --clear-groups psql <<'END'"));
    add(&block("cat >/etc/rollcall/stack.env <<'END'"));
    add(&block("set -a; . /etc/rollcall/stack.env; set +a"));
    add(&block("(umask 077; sed -f <(cat <<END"));
    let install = "install -m 0644 deploy/rollcall-{server,board,nginx,crl,signer}.service deploy/rollcall-crl.timer /etc/systemd/system/";
    page::documented(install);
    add(install);
    // Where systemd is installed it reads the units; a warning about the host's own is none about ours.
    add(
        "if command -v systemd-analyze; then systemd-analyze verify /etc/systemd/system/rollcall-*.service; fi",
    );
    add(
        "start rollcall-server.service; start rollcall-board.service; start rollcall-nginx.service; start rollcall-signer.service",
    );
    add("until_it curl -sS --cacert \"$ROLLCALL_CERTS/ca.crt\" https://localhost");
    add("until_it curl -fsS http://127.0.0.1:8000/readyz");
    add("until_it curl -fsS http://127.0.0.1:8001/readyz");
    let link = "ROLLCALL_STATE=/var/lib/rollcall-board rollcall-board link";
    page::documented(link);
    add(&format!("curl -sSo /dev/null -w '%{{http_code}}' \"$({link})\" | grep -qx 303"));
    add(
        "for which in server ca; do curl -fsS http://127.0.0.1:8000/metrics | grep '_not_after_timestamp_seconds{which=\"'$which'\"} '; done",
    );
    page::documented("stack/run rollcall-admin crl --if-due");
    add(&block("install -d -m 0755 /etc/rollcall/hooks"));
    add("locked_in rollcall-crl.service");
    add(&block("stack/run rollcall-admin enrol alice@example.com"));
    add("rollcall-admin user list | grep -q '^alice@example.com .* 127.0.0.1:'");
    add(&block(
        "ROLLCALL_BROADCAST_KEY=/var/lib/rollcall-server/broadcast.key ROLLCALL_SERVER_DATABASE_URL=\"${DATABASE_URL/rollcall@/rollcall_server@}\" \\",
    ));
    // A device on this host, whose server has a further name.
    add("echo '127.0.0.1 rollcall.example.com' >>/etc/hosts");
    page::documented("stack/run rollcall-admin");
    page::documented("stack/run rollcall-admin renew --server");
    add("stack/run rollcall-admin renew --server rollcall.example.com");
    let device = block("useradd --system --no-create-home --shell /usr/sbin/nologin rollcall-client");
    add(&format!("(cd /etc/rollcall/certs; {})", device.replace("NAME.", "alice@example.com.")));
    add(&format!("until_it {renewed}"));
    // A relay on this host, where nobody is at the address of the other site.
    let relay = blocks.iter().find(|block| block.text.contains("DESTINATIONS=")).unwrap();
    add(&format!("cat >/etc/rollcall/relay.env <<'END'\n{}END", relay.text));
    add(
        "for key in broadcast other; do cp /etc/rollcall/certs/broadcast.pub /etc/rollcall/$key.pub; done; install -d /var/lib/rollcall-relay",
    );
    add("install -m 0644 deploy/rollcall-relay.service /etc/systemd/system/; start rollcall-relay.service");
    add("until_it grep -q 'listening on' /var/lib/rollcall-relay.service.log");
    add("install -m 0644 deploy/rollcall-client.service /etc/systemd/system/; start rollcall-client.service");
    add(
        "sleep 1; kill -HUP \"$(cat /var/lib/rollcall-client.service.pid)\"; wait \"$(cat /var/lib/rollcall-client.service.pid)\"",
    );
    add("[ \"$(unit rollcall-client.service Restart)\" = always ]");
    add(
        "kill \"$(cat /var/lib/rollcall-relay.service.pid)\"; wait \"$(cat /var/lib/rollcall-relay.service.pid)\"",
    );
    add(
        "grep -q ', relayed [1-9]' /var/lib/rollcall-relay.service.log; test -s /var/lib/rollcall-relay/state",
    );
    // The keys of the announcements are replaced.
    page::documented("stack/rotate --switch");
    add("stack/rotate; stack/rotate --switch");
    for line in [
        "install -o rollcall -m 0600 /etc/rollcall/certs/broadcast.key /var/lib/rollcall-server/",
        "rm /etc/rollcall/certs/privacy.key",
    ] {
        page::documented(line);
        add(line);
    }
    page::documented("certs/ca keys");
    add("certs/ca keys; restart rollcall-server.service");
    add(&format!("until_it {renewed}"));
    // A list that the service makes anew, in its sandbox, reaches nginx.
    add("list=/var/lib/rollcall/nginx/crl.pem; before=$(sha256sum <$list)");
    add(
        "rm \"$ROLLCALL_CERTS/crl.pem\"; locked_in rollcall-crl.service; [ \"$before\" != \"$(sha256sum <$list)\" ]",
    );
    add(&format!("until_it {renewed}"));
    for line in ["stack/run rollcall-admin ca protect", "stack/run rollcall-admin revoke", "certs/ca crl"] {
        page::documented(line);
    }
    add("echo secret >/etc/rollcall/passphrase; export ROLLCALL_CA_PASSIN=file:/etc/rollcall/passphrase");
    add(
        "stack/run rollcall-admin ca protect; echo ROLLCALL_CA_PASSIN=$ROLLCALL_CA_PASSIN >>/etc/rollcall/stack.env",
    );
    add("stack/run rollcall-admin revoke alice@example.com");
    add(&format!("if {renewed}; then exit 1; fi"));
    add("rm \"$ROLLCALL_CERTS/crl.pem\"; locked_in rollcall-crl.service");
    // The key of the CA goes elsewhere, where somebody makes the list.
    let external = blocks.iter().find(|block| block.text.contains("ROLLCALL_CA=external")).unwrap();
    add(&format!("cat >>/etc/rollcall/stack.env <<'END'\n{}END", external.text));
    add("mv \"$ROLLCALL_CERTS/ca.key\" /var/lib/elsewhere.key; mkdir \"$ROLLCALL_CERTS/crl.d\"");
    add("ROLLCALL_SIGN_KEY=/var/lib/elsewhere.key certs/ca crl </dev/null >\"$ROLLCALL_CERTS/crl.d/ca.pem\"");
    add("sed -i 's/ssl_session_cache .*;/ssl_session_cache off;/' /var/lib/rollcall/nginx/nginx.conf");
    add("locked_in rollcall-crl.service; cmp $list \"$ROLLCALL_CERTS/crl.d/ca.pem\"");
    add(&format!(
        "refused() {{ {{ {renewed} 2>&1 || true; }} | grep -q 'rollcall-server (403'; }}; until_it refused"
    ));
    let rotate = "install -m 0644 deploy/logrotate.conf /etc/logrotate.d/rollcall";
    page::documented(rotate);
    add(rotate);
    add(
        "if command -v logrotate; then logrotate -f /etc/logrotate.d/rollcall; test -s /var/lib/rollcall/nginx/access.log.1",
    );
    // One that nginx was still writing into may take the first line.
    add(
        "is_logged() { curl -sS --cacert \"$ROLLCALL_CERTS/ca.crt\" https://localhost && test -s /var/lib/rollcall/nginx/access.log; }",
    );
    add("until_it is_logged; fi");
    add("echo all steps done");

    let mut command = Command::new("timeout");
    command.args(["100", "unshare", "-mnpf", "--mount-proc", "--kill-child", "bash", "-c", &script]);
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("ROLLCALL_") || name.starts_with("PG") || name == "DATABASE_URL" {
            command.env_remove(&variable);
        }
    }
    command.env("CLONE", &clone).env("SCRATCH", &scratch).env("HBA", hba).env("IDENT", ident);
    let output = command.output().unwrap();
    assert!(output.status.success() && text(&output).contains("all steps done"), "{}", text(&output));
}
