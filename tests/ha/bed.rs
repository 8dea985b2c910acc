//! The script that brings the hosts up and breaks them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::program::text;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
pub const DATABASES: [&str; 3] = ["db1", "db2", "db3"];

pub struct Bed {
    pub tag: String,
    /// Its input ends with this process: then it takes the bed down.
    guardian: Option<(Child, ChildStdin)>,
}

impl Bed {
    pub fn up(disk: bool) -> Self {
        let tag = format!("test-{}{}", std::process::id(), if disk { "-disk" } else { "" });
        let mut guardian = Command::new("setsid")
            .args(["bash", "-c", "read -r || true; exec just ha --tag \"$0\" down", &tag])
            .current_dir(ROOT)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let input = guardian.stdin.take().unwrap();
        let bed = Self { tag, guardian: Some((guardian, input)) };
        assert!(bed.just("just ha --help").contains("just ha up | down"));
        println!("{}", bed.just(if disk { "just ha up --disk 700m" } else { "just ha up" }));
        bed
    }

    /// A line that somebody would type, for this bed.
    pub fn command(&self, line: &str) -> Command {
        let words = line.strip_prefix("just ha ").unwrap().split(' ');
        let mut command = Command::new("timeout");
        command.args(["--foreground", "150", "just", "ha", "--tag", &self.tag]).args(words);
        command.current_dir(ROOT).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn just(&self, line: &str) -> String {
        said(&mut self.command(line))
    }

    /// The same where it may fail, because the hosts do.
    pub fn try_just(&self, line: &str) -> Option<String> {
        let output = self.command(line).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    /// On the primary, as the superuser.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        said(self.command("just ha sql").arg(statement))
    }

    pub fn folder(&self) -> String {
        format!("/var/tmp/rollcall-ha-{}", self.tag)
    }

    /// A URL of docs/scale.md, with the password and the CA of this bed. It is also that of `just ha env`.
    #[track_caller]
    pub fn url(&self, variable: &str, password: &str) -> String {
        let page = fs::read_to_string(format!("{ROOT}/docs/scale.md")).unwrap();
        let passwords = fs::read_to_string(format!("{}/files/passwords", self.folder())).unwrap();
        let password = passwords.lines().find_map(|line| line.strip_prefix(&format!("{password}="))).unwrap();
        let begin = format!("export {variable}='");
        let url = |text: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(&begin)?.trim_end_matches('\'').to_owned()))
        };
        let documented = url(&page).unwrap().replace("PASSWORD", password);
        let url = url(&self.just("just ha env")).unwrap();
        assert_eq!(
            documented.replace("/etc/haproxy/rollcall-db.crt", &format!("{}/ca.crt", self.folder())),
            url
        );
        url
    }

    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.tag)
    }

    /// The process ids of the host's first processes, as far as they run.
    pub fn first_process(folder: &str, host: &str) -> Option<u32> {
        fs::read_to_string(format!("{folder}/{host}/pid")).ok()?.trim().parse().ok()
    }

    /// The databases that HAProxy of s1 holds for primaries; nothing while it does not run.
    pub fn shown(folder: &str) -> Option<Vec<String>> {
        let first = Self::first_process(folder, "s1")?;
        let host = Path::new("/proc").join(first.to_string()).join("root");
        let mut socket = UnixStream::connect(host.join("run/haproxy.sock")).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        socket.write_all(b"show stat\n").ok()?;
        let mut table = String::new();
        socket.read_to_string(&mut table).ok()?;
        let is_up = |line: &&str| line.starts_with("postgresql,db") && line.split(',').nth(17) == Some("UP");
        Some(table.lines().filter(is_up).map(|line| line.split(',').nth(1).unwrap().to_owned()).collect())
    }

    /// When the PostgreSQL of this host began to take writes, when a standby that its commits waited for came, and when they
    /// had to wait for none any more, by its log.
    pub fn takes_writes_ns(&self, host: &str) -> BTreeSet<u64> {
        let log = fs::read(format!("{}/{host}/patroni.log", self.folder())).unwrap();
        let text = String::from_utf8_lossy(&log);
        let mut waits = true;
        let ready = text.lines().filter(|line| {
            let comes = line.contains("is now a synchronous standby");
            let was_waited_for = comes && waits;
            // Patroni lets the commits of a new primary go without a standby, until it has assigned one.
            waits = comes || waits && !line.ends_with("received promote request");
            was_waited_for
                || line.contains("\"synchronous_standby_names\" removed")
                || line.ends_with("database system is ready to accept connections")
        });
        let time = |line: &str| {
            // 2026-11-29 08:11:42.123 UTC [1] …
            let time = humantime::parse_rfc3339_weak(line.get(..23)?).ok()?;
            Some(time.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64)
        };
        ready.filter_map(time).collect()
    }

    /// All three members run, one of them is the primary and one its synchronous standby.
    pub fn is_whole(&self) -> bool {
        let table = self.try_just("just ha ctl list --format json").unwrap_or_default();
        let Ok(members) = serde_json::from_str::<Vec<serde_json::Value>>(&table) else { return false };
        let has = |role: &str| members.iter().any(|member| member["Role"] == role);
        let follow = members.iter().filter(|member| member["State"] == "streaming").count();
        has("Leader") && has("Sync Standby") && follow == 2
    }

    #[track_caller]
    pub fn until_whole(&self) {
        let end = Instant::now() + crate::PATIENCE;
        while !self.is_whole() {
            assert!(Instant::now() < end, "the cluster is not whole: {:?}", self.try_just("just ha status"));
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in DATABASES {
                let log =
                    fs::read_to_string(format!("{}/{host}/patroni.log", self.folder())).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {host}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
        let _ = self.command("just ha down").output();
        let (mut guardian, input) = self.guardian.take().unwrap();
        drop(input);
        let _ = guardian.wait();
    }
}

#[track_caller]
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
