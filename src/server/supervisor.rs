//! The service manager that started this process, such as systemd: it is told when the server is ready, when it stops,
//! and now and then that the committer goes on (sd_notify(3)).
//!
//! The protocol is a datagram with a line of text, and std can send it: the crate sd-notify would spare ten lines.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::prelude::{FutureExt, StreamExt};
use async_std::stream::{Interval, interval};

pub struct Supervisor {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Supervisor {
    /// `None` without `NOTIFY_SOCKET`: nobody wants to know.
    pub fn of_this_process() -> Option<Arc<Self>> {
        let path = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let open = || {
            let address = match path.as_encoded_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(&path)?,
            };
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold up the committer.
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(Self { socket, address })
        };
        open().map(Arc::new).inspect_err(|error| log::warn!("NOTIFY_SOCKET is {path:?}: {error}")).ok()
    }

    pub fn ready(&self) {
        self.say("READY=1");
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address) {
            log::warn!("cannot tell the service manager {state}: {error}");
        }
    }
}

/// Fed by a loop that must not stand still; the service manager restarts a process whose watchdog starves.
pub struct Watchdog {
    supervisor: Arc<Supervisor>,
    every: Duration,
    fed: Instant,
    ticks: Interval,
}

impl Watchdog {
    /// `None` without `WATCHDOG_USEC`, or if it is another process's.
    pub fn of(supervisor: &Arc<Supervisor>) -> Option<Self> {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let limit = number("WATCHDOG_USEC").filter(|limit| *limit > 0)?;
        if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(process::id())) {
            return None;
        }
        // Half of it is the most that sd_watchdog_enabled(3) allows; a turn of the loop takes time, too.
        let every = Duration::from_micros(limit) / 4;
        Some(Self { supervisor: Arc::clone(supervisor), every, fed: Instant::now(), ticks: interval(every) })
    }

    /// Once a turn. Most turns are too soon after the last to say it again.
    pub fn feed(&mut self) {
        if self.fed.elapsed() >= self.every {
            self.fed = Instant::now();
            self.supervisor.say("WATCHDOG=1");
        }
    }

    /// What comes, or `None` when the next turn is due without it.
    pub async fn wait_for<T: Send>(&mut self, coming: impl Future<Output = T> + Send) -> Option<T> {
        let due = async {
            self.ticks.next().await;
            None
        };
        async { Some(coming.await) }.race(due).await
    }
}
