//! The room for datagrams that come at once: in the sockets of a listener here, and in those of the server.

use std::io;
use std::net::Ipv4Addr;

use super::Finding;
use crate::lan::destination::Target;
use crate::lan::sockets;

/// What the kernel counts for a datagram of a large batch, with its own bookkeeping; for a small one about 800.
const DATAGRAM: usize = 1_280;

/// A buffer of one socket.
struct Buffer {
    name: &'static str,
    /// Bytes that are asked for.
    wanted: usize,
    /// The kernel's bound on it.
    setting: &'static str,
    beyond: &'static str,
}

const RECEIVE: Buffer = Buffer {
    name: "the receive buffer of a listener here",
    wanted: sockets::RECEIVE_BUFFER,
    setting: "net.core.rmem_max",
    beyond: "what comes at once beyond that is lost",
};
const SEND: Buffer = Buffer {
    name: "a send buffer of the server",
    wanted: sockets::SEND_BUFFER,
    setting: "net.core.wmem_max",
    beyond: "what one commit announces beyond that is lost on a network that is slower than this host",
};

pub fn check(targets: &[Target]) -> Vec<Finding> {
    let ear = sockets::receiver((Ipv4Addr::UNSPECIFIED, 0).into());
    let receive = RECEIVE.judge(ear.and_then(|ear| sockets::receive_buffer(&ear)));
    // All sockets ask for the same and get the same.
    let voice = targets.first().map(sockets::sender);
    let send = voice.map(|voice| SEND.judge(voice.and_then(|voice| sockets::send_buffer(&voice))));
    [receive].into_iter().chain(send).collect()
}

impl Buffer {
    fn judge(&self, granted: io::Result<usize>) -> Finding {
        let Buffer { name, wanted, setting, beyond } = self;
        let granted = match granted {
            Ok(granted) => granted,
            Err(error) => {
                return Finding::yellow(
                    format!("{name} was not checked: {error}"),
                    "look at this host's limits (ulimit -a)",
                );
            }
        };
        // The kernel takes twice as much, for its bookkeeping (socket(7)).
        let room = format!("room for about {} datagrams of a large batch", 2 * granted / DATAGRAM);
        if granted >= *wanted {
            return Finding::green(format!("{name} has {granted} bytes, {room}"));
        }
        Finding::yellow(
            format!("{name} has {granted} bytes, of {wanted} that it asks for: {room}, and {beyond}"),
            format!(
                "sysctl -w {setting}={wanted} as root; to make it last, echo {setting}={wanted} >>/etc/sysctl.d/90-rollcall.conf"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_buffer_that_was_cut_is_yellow() {
        assert_eq!(RECEIVE.judge(Ok(sockets::RECEIVE_BUFFER)).level, Level::Green);
        let finding = SEND.judge(Ok(212_992));
        assert_eq!(finding.level, Level::Yellow);
        assert!(
            finding.what.starts_with(
                "a send buffer of the server has 212992 bytes, of 1048576 that it asks for: room for about 332 datagrams"
            ),
            "{finding:?}"
        );
        let advice = finding.advice.unwrap();
        assert!(advice.starts_with("sysctl -w net.core.wmem_max=1048576 as root; "), "{advice}");
        let unchecked = RECEIVE.judge(Err(io::Error::other("too many open files")));
        assert_eq!(
            unchecked.what,
            "the receive buffer of a listener here was not checked: too many open files"
        );
    }
}
