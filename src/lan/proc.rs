//! The UDP sockets of this host in /proc (proc(5)): the programs that hold a port, and the datagrams that the kernel
//! dropped because a buffer was full.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The holders of a port, as far as /proc tells.
pub struct Holders {
    /// `NAME (pid N)` each.
    pub programs: Vec<String>,
    pub pids: Vec<u32>,
    /// Sockets whose program /proc does not show: it is another user's and we are not root, or it runs in
    /// another container.
    pub unseen: usize,
}

/// `None` where /proc does not show the sockets.
pub fn holders_of(port: u16) -> Option<Holders> {
    fs::metadata("/proc/net/udp").ok()?;
    Some(holders(&all().filter(|entry| entry.port == port).map(|entry| entry.inode).collect::<Vec<_>>()))
}

/// The programs that take connections at `HOST:PORT`, on whichever address of the host.
pub fn listeners_on(address: &str) -> Holders {
    let column = |line: &str, at| line.split_ascii_whitespace().nth(at).map(str::to_owned);
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let end = format!(":{:04X}", port.unwrap_or_default());
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .map(|table| fs::read_to_string(table).unwrap_or_default())
        .flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>())
        // 0A is TCP_LISTEN.
        .filter(|line| column(line, 1).is_some_and(|own| own.ends_with(&end)))
        .filter(|line| column(line, 3).as_deref() == Some("0A"))
        .filter_map(|line| column(&line, 9))
        .collect();
    holders(&inodes)
}

fn holders(inodes: &[String]) -> Holders {
    let mut unseen = inodes.to_vec();
    let (mut programs, mut pids) = (Vec::new(), Vec::new());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let held: Vec<String> = descriptors.filter_map(|descriptor| inode(&descriptor.path())).collect();
        if held.iter().any(|held| inodes.contains(held)) {
            unseen.retain(|inode| !held.contains(inode));
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            programs.push(format!("{} (pid {pid})", name.trim_end().escape_debug()));
            pids.push(pid);
        }
    }
    Holders { programs, pids, unseen: unseen.len() }
}

/// Datagrams that this socket lost since it was opened; `None` where /proc does not tell. `SO_RXQ_OVFL` tells
/// the same with every datagram, but only to code that is `unsafe`.
pub fn dropped_by(socket: &UdpSocket) -> Option<u64> {
    let own = inode(format!("/proc/self/fd/{}", socket.as_raw_fd()).as_ref())?;
    all().find(|entry| entry.inode == own).map(|entry| entry.drops)
}

/// One line of the table.
struct Entry {
    port: u16,
    inode: String,
    drops: u64,
}

fn all() -> impl Iterator<Item = Entry> {
    let tables =
        ["/proc/net/udp", "/proc/net/udp6"].into_iter().filter_map(|table| fs::read_to_string(table).ok());
    tables.flat_map(|table| table.lines().filter_map(entry).collect::<Vec<_>>())
}

/// The second column is the local address, `HEX-IP:HEX-PORT`; the tenth is the inode, the thirteenth the drops.
fn entry(line: &str) -> Option<Entry> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = columns.get(1)?.rsplit_once(':')?;
    Some(Entry {
        port: u16::from_str_radix(port, 16).ok()?,
        inode: (*columns.get(9)?).to_owned(),
        drops: columns.get(12)?.parse().ok()?,
    })
}

/// Which socket a descriptor in /proc is.
fn inode(descriptor: &Path) -> Option<String> {
    let link = fs::read_link(descriptor).ok()?;
    Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_this_very_process_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let _second = UdpSocket::bind(("127.0.0.2", port)).unwrap();
        let Holders { programs, unseen, .. } = holders_of(port).unwrap();
        assert_eq!((programs.len(), unseen), (1, 0));
        assert!(programs[0].ends_with(&format!("(pid {})", std::process::id())), "{programs:?}");
    }

    #[test]
    fn a_full_buffer_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(dropped_by(&socket), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20_000 {
            sender.send_to(&[0; 1000], socket.local_addr().unwrap()).unwrap();
        }
        assert!(dropped_by(&socket).unwrap() > 0);
    }
}
