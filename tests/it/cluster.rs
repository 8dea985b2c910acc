//! A primary and its synchronous standby, real ones, for the tests of one cluster that is in trouble.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::signal;
use crate::stack::{Answer, Builder, Running, Stack, expect, free_port, is_root, wait_until};

/// Two nodes of PostgreSQL. They end with the test.
pub struct Cluster {
    pub folder: PathBuf,
    pub port: u16,
    standby_port: u16,
}

/// The folder of initdb(1), which Debian has in no PATH.
fn programs() -> PathBuf {
    let output =
        Command::new("sh").args(["-c", "ls -d /usr/lib/postgresql/*/bin | tail -n 1"]).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    match found.trim() {
        "" => Path::new("/usr/bin").to_owned(),
        folder => folder.into(),
    }
}

/// A program of PostgreSQL, as a user that it takes.
fn as_postgres(program: &str) -> Command {
    let path = programs().join(program);
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(path);
            command
        }
        false => Command::new(path),
    };
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("PG") {
            command.env_remove(&variable);
        }
    }
    command.current_dir("/");
    command
}

impl Cluster {
    /// A primary alone. `settings` are lines of postgresql.conf, `access` those of pg_hba.conf for TCP.
    #[track_caller]
    pub fn primary(stack: &Stack, settings: &str, access: &str) -> Self {
        let folder = stack.state.join("cluster");
        fs::create_dir(&folder).unwrap();
        if is_root() {
            expect(Command::new("chown").arg("postgres:").arg(&folder), 0, "");
        }
        let cluster = Self { port: free_port(), standby_port: free_port(), folder };
        let initdb =
            ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync", "-D"];
        expect(as_postgres("initdb").args(initdb).arg(cluster.data("primary")), 0, "");
        let hba = cluster.data("primary").join("pg_hba.conf");
        fs::write(hba, format!("local all all trust\nlocal replication all trust\n{access}\n")).unwrap();
        let file = cluster.data("primary").join("postgresql.conf");
        let text = fs::read_to_string(&file).unwrap();
        // The standby that stands still stays the synchronous one.
        let own = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nwal_sender_timeout = 0\n\
             max_connections = 30\n{settings}\n",
            cluster.folder.display()
        );
        fs::write(&file, text + &own).unwrap();
        cluster.start("primary", cluster.port);
        for role in ["rollcall", "rollcall_server"] {
            cluster.sql("postgres", &format!("create role {role} login password 'secret'"));
        }
        cluster.sql("postgres", "alter role rollcall_server connection limit 8");
        cluster.sql("postgres", "create database rollcall owner rollcall");
        cluster
    }

    /// The same with a synchronous standby.
    #[track_caller]
    pub fn pair(stack: &Stack) -> Self {
        let cluster = Self::primary(stack, "", "");
        let copy = ["-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync", "-h"];
        let port = cluster.port.to_string();
        let mut command = as_postgres("pg_basebackup");
        command.args(copy).arg(&cluster.folder).args(["-p", &port, "-D"]).arg(cluster.data("standby"));
        expect(&mut command, 0, "");
        cluster.start("standby", cluster.standby_port);
        cluster.sql("postgres", "alter system set synchronous_standby_names = '*'");
        cluster.sql("postgres", "select pg_reload_conf()");
        wait_until("the standby is synchronous", || {
            cluster.sql("postgres", "select sync_state from pg_stat_replication") == "sync"
        });
        cluster
    }

    fn data(&self, node: &str) -> PathBuf {
        self.folder.join(node)
    }

    fn start(&self, node: &str, port: u16) {
        let mut command = as_postgres("pg_ctl");
        command.arg("-D").arg(self.data(node)).arg("-l").arg(self.folder.join(format!("{node}.log")));
        command.args(["-w", "-o", &format!("-p {port} -F"), "start"]);
        let started = command.stdout(std::process::Stdio::null()).status().unwrap();
        let log = fs::read_to_string(self.folder.join(format!("{node}.log"))).unwrap_or_default();
        assert!(started.success(), "{log}");
    }

    /// Through the Unix socket.
    pub fn url(&self, role: &str) -> String {
        format!("postgres://{role}@localhost:{}/rollcall?host={}", self.port, self.folder.display())
    }

    pub fn url_of_standby(&self, role: &str) -> String {
        self.url(role).replace(&format!(":{}/", self.port), &format!(":{}/", self.standby_port))
    }

    /// Over TCP.
    pub fn url_over_tcp(&self, host: &str, parameters: &str) -> String {
        format!("postgres://rollcall:secret@{host}:{}/rollcall?{parameters}", self.port)
    }

    /// As the superuser, whose commits wait for no standby.
    #[track_caller]
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let mut psql = as_postgres("psql");
        psql.env("PGOPTIONS", "-c synchronous_commit=local");
        psql.args([
            "-qXAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            statement,
            "-h",
        ]);
        let output = psql.arg(&self.folder).args(["-p", &self.port.to_string()]).output().unwrap();
        assert!(output.status.success(), "{statement}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn processes(&self, node: &str) -> Vec<u32> {
        let file = fs::read_to_string(self.data(node).join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = file.lines().next().and_then(|line| line.parse().ok()) else {
            return Vec::new();
        };
        let mut all = crate::program::children(postmaster, "postgres:");
        all.push(postmaster);
        all
    }

    /// The standby stands still: commits of the primary wait for it.
    pub fn freeze_standby(&self) {
        // Its postmaster first, which then starts no other and buries none that ends.
        signal("STOP", self.processes("standby").last_chunk::<1>().unwrap());
        signal("STOP", &self.processes("standby"));
    }

    pub fn thaw_standby(&self) {
        signal("CONT", &self.processes("standby"));
    }

    /// How many backends a role has, and how many of them wait for the standby.
    pub fn backends(&self, role: &str) -> (usize, usize) {
        let counts = self.sql(
            "postgres",
            &format!(
                "select count(*), count(*) filter (where wait_event = 'SyncRep')
                   from pg_stat_activity where usename = '{role}'"
            ),
        );
        let (all, waiting) = counts.split_once('|').unwrap();
        (all.parse().unwrap(), waiting.parse().unwrap())
    }

    /// The schema, the rights of the server, and somebody who is enrolled.
    #[track_caller]
    pub fn furnish(&self, stack: &Stack, email: &str) {
        let mut migrate = stack.administer(&["user", "add", email]);
        expect(migrate.env("DATABASE_URL", self.url("rollcall")), 0, "enrolled");
        let mut grants = as_postgres("psql");
        grants
            .args(["-qX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "rollcall", "-h"])
            .arg(&self.folder);
        grants.args(["-p", &self.port.to_string(), "-f", "-"]);
        let rights = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grants.sql");
        let rights = fs::read_to_string(rights).unwrap();
        let rights: String =
            rights.split_inclusive(';').filter(|statement| !statement.contains("rollcall_reader")).collect();
        let file = self.folder.join("grants.sql");
        fs::write(&file, rights).unwrap();
        expect(grants.stdin(fs::File::open(file).unwrap()), 0, "");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in ["standby", "primary"] {
            let all = self.processes(node);
            if !all.is_empty() {
                // A child may end meanwhile.
                let all = all.iter().map(u32::to_string);
                let _ = Command::new("kill").args(["-s", "CONT"]).args(all).output();
                let mut stop = as_postgres("pg_ctl");
                let _ = stop.arg("-D").arg(self.data(node)).args(["-w", "-m", "immediate", "stop"]).output();
            }
        }
    }
}

/// A folder, ports, certificates and a credential, of which nothing runs.
pub fn stack(settings: &[(&str, &str)]) -> Stack {
    let builder = settings.iter().fold(Builder::new(), |builder, (name, value)| builder.set(name, *value));
    let stack = builder.with_certificates().stopped();
    stack.furnish_a_server();
    stack
}

/// The server on the stack's port, with this database.
#[track_caller]
pub fn serve(stack: &Stack, url: &str) -> Running {
    let key = stack.certs.join("broadcast.key");
    let settings = [
        ("DATABASE_URL", url),
        ("ROLLCALL_LISTEN", &stack.listen),
        ("ROLLCALL_BROADCAST_KEY", key.to_str().unwrap()),
    ];
    let server = crate::server::start(stack, &settings);
    wait_until("it is ready", || server.err().contains("the database is ready"));
    server
}

/// The status and the body of `/readyz`.
pub fn readyz(stack: &Stack) -> Answer {
    Answer::parse(&stack.to_server(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}
