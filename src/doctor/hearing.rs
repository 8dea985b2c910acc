//! Is an announcement heard? One datagram to each target, by the socket that the server would open for it, and a
//! receiver for it on this host: the kernel gives a copy of each broadcast and multicast to the host that sends it.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::now_ns;
use crate::lan::destination::Target;
use crate::lan::{group, sockets};
use crate::protocol::prefix;

/// Longest wait for a datagram of ours.
const PATIENCE: Duration = Duration::from_secs(1);

/// The fate of one datagram.
#[derive(Debug)]
pub enum Outcome {
    Heard,
    /// Sent, and it did not come back.
    Unheard,
    /// Sent to one host, which we cannot hear for.
    ToOneHost,
    /// Sent, and nobody could listen for it here.
    NoReceiver(io::Error),
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
    let receiver = sockets::reaches_many(target.to).then(|| receiver(target));
    let datagram = datagram();
    let sent = sockets::sender(target).and_then(|sender| sender.send_to(&datagram, target.to));
    match (sent, receiver) {
        (Err(error), _) => Outcome::Unsent(error),
        (Ok(_), None) => Outcome::ToOneHost,
        (Ok(_), Some(Err(error))) => Outcome::NoReceiver(error),
        (Ok(_), Some(Ok(receiver))) if receives(&receiver, &datagram) => Outcome::Heard,
        (Ok(_), Some(Ok(_))) => Outcome::Unheard,
    }
}

/// Process, time and number tell it from every other.
fn datagram() -> Vec<u8> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut datagram = prefix::TEST.to_vec();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    datagram.extend_from_slice(format!("{}.{}.{number}", std::process::id(), now_ns()).as_bytes());
    datagram
}

/// Hears datagrams to the target's address and nothing else. One on 0.0.0.0 would take its share of those for a
/// listener on this host alone: sockets that share a port share out its unicast (socket(7)).
fn receiver(target: &Target) -> io::Result<UdpSocket> {
    let receiver = sockets::receiver(target.to)?;
    if target.to.ip().is_multicast() {
        // By the index: two interfaces may have one address.
        group::join(&receiver, target.to.ip(), target.interface.as_ref().map(|(_, index)| *index))?;
    }
    Ok(receiver)
}

fn receives(receiver: &UdpSocket, datagram: &[u8]) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 100];
    while Instant::now() < end {
        // The socket has a timeout of its own, which only ends one turn of this loop.
        if receiver.recv(&mut buffer).is_ok_and(|len| buffer[..len] == *datagram) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::{destination, interfaces};
    use crate::protocol;
    use crate::protocol::judge::{Ignored, Judge, Policy, Verdict};
    use std::net::Ipv4Addr;

    fn targets(text: &str) -> Vec<Target> {
        destination::targets(&destination::parse(text).unwrap(), &interfaces::list().unwrap()).0
    }

    #[test]
    fn a_listener_takes_it_for_foreign() {
        let datagram = datagram();
        let error = protocol::decode(&datagram).unwrap_err();
        assert!(
            matches!(error, protocol::Error::Truncated { field: prefix::Field::Email, need: 255, .. }),
            "{error}"
        );
        let mut judge = Judge::new(Policy { accept_unverified: true, ..Policy::default() }, Vec::new(), 0);
        assert!(matches!(judge.judge(&datagram, 0), Verdict::Ignored(Ignored::Foreign(_))));
        assert_ne!(datagram, super::datagram());
    }

    #[test]
    fn loopback_hears_broadcast_and_multicast_and_takes_nothing_from_a_listener() {
        let listener = sockets::receiver((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let targets = targets(&format!("lo:{port},127.255.255.255:{port},239.255.66.67%lo:{port}"));
        let outcomes = try_each(&targets);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Heard)), "{outcomes:?}");
        assert_eq!(outcomes.len(), 3);

        let mut buffer = [0; 100];
        while listener.recv(&mut buffer).is_ok() {}
        let receiver = receiver(&targets[1]).unwrap();
        for _ in 0..64 {
            // Another source port each time: the kernel chooses by it among sockets that share.
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"for one", ("127.0.0.1", port)).unwrap();
        }
        assert!((0..64).all(|_| listener.recv(&mut buffer).is_ok()));
        assert!(receiver.recv(&mut buffer).is_err());
    }
}
