//! Is what we send heard? One datagram to each target, by the socket that the server would open for it, and an
//! ear for it on this host: the kernel gives a copy of each broadcast and multicast to the host that sends it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use socket2::{InterfaceIndexOrAddress, SockRef};

use crate::lan::destination::Target;
use crate::lan::sockets;

/// Longest wait for a datagram of ours.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of one datagram.
#[derive(Debug)]
pub enum Outcome {
    Heard,
    /// Sent, and it did not come back.
    Unheard,
    /// Sent to one host, which we cannot hear for.
    ToOneHost,
    /// Sent, and nobody could listen for it here.
    NoEar(io::Error),
    Unsent(io::Error),
}

/// All at once, so that many silent targets take no longer than one.
pub fn try_each(targets: &[Target]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let tries: Vec<_> = targets.iter().map(|target| scope.spawn(|| try_one(target))).collect();
        tries.into_iter().map(|one| one.join().expect("it hands out every error")).collect()
    })
}

fn try_one(target: &Target) -> Outcome {
    let ear = is_for_many(target.to).then(|| ear(target));
    let sent = datagram().and_then(|datagram| {
        sockets::sender(target)?.send_to(&datagram, target.to)?;
        Ok(datagram)
    });
    match (sent, ear) {
        (Err(error), _) => Outcome::Unsent(error),
        (Ok(_), None) => Outcome::ToOneHost,
        (Ok(_), Some(Err(error))) => Outcome::NoEar(error),
        (Ok(datagram), Some(Ok(ear))) if hears(&ear, &datagram) => Outcome::Heard,
        (Ok(_), Some(Ok(_))) => Outcome::Unheard,
    }
}

/// 0xff says that an email of 255 bytes follows, one more than any has, and fewer do follow: whatever its
/// version, a listener takes this for foreign and can make no status of it. The text is for who looks with
/// tcpdump(8). The rest is random, to know it by.
fn datagram() -> io::Result<[u8; 40]> {
    let mut datagram = *b"\xffrollcall-server doctor ----------------";
    let random = SystemRandom::new().fill(&mut datagram[24..]);
    random.map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(datagram)
}

/// The directed broadcast of the loopback interface, also while that is down and no route has it.
const THIS_HOST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

/// Does everybody on a network hear what is sent there? Which addresses are directed broadcasts the routing
/// table knows: connect(2) refuses them with EACCES, as SO_BROADCAST is not set (ip(7)).
fn is_for_many(to: SocketAddr) -> bool {
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

/// Hears what is sent to the target's address and nothing else. One on 0.0.0.0 would take its share of what is
/// meant for a listener on this host alone: sockets that share a port share out its unicast (socket(7)).
fn ear(target: &Target) -> io::Result<UdpSocket> {
    let ear = sockets::receiver(target.to)?;
    match target.to {
        SocketAddr::V4(to) if to.ip().is_multicast() => {
            // By its index: two interfaces may have one address. Without one the routing table chooses (ip(7)).
            let any = InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED);
            let index = target.interface.as_ref().map(|(_, index)| InterfaceIndexOrAddress::Index(*index));
            SockRef::from(&ear).join_multicast_v4_n(to.ip(), &index.unwrap_or(any))?;
        }
        SocketAddr::V6(to) if to.ip().is_multicast() => ear.join_multicast_v6(to.ip(), to.scope_id())?,
        _ => {}
    }
    Ok(ear)
}

fn hears(ear: &UdpSocket, datagram: &[u8]) -> bool {
    let end = Instant::now() + PATIENCE;
    // One byte more, so that nothing longer looks like it.
    let mut buffer = [0; 41];
    while Instant::now() < end {
        // The socket has a timeout of its own, which only ends one turn of this loop.
        if ear.recv(&mut buffer).is_ok_and(|len| buffer[..len] == *datagram) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::destination;
    use crate::lan::interfaces;
    use crate::protocol::judge::{Ignored, Judge, Policy, Verdict};
    use crate::protocol::{self as wire, prefix};

    fn targets(text: &str) -> Vec<Target> {
        destination::targets(&destination::parse(text).unwrap(), &interfaces::list().unwrap()).0
    }

    /// A listener, and its port.
    fn listener() -> (UdpSocket, u16) {
        let listener = sockets::receiver((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[test]
    fn a_listener_takes_it_for_foreign() {
        let datagram = datagram().unwrap();
        let error = wire::decode(&datagram).unwrap_err();
        assert!(
            matches!(error, wire::Error::Truncated { field: prefix::Field::Email, need: 255, .. }),
            "{error}"
        );
        let policy = Policy { accept_unverified: true, ..Policy::default() };
        let mut judge = Judge::new(policy, Vec::new(), 0);
        assert!(matches!(judge.judge(&datagram, 0), Verdict::Ignored(Ignored::Foreign(_))));
        assert_eq!(judge.counters().foreign, 1);
        assert_ne!(datagram, super::datagram().unwrap());
    }

    #[test]
    fn broadcast_and_multicast_are_heard_on_loopback() {
        let (_listener, port) = listener();
        let targets = targets(&format!("lo:{port},127.255.255.255:{port},239.255.66.67%lo:{port}"));
        assert_eq!(targets.len(), 2 + 1);
        let outcomes = try_each(&targets);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Heard)), "{outcomes:?}");
    }

    #[test]
    fn a_listener_of_this_host_loses_nothing_to_the_ear() {
        let (listener, port) = listener();
        let ear = ear(&targets(&format!("127.255.255.255:{port}"))[0]).unwrap();
        for _ in 0..64 {
            // Another source port each time: the kernel chooses by it among sockets that share.
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"for one", ("127.0.0.1", port)).unwrap();
        }
        let mut buffer = [0; 16];
        assert!((0..64).all(|_| listener.recv(&mut buffer).is_ok()));
        assert!(ear.recv(&mut buffer).is_err());
    }

    #[test]
    fn what_cannot_be_heard_or_sent_says_why() {
        let held = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let one = |text: &str| try_each(&targets(text)).remove(0);
        let outcome = one(&format!("127.255.255.255:{port}"));
        let Outcome::NoEar(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(matches!(one(&format!("127.0.0.1:{port}")), Outcome::ToOneHost));
        // An address that this host does not have.
        let from = "203.0.113.1".parse().unwrap();
        let foreign = Target { from, ..targets(&format!("127.255.255.255:{port}")).remove(0) };
        let outcome = try_each(&[foreign]).remove(0);
        assert!(matches!(outcome, Outcome::Unsent(_)), "{outcome:?}");
    }
}
