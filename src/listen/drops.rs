//! What the kernel dropped because our receive buffer was full: the last column of /proc/net/udp.
//!
//! `SO_RXQ_OVFL` tells the same with every datagram, but only to code that is `unsafe`.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams that this socket lost since it was opened; `None` where /proc does not tell.
pub fn of_socket(socket: &UdpSocket) -> Option<u64> {
    let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
    let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| table.lines().find_map(|line| drops(line, inode)))
}

/// The tenth column is the socket's inode, the thirteenth what it dropped.
fn drops(line: &str, inode: &str) -> Option<u64> {
    let mut columns = line.split_ascii_whitespace();
    (columns.nth(9)? == inode).then(|| columns.nth(2))??.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(of_socket(&socket), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20_000 {
            sender.send_to(&[0; 1000], socket.local_addr().unwrap()).unwrap();
        }
        assert!(of_socket(&socket).unwrap() > 0);
    }
}
