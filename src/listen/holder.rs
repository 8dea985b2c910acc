//! Which program holds a UDP port, read from /proc (proc(5)): so that "address in use" names who.

use std::fs;

/// The programs that hold `port`, as `NAME (pid N)`. `None` when /proc does not tell: the holder is
/// another user's and we are not root, or it has gone.
pub fn of_udp_port(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| inode_on_port(line, port)).collect::<Vec<_>>())
        .collect();
    let mut holders: Vec<String> = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| has_socket(pid, &inodes))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} (pid {pid})", name.trim_end().escape_debug())
        })
        .collect();
    holders.dedup();
    (!holders.is_empty()).then(|| holders.join(", "))
}

/// A line's second column is the local address, `HEX-IP:HEX-PORT`; its tenth is the socket's inode.
fn inode_on_port(line: &str, port: u16) -> Option<String> {
    let mut columns = line.split_ascii_whitespace();
    let (_, hex_port) = columns.nth(1)?.rsplit_once(':')?;
    let inode = columns.nth(7)?;
    (u16::from_str_radix(hex_port, 16) == Ok(port)).then(|| inode.to_owned())
}

fn has_socket(pid: u32, inodes: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok()).any(|target| {
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|held| held == inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn names_this_very_process() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = of_udp_port(port).unwrap();
        assert!(holder.contains(&format!("(pid {})", std::process::id())), "{holder}");
    }
}
