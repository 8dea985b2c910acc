//! SIGTERM and SIGINT as a message that a future can wait for.

use std::io;

use async_std::channel::{self, Receiver};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Receives at the first of the two signals, which from now on no longer end the process by themselves.
pub fn stop() -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (send, receive) = channel::bounded(1);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // A full channel already holds the message.
            let _ = send.try_send(());
        }
    });
    Ok(receive)
}
