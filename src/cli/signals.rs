//! SIGTERM, SIGINT and SIGHUP: a flag for a loop, or a message that a future can wait for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[cfg(any(feature = "client", feature = "server"))]
use async_std::channel::{self, Receiver};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
#[cfg(any(feature = "client", feature = "server"))]
use signal_hook::iterator::Signals;

/// A flag that the first SIGTERM, SIGINT or SIGHUP sets. The second one ends the process in any case, such as when it
/// waits for a pipe that nobody reads.
pub fn flag() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let hangup = (!ignores_hangup()).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Receives at the first SIGTERM or SIGINT, which from now on no longer end the process by themselves.
///
/// SIGHUP is one of them, unless it was ignored from the start (nohup(1)) or is given something else to do: a
/// server has no terminal that could close, and logrotate(8) sends it.
#[cfg(any(feature = "client", feature = "server"))]
pub fn stop(hangup: Option<fn()>) -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if hangup.is_some() || !ignores_hangup() {
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

/// Was SIGHUP ignored when the program began, as nohup(1) has it? Then it stays so (proc(5), SigIgn).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
