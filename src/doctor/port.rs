//! The port that listeners on this host share.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Finding;
use crate::lan::destination::Target;
use crate::lan::proc::{self, Holders};
use crate::lan::sockets;

/// One line for each port that is announced to.
pub fn check(targets: &[Target]) -> Vec<Finding> {
    let mut addresses: Vec<SocketAddr> = targets.iter().map(|target| listeners(target.to)).collect();
    addresses.sort();
    addresses.dedup();
    addresses.into_iter().map(of_port).collect()
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
    let holders = proc::holders_of(address.port());
    of_holders(address, holders, sockets::receiver(address).err())
}

/// `None` if nobody can tell who holds it.
fn of_holders(address: SocketAddr, holders: Option<Holders>, error: Option<io::Error>) -> Finding {
    let what = match address {
        SocketAddr::V4(_) => format!("UDP port {}", address.port()),
        SocketAddr::V6(_) => format!("UDP port {} of IPv6", address.port()),
    };
    let names = match holders {
        Some(Holders { mut programs, unseen }) => {
            if unseen > 0 {
                programs
                    .push(format!("a program that this user may not see, as root may (sockets: {unseen})"));
            }
            programs.join(", ")
        }
        None => "whoever else holds it, which /proc does not tell here".to_owned(),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn of(programs: &[&str], unseen: usize, error: Option<io::ErrorKind>) -> (Level, String) {
        let programs = programs.iter().map(|name| (*name).to_owned()).collect();
        judged(Some(Holders { programs, unseen }), error)
    }

    fn judged(holders: Option<Holders>, error: Option<io::ErrorKind>) -> (Level, String) {
        let finding = of_holders("0.0.0.0:6667".parse().unwrap(), holders, error.map(io::Error::from));
        (finding.level, finding.what)
    }

    #[test]
    fn who_shares_and_who_does_not() {
        for (error, level, how) in [
            (None, Level::Green, "shared with"),
            (
                Some(io::ErrorKind::AddrInUse),
                Level::Red,
                "held without sharing, so that rollcall-listen cannot take it, by",
            ),
        ] {
            let what = format!("UDP port 6667: {how} whoever else holds it, which /proc does not tell here");
            assert_eq!(judged(None, error), (level, what));
        }
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
}
