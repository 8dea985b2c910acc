//! The settings of a stack, and its start.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{Stack, binaries, free_port};
use crate::guardian;
use crate::program::{expect, has_ended, signal, wait_until};

/// The settings of a stack, before anything runs.
pub struct Builder(Stack);

/// The stack whose cluster, as `stack/up` makes it, and certificates the others share. Its own database is their template.
pub fn origin() -> &'static Stack {
    static ORIGIN: OnceLock<Stack> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        let origin = Builder::new().up_with_its_own_cluster();
        for file in ["keep-logs.pid", "signer.pid", "nginx/nginx.pid", "server/pid"] {
            let pid = origin.pid(file);
            signal("TERM", &[pid]);
            wait_until("it ended", || has_ended(pid));
        }
        // Each has a server with a name of its own.
        origin.sql("delete from servers");
        // The limit is for the server of one stack.
        for role in ["rollcall_server", "rollcall_reader"] {
            origin.sql_as("postgres", "postgres", &format!("alter role {role} connection limit -1"));
        }
        origin
    })
}

impl Builder {
    pub fn new() -> Self {
        let state =
            std::env::temp_dir().join(format!("rollcall-test-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&state).unwrap();
        // PostgreSQL and the server run as other users when the tests run as root.
        Command::new("chmod").arg("755").arg(&state).status().unwrap();
        guardian::watch(&state);
        Self(Stack {
            certs: state.join("certs"),
            https_port: free_port(),
            listen: format!("127.0.0.1:{}", free_port()),
            board_listen: format!("127.0.0.1:{}", free_port()),
            broadcast_port: free_port(),
            database: "rollcall".to_owned(),
            has_its_own_cluster: true,
            settings: Vec::new(),
            namespace: None,
            server: None,
            state,
        })
    }

    pub fn state(&self) -> &Path {
        &self.0.state
    }

    pub fn broadcast_port(&self) -> u16 {
        self.0.broadcast_port
    }

    pub fn set(mut self, variable: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        if variable == "ROLLCALL_LISTEN" {
            self.0.listen.clone_from(&value);
        }
        self.0.settings.push((variable.to_owned(), value));
        self
    }

    pub fn in_namespace(mut self, name: &str) -> Self {
        self.0.namespace = Some(name.to_owned());
        self
    }

    /// A stack whose folder and ports are chosen and of which nothing runs yet.
    pub fn stopped(self) -> Stack {
        self.0
    }

    /// The same with certificates.
    pub fn with_certificates(self) -> Self {
        let copied = Command::new("cp").arg("-a").args([&origin().certs, &self.0.certs]).status().unwrap();
        assert!(copied.success());
        self
    }

    /// A database of its own in the shared cluster, in which valid_user@qt-test.com is enrolled.
    fn with_database(mut self) -> Self {
        self.0.database = format!("rollcall_{}", free_port());
        self.0.has_its_own_cluster = false;
        let create = format!("create database {} template rollcall owner rollcall", self.0.database);
        origin().sql_as("postgres", "postgres", &create);
        let (owners, servers) = (self.0.database_url(), self.0.server_database_url());
        let readers = owners.replace("rollcall@", "rollcall_reader@");
        self.set("DATABASE_URL", owners)
            .set("ROLLCALL_SERVER_DATABASE_URL", servers)
            .set("ROLLCALL_BOARD_DATABASE_URL", readers)
    }

    /// Only the server and its database: nothing of nginx and TLS.
    #[track_caller]
    pub fn server(self) -> Stack {
        let mut stack = self.with_certificates().with_database().0;
        let file = |name: &str| stack.state.join(name);
        stack.furnish_a_server();
        let mut command = Command::new(binaries().join("rollcall-server"));
        stack.settle(&mut command);
        // By the folder in its command line, `stack/down` knows it.
        command.arg("--proxy-credential").arg(file("proxy-credential"));
        command.env("ROLLCALL_BROADCAST_KEY", stack.certs.join("broadcast.key"));
        command.env("DATABASE_URL", stack.server_database_url());
        command.stdout(Stdio::null()).stderr(File::create(file("server/log")).unwrap());
        let child = command.spawn().unwrap();
        fs::write(file("server/pid"), child.id().to_string()).unwrap();
        stack.server = Some(child);
        wait_until("the server is ready", || stack.log("server/log").contains("the database is ready"));
        stack
    }

    #[track_caller]
    pub fn up(self) -> Stack {
        self.with_certificates().with_database().up_with_its_own_cluster()
    }

    /// As in a fresh clone of the repository: for a test whose subject is the cluster, or the first start.
    #[track_caller]
    pub fn up_with_its_own_cluster(self) -> Stack {
        expect(&mut self.0.tool("stack/up"), 0, "");
        self.0
    }
}

impl Stack {
    #[track_caller]
    pub fn up() -> Self {
        Builder::new().up()
    }

    /// A stack of which nothing runs but its database.
    #[track_caller]
    pub fn database() -> Self {
        Builder::new().with_database().stopped()
    }

    /// The needs of a server that is started without `stack/up`.
    pub fn furnish_a_server(&self) {
        let credential = self.state.join("proxy-credential");
        fs::write(&credential, "c0ffee00".repeat(8)).unwrap();
        fs::set_permissions(&credential, PermissionsExt::from_mode(0o600)).unwrap();
        for (folder, mode) in [("server", 0o755), ("clerk", 0o750)] {
            fs::create_dir(self.state.join(folder)).unwrap();
            fs::set_permissions(self.state.join(folder), PermissionsExt::from_mode(mode)).unwrap();
        }
    }

    /// A stack of which nothing runs but its server and its database.
    #[track_caller]
    pub fn server() -> Self {
        Builder::new().server()
    }

    #[track_caller]
    pub fn with_its_own_cluster() -> Self {
        Builder::new().up_with_its_own_cluster()
    }
}
