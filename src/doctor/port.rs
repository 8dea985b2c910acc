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

/// The address that a listener binds to hear this target.
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

/// `holders` is `None` where /proc does not show them.
fn of_holders(address: SocketAddr, holders: Option<Holders>, error: Option<io::Error>) -> Finding {
    let port = match address {
        SocketAddr::V4(_) => format!("UDP port {}", address.port()),
        SocketAddr::V6(_) => format!("UDP port {} of IPv6", address.port()),
    };
    let names = match holders {
        Some(Holders { mut programs, unseen, .. }) => {
            if unseen > 0 {
                programs
                    .push(format!("a program that this user may not see, as root may (sockets: {unseen})"));
            }
            programs.join(", ")
        }
        None => "unknown programs, which /proc does not show here".to_owned(),
    };
    match error {
        None if names.is_empty() => Finding::green(format!("{port}: nobody else holds it")),
        None => Finding::green(format!("{port}: shared with {names}")),
        Some(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::red(
            format!("{port}: held without sharing, so that rollcall-listen cannot take it, by {names}"),
            "stop it, or announce to another port (ROLLCALL_BROADCAST=auto:PORT, just listen --port PORT)",
        ),
        Some(error) => Finding::yellow(
            format!("{port}: this user cannot open it: {error}"),
            "run this as the user that listens",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holders_of_a_port_decide() {
        let held = |programs: &[&str], unseen| {
            Some(Holders {
                programs: programs.iter().map(|name| (*name).to_owned()).collect(),
                pids: Vec::new(),
                unseen,
            })
        };
        use io::ErrorKind::{AddrInUse, PermissionDenied};
        for (holders, error, line) in [
            (held(&[], 0), None, "green   UDP port 6667: nobody else holds it"),
            (None, None, "green   UDP port 6667: shared with unknown programs, which"),
            (
                held(&["heard (pid 8)"], 1),
                None,
                "green   UDP port 6667: shared with heard (pid 8), a program that this user may not see, as root may (sockets: 1)",
            ),
            (
                held(&["dnsmasq (pid 7)"], 0),
                Some(AddrInUse),
                "red     UDP port 6667: held without sharing, so that rollcall-listen cannot take it, by dnsmasq (pid 7); do: stop it",
            ),
            (
                held(&[], 0),
                Some(PermissionDenied),
                "yellow  UDP port 6667: this user cannot open it: permission denied",
            ),
        ] {
            let finding = of_holders("0.0.0.0:6667".parse().unwrap(), holders, error.map(io::Error::from));
            assert!(finding.line(false).starts_with(line), "{finding:?}");
        }
    }
}
