//! Which programs hold a UDP port, read from /proc (proc(5)): so that "address in use" names who.

use std::fs;

/// Who holds a port, as far as /proc tells.
pub struct Holders {
    /// `NAME (pid N)` each.
    pub programs: Vec<String>,
    /// Sockets whose program /proc does not show: it is another user's and we are not root, or it runs in
    /// another container.
    pub unseen: usize,
}

pub fn of_udp_port(port: u16) -> Holders {
    let mut unseen: Vec<String> = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| inode_on_port(line, port)).collect::<Vec<_>>())
        .collect();
    let inodes = unseen.clone();
    let mut programs = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let held = sockets(pid, &inodes);
        if !held.is_empty() {
            unseen.retain(|inode| !held.contains(inode));
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            programs.push(format!("{} (pid {pid})", name.trim_end().escape_debug()));
        }
    }
    Holders { programs, unseen: unseen.len() }
}

/// A line's second column is the local address, `HEX-IP:HEX-PORT`; its tenth is the socket's inode.
fn inode_on_port(line: &str, port: u16) -> Option<String> {
    let mut columns = line.split_ascii_whitespace();
    let (_, hex_port) = columns.nth(1)?.rsplit_once(':')?;
    let inode = columns.nth(7)?;
    (u16::from_str_radix(hex_port, 16) == Ok(port)).then(|| inode.to_owned())
}

/// Which of these sockets the process has.
fn sockets(pid: u32, inodes: &[String]) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    let held = targets.filter_map(|target| {
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inodes.iter().find(|held| *held == inode).cloned()
    });
    held.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn names_this_very_process_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let _second = UdpSocket::bind(("127.0.0.2", port)).unwrap();
        let Holders { programs, unseen } = of_udp_port(port);
        assert_eq!((programs.len(), unseen), (1, 0));
        assert!(programs[0].ends_with(&format!("(pid {})", std::process::id())), "{programs:?}");
    }
}
