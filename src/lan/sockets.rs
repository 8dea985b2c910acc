//! Every UDP socket of rollcall is opened here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::destination::Target;

/// The send buffer that is asked for, for an interface that takes its time with a full batch. The kernel takes
/// twice as much (socket(7)) and counts 1,280 bytes for a signed datagram, so this holds three such batches, if
/// `net.core.wmem_max` allows it.
pub const SEND_BUFFER: usize = 1 << 20;

/// The receive buffer that is asked for. The kernel takes twice as much (socket(7)) and counts 1,280 bytes for a
/// datagram of a large batch, so this holds an eighth of a second at 100,000 a second, if `net.core.rmem_max` allows it.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// The longest wait of one read from a receiver.
pub const TICK: Duration = Duration::from_millis(200);

/// Opens the socket that sends to this target and to nobody else.
pub fn sender(target: &Target) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(target.to), Type::DGRAM, Some(Protocol::UDP))?;
    // A full send buffer drops this datagram; it must not stall the request behind it.
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    let index = target.interface.as_ref().map_or(0, |(_, index)| *index);
    match target.to {
        SocketAddr::V4(_) => {
            socket.set_broadcast(true)?;
            socket.set_multicast_ttl_v4(target.ttl.unwrap_or(1).into())?;
        }
        SocketAddr::V6(_) => {
            socket.set_multicast_hops_v6(target.ttl.unwrap_or(1).into())?;
            socket.set_multicast_if_v6(index)?;
        }
    }
    socket.bind(&SocketAddr::new(target.from, 0).into())?;
    // Two interfaces with one address: by the address alone both sockets would send by the same one. A
    // kernel older than 5.7 refuses this to an ordinary user, and then the address has to do.
    if let Some((name, _)) = &target.interface {
        let _ = socket.bind_device(Some(name.as_bytes()));
    }
    Ok(socket.into())
}

/// Opens a port that other listeners can share: with both options set before the bind, each socket receives every
/// broadcast (socket(7)). Reading gives up after 200 ms (`WouldBlock`), so that there is time for other things. The
/// receive buffer is as large as the kernel allows, up to [`RECEIVE_BUFFER`].
pub fn receiver(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    // Besides bounding the wait, a timeout makes a signal end it (signal(7)).
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// Opens a TCP port whose connections hold no more than this much that their peers have not read, in the kernel. By itself
/// that lets it grow to 4 MB each (tcp(7), `tcp_wmem`).
pub fn listener(address: SocketAddr, unread: usize) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Connections inherit it.
    SockRef::from(&listener).set_send_buffer_size(unread)?;
    Ok(listener)
}

/// The directed broadcast of the loopback interface, also while that is down and no route has it.
const THIS_HOST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

/// Does everybody on a network hear a datagram to this address? The routing table knows the directed broadcasts:
/// connect(2) refuses them with EACCES, as SO_BROADCAST is not set (ip(7)).
pub fn reaches_many(to: SocketAddr) -> bool {
    match to.ip() {
        ip if ip.is_multicast() => true,
        IpAddr::V4(Ipv4Addr::BROADCAST | THIS_HOST) => true,
        IpAddr::V4(_) => {
            let connected = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(to));
            connected.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        }
        IpAddr::V6(_) => false,
    }
}

/// Is it an address of this host, and nobody else's? Only such a one can be bound.
pub fn is_own(ip: IpAddr) -> bool {
    !reaches_many((ip, 1).into()) && UdpSocket::bind((ip, 0)).is_ok()
}

/// The granted bytes: half of the kernel's number, for it takes as much again for its
/// own bookkeeping.
pub fn receive_buffer(socket: &UdpSocket) -> io::Result<usize> {
    SockRef::from(socket).recv_buffer_size().map(|bytes| bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::{destination, interfaces};

    #[test]
    fn multicast_goes_as_far_as_it_is_told() {
        let interfaces = interfaces::list().unwrap();
        for (text, hops) in
            [("239.255.66.67%lo", 1), ("239.255.66.67/4", 4), ("ff05::1%lo", 1), ("ff05::1%lo/9", 9)]
        {
            let (targets, _) = destination::targets(&destination::parse(text).unwrap(), &interfaces);
            let socket = sender(&targets[0]).unwrap();
            let socket = SockRef::from(&socket);
            let set =
                if text.starts_with("ff") { socket.multicast_hops_v6() } else { socket.multicast_ttl_v4() };
            assert_eq!(set.unwrap(), hops, "{text}");
        }
    }
}
