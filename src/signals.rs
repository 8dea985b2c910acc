//! SIGTERM, SIGINT and SIGHUP as a message that a future can wait for.

use std::io;

use async_std::channel::{self, Receiver};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli;

/// Receives at the first SIGTERM or SIGINT, which from now on no longer end the process by themselves.
///
/// SIGHUP is one of them, unless it was ignored from the start (nohup(1)) or is given something else to do: a
/// server has no terminal that could close, and logrotate(8) sends it.
pub fn stop(hangup: Option<fn()>) -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if hangup.is_some() || !cli::ignores_hangup() {
        signals.add_signal(SIGHUP)?;
    }
    let (send, receive) = channel::bounded(1);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match hangup {
                Some(hangup) if signal == SIGHUP => hangup(),
                // A full channel already holds the message.
                _ => drop(send.try_send(())),
            }
        }
    });
    Ok(receive)
}
