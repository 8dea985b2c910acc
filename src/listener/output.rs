//! Standard output. A listener waits for its reader; meanwhile the kernel keeps datagrams, or drops and counts them. A relay
//! must not wait: a thread of its own prints, and a page for which there is no room is given up and counted.

use std::io::{self, StdoutLock, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that wait for the reader of a relay's output.
const ROOM: usize = 4 << 20;
/// How long a relay that ends waits for its reader.
const FAREWELL: Duration = Duration::from_secs(1);

pub enum Output {
    Waiting(StdoutLock<'static>),
    Apart(Apart),
}

/// A thread that prints.
pub struct Apart {
    pages: Sender<Vec<u8>>,
    /// Bytes that were handed over and are not written.
    unwritten: Arc<AtomicUsize>,
    room: usize,
    /// `None`: its error was told.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Output {
    pub fn new(is_relay: bool) -> Self {
        match is_relay {
            true => Self::Apart(Apart::new(io::stdout(), ROOM)),
            false => Self::Waiting(io::stdout().lock()),
        }
    }

    /// `false`: there is no room for it, and nobody will see it.
    pub fn write(&mut self, page: &[u8]) -> io::Result<bool> {
        match self {
            Self::Waiting(out) => out.write_all(page).and_then(|()| out.flush()).map(|()| true),
            Self::Apart(apart) => apart.write(page),
        }
    }

    /// Has the reader, or the kernel, everything?
    pub fn is_written(&self) -> bool {
        match self {
            Self::Waiting(_) => true,
            Self::Apart(apart) => apart.unwritten.load(Ordering::Acquire) == 0,
        }
    }

    /// Waits a moment until it is written.
    pub fn finish(&mut self) -> io::Result<()> {
        let end = Instant::now() + FAREWELL;
        while !self.is_written() && Instant::now() < end {
            // An error ends the thread.
            self.write(&[])?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Apart {
    fn new(mut out: impl Write + Send + 'static, room: usize) -> Self {
        let (pages, theirs) = mpsc::channel::<Vec<u8>>();
        let unwritten = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&unwritten);
        let thread = thread::spawn(move || {
            for page in theirs {
                out.write_all(&page).and_then(|()| out.flush())?;
                written.fetch_sub(page.len(), Ordering::Release);
            }
            Ok(())
        });
        Self { pages, unwritten, room, thread: Some(thread) }
    }

    fn write(&mut self, page: &[u8]) -> io::Result<bool> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let ended = self.thread.take().and_then(|thread| thread.join().ok());
            return match ended {
                Some(Err(error)) => Err(error),
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            };
        }
        if self.unwritten.load(Ordering::Acquire) + page.len() > self.room {
            return Ok(false);
        }
        self.unwritten.fetch_add(page.len(), Ordering::AcqRel);
        // The next call tells of a thread that has just ended.
        let _ = self.pages.send(page.to_owned());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn unread_output_is_given_up_and_the_rest_comes() {
        let (mut reader, writer) = io::pipe().unwrap();
        let page = vec![b'x'; 64 << 10];
        let mut apart = Apart::new(writer, 4 * page.len());
        let taken = (0..100).filter(|_| apart.write(&page).unwrap()).count();
        // The kernel holds some of it, too.
        assert!((4..20).contains(&taken), "{taken}");
        let mut out = Output::Apart(apart);
        assert!(!out.is_written());
        let reading = thread::spawn(move || {
            let mut read = vec![0; taken * page.len()];
            reader.read_exact(&mut read).unwrap();
            reader
        });
        drop(reading.join().unwrap());
        let end = Instant::now() + Duration::from_secs(30);
        while !out.is_written() {
            assert!(Instant::now() < end);
            out.finish().unwrap();
        }
        let error = loop {
            match out.write(b"nobody") {
                Err(error) => break error,
                Ok(_) => assert!(Instant::now() < end),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(out.write(b"").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
