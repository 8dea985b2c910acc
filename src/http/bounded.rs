//! A stream that stops a peer that sends too much: bytes that the parser above it cannot bear (it reads to
//! the next line feed, however far away that is, and panics at a header that is not ASCII), or silence.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_std::io::{Read, Write};
use async_std::stream::{Interval, Stream, interval};

/// Bytes of a head that is read at once: as many as async-h1 takes.
const AT_ONCE: usize = 8 * 1024;

thread_local! {
    /// All connections of a thread have it in turn.
    static BUFFER: RefCell<[u8; AT_ONCE]> = const { RefCell::new([0; AT_ONCE]) };
}

#[derive(Clone)]
pub struct Bounded<S> {
    stream: S,
    /// Shared, because the parser works on a clone.
    bounds: Arc<Bounds>,
}

struct Bounds {
    /// Bytes that may still be read.
    left: AtomicUsize,
    /// Ticks now and then for as long as the connection lasts, which costs less than a timer per request.
    ticks: Mutex<Interval>,
    heard_since_tick: AtomicBool,
    /// Bytes that were read, and are to be read again.
    unread: Mutex<Vec<u8>>,
}

impl<S> Bounded<S> {
    /// Nothing may be read before [`Bounded::allow`]. A peer that says nothing from one tick to the next,
    /// so for one to two times `patience`, is given up.
    pub fn new(stream: S, patience: Duration) -> Self {
        let ticks = Mutex::new(interval(patience));
        let heard_since_tick = AtomicBool::new(true);
        let (left, unread) = (AtomicUsize::new(0), Mutex::default());
        Self { stream, bounds: Arc::new(Bounds { left, ticks, heard_since_tick, unread }) }
    }

    /// The stream without bounds.
    pub fn inner(&self) -> &S {
        &self.stream
    }

    /// Starts a new request, which may have this many bytes.
    pub fn allow(&self, bytes: usize) {
        self.bounds.left.store(bytes, Ordering::Relaxed);
    }

    /// The next reader begins with these bytes, which were read already.
    pub fn unread(&self, bytes: Vec<u8>) {
        *self.bounds.unread() = bytes;
    }
}

impl<S: Read + Unpin> Bounded<S> {
    /// The bytes that come next, as many as there are at once; none at the end. The wait for them takes no memory.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let read = ready!(self.poll_bytes(cx, &mut buffer[..]));
                Poll::Ready(read.map(|len| buffer[..len].to_vec()))
            })
        })
        .await
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let left = self.bounds.left.load(Ordering::Relaxed);
        if left == 0 {
            return refused("the request is too large");
        }
        let len = buffer.len().min(left);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer[..len]);
        match read {
            Poll::Pending => return self.bounds.poll_silence(cx).map(Err),
            Poll::Ready(Ok(read)) => {
                self.bounds.left.store(left - read, Ordering::Relaxed);
                self.bounds.heard_since_tick.store(true, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
        }
        read
    }
}

fn refused(why: &'static str) -> Poll<io::Result<usize>> {
    Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)))
}

impl Bounds {
    fn unread(&self) -> MutexGuard<'_, Vec<u8>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready with an error once the peer was silent for too long.
    fn poll_silence(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        while Pin::new(&mut *ticks).poll_next(cx).is_ready() {
            if !self.heard_since_tick.swap(false, Ordering::Relaxed) {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
        }
        Poll::Pending
    }
}

impl<S: Read + Unpin> Read for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut unread = self.bounds.unread();
        let len = buffer.len().min(unread.len());
        buffer[..len].copy_from_slice(&unread[..len]);
        unread.drain(..len);
        drop(unread);
        let read = if len > 0 { len } else { ready!(self.poll_bytes(cx, buffer))? };
        if !buffer[..read].is_ascii() {
            return refused("a byte is not ASCII");
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: Write + Unpin> Write for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
