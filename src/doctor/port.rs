//! The port that listeners on this host share, and the room that they get in it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Finding;
use crate::broadcast::destination::Target;
use crate::listen;
use crate::sockets::{self, Holders};

/// What the kernel counts for a small datagram in a receive buffer.
const SMALL_DATAGRAM: usize = 800;

/// One line for each port that is announced to, and one for the receive buffer.
pub fn check(targets: &[Target]) -> Vec<Finding> {
    let mut addresses: Vec<SocketAddr> = targets.iter().map(|target| listeners(target.to)).collect();
    addresses.sort();
    addresses.dedup();
    let mut findings: Vec<Finding> = addresses.into_iter().map(of_port).collect();
    findings.push(match granted() {
        Ok(granted) => of_buffer(granted),
        Err(error) => Finding::yellow(
            format!("the receive buffer was not checked: {error}"),
            "look at this host's limits (ulimit -a)",
        ),
    });
    findings
}

/// What a listener binds to hear what is sent there.
fn listeners(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(to) => (Ipv4Addr::UNSPECIFIED, to.port()).into(),
        SocketAddr::V6(to) => (Ipv6Addr::UNSPECIFIED, to.port()).into(),
    }
}

fn of_port(address: SocketAddr) -> Finding {
    // In this order, or we would see ourselves. The socket is closed at once: it takes part in the traffic.
    let holders = sockets::holders_of(address.port());
    of_holders(address, &holders, listen::share(address).err())
}

fn of_holders(
    address: SocketAddr,
    Holders { programs, unseen }: &Holders,
    error: Option<io::Error>,
) -> Finding {
    let what = match address {
        SocketAddr::V4(_) => format!("UDP port {}", address.port()),
        SocketAddr::V6(_) => format!("UDP port {} of IPv6", address.port()),
    };
    let mut names = programs.clone();
    if *unseen > 0 {
        names.push(format!("a program that this user may not see, as root may (sockets: {unseen})"));
    }
    let names = names.join(", ");
    match error {
        None if names.is_empty() => Finding::green(format!("{what}: nobody else holds it")),
        None => Finding::green(format!("{what}: shared with {names}")),
        Some(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::red(
            format!("{what}: held without sharing, so that rollcall-listen cannot take it, by {names}"),
            "stop it, or announce to another port (ROLLCALL_BROADCAST=auto:PORT, just listen --port PORT)",
        ),
        Some(error) => Finding::yellow(
            format!("{what}: this user cannot open it: {error}"),
            "run this as the user that listens",
        ),
    }
}

/// What a listener gets.
fn granted() -> io::Result<usize> {
    listen::receive_buffer(&listen::share((Ipv4Addr::UNSPECIFIED, 0).into())?)
}

fn of_buffer(granted: usize) -> Finding {
    // It takes twice as much, and counts its bookkeeping, too (socket(7)).
    let room = format!("room for about {} small datagrams", 2 * granted / SMALL_DATAGRAM);
    let wanted = listen::RECEIVE_BUFFER;
    if granted >= wanted {
        return Finding::green(format!("the receive buffer of a listener here has {granted} bytes, {room}"));
    }
    let setting = format!("net.core.rmem_max={}", listen::RECEIVE_BUFFER);
    Finding::yellow(
        format!(
            "the receive buffer of a listener here has {granted} bytes, of {wanted} that it asks for: {room}, \
             and what comes at once beyond that is lost"
        ),
        format!(
            "sysctl -w {setting} as root; to make it last, echo {setting} >/etc/sysctl.d/90-rollcall.conf"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn of(programs: &[&str], unseen: usize, error: Option<io::ErrorKind>) -> (Level, String) {
        let holders = Holders { programs: programs.iter().map(|name| (*name).to_owned()).collect(), unseen };
        let finding = of_holders("0.0.0.0:6667".parse().unwrap(), &holders, error.map(io::Error::from));
        (finding.level, finding.what)
    }

    #[test]
    fn who_shares_and_who_does_not() {
        assert_eq!(of(&[], 0, None), (Level::Green, "UDP port 6667: nobody else holds it".to_owned()));
        let (level, what) = of(&["rollcall-listen (pid 7)", "heard (pid 8)"], 1, None);
        assert_eq!(level, Level::Green);
        assert_eq!(
            what,
            "UDP port 6667: shared with rollcall-listen (pid 7), heard (pid 8), a program that this user may \
             not see, as root may (sockets: 1)"
        );
        let (level, what) = of(&["dnsmasq (pid 7)"], 0, Some(io::ErrorKind::AddrInUse));
        assert_eq!(level, Level::Red);
        assert!(what.ends_with("by dnsmasq (pid 7)"), "{what}");
        let (level, what) = of(&[], 0, Some(io::ErrorKind::PermissionDenied));
        assert_eq!(
            (level, what.as_str()),
            (Level::Yellow, "UDP port 6667: this user cannot open it: permission denied")
        );
    }

    #[test]
    fn a_buffer_that_was_cut_is_yellow() {
        assert_eq!(of_buffer(listen::RECEIVE_BUFFER).level, Level::Green);
        let finding = of_buffer(212_992);
        assert_eq!(finding.level, Level::Yellow);
        assert!(
            finding.what.contains("212992 bytes, of 8388608 that it asks for: room for about 532 small"),
            "{finding:?}"
        );
        let advice = finding.advice.unwrap();
        assert!(advice.starts_with("sysctl -w net.core.rmem_max=8388608 as root; "), "{advice}");
    }
}
