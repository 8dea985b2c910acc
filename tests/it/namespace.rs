//! Hosts and networks that exist for one test: network namespaces, and LANs between them (ip-netns(8)).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::guardian;

/// This thread goes on in the network of that name.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/var/run/netns/{namespace}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// A host of its own: a network namespace with `lo` up and no other interface.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// `None` where namespaces cannot be made: the test is skipped.
    #[track_caller]
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rollcall-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let refused = match Command::new("ip").args(["netns", "add", &name]).output() {
            Ok(output) if output.status.success() => {
                let namespace = Self { name };
                namespace.ip("link set lo up");
                return Some(namespace);
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        guardian::skip(&format!("it needs root, for ip netns add: {refused}"));
        None
    }

    /// The output of `ip`, told to do this in here: `ip("link set lan0 down")`.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.name]).args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A program that will run in here. ip(8) becomes it, so that the child's process id is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does something on a thread of this namespace. A socket that is opened there stays there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter_and_work = || {
            enter(&self.name);
            work()
        };
        thread::scope(|scope| scope.spawn(enter_and_work).join().unwrap())
    }

    /// A table of /proc/net: "udp" has the sockets that are bound.
    pub fn proc_net(&self, table: &str) -> String {
        self.inside(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap())
    }

    /// A number of /proc/net/snmp: ("Udp", "InDatagrams") is how many the programs in here have read.
    pub fn counter(&self, protocol: &str, name: &str) -> u64 {
        let table = self.proc_net("snmp");
        // Each protocol has a line of names and a line of numbers.
        let mut lines = table.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, numbers) = (lines.next().unwrap().split(' '), lines.next().unwrap().split(' '));
        let number = names.zip(numbers).find(|(found, _)| *found == name).map(|(_, number)| number);
        number.unwrap_or_else(|| panic!("no {protocol} {name} in {table}")).parse().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// An Ethernet: a bridge in a namespace of its own, and a cable from it to each host.
pub struct Lan {
    switch: Namespace,
    cables: u8,
}

impl Lan {
    /// `None` where namespaces cannot be made.
    #[track_caller]
    pub fn new() -> Option<Self> {
        let switch = Namespace::new()?;
        switch.ip("link add lan type bridge");
        switch.ip("link set lan up");
        Some(Self { switch, cables: 0 })
    }

    /// A LAN with these hosts, or `None` where namespaces cannot be made.
    #[track_caller]
    pub fn of<const HOSTS: usize>() -> Option<(Self, [Namespace; HOSTS])> {
        let mut lan = Self::new()?;
        let hosts = [(); HOSTS].map(|()| lan.host());
        Some((lan, hosts))
    }

    /// A new host on this LAN, where its 255.255.255.255 goes too. The interface is `lan0`.
    pub fn host(&mut self) -> Namespace {
        let host = Namespace::new().expect("the switch's namespace could be made");
        let address = format!("192.0.2.{}/24", self.cables + 1);
        self.plug(&host, "lan0", &address);
        host.ip("route add default dev lan0");
        host
    }

    /// Gives `host` an interface on this LAN. When this returns, broadcasts go through.
    pub fn plug(&mut self, host: &Namespace, interface: &str, address: &str) {
        self.cables += 1;
        let port = format!("port{}", self.cables);
        self.switch.ip(&format!("link add {port} type veth peer name {interface} netns {}", host.name));
        self.switch.ip(&format!("link set {port} master lan up"));
        host.ip(&format!("addr add {address} brd + dev {interface}"));
        host.ip(&format!("link set {interface} up"));
        let is_forwarding = |_| {
            thread::sleep(Duration::from_millis(5));
            self.switch.ip(&format!("-d link show dev {port}")).contains("state forwarding")
        };
        assert!((0..1000).any(is_forwarding), "the bridge does not forward what comes from {interface}");
    }
}
