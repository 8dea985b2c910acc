//! A stream that stops a peer whose bytes the parser above it cannot bear: it reads to the next line
//! feed, however far away that is, and panics at a header that is not ASCII.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_std::io::{Read, Write};

#[derive(Clone)]
pub struct Bounded<S> {
    stream: S,
    /// Bytes that may still be read; shared, because the parser works on a clone.
    left: Arc<AtomicUsize>,
}

impl<S> Bounded<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, left: Arc::new(AtomicUsize::new(0)) }
    }

    /// Starts a new request, which may have this many bytes.
    pub fn allow(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }
}

impl<S: Read + Unpin> Read for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too large")));
        }
        let len = buffer.len().min(left);
        let poll = Pin::new(&mut self.stream).poll_read(cx, &mut buffer[..len]);
        if let Poll::Ready(Ok(read)) = poll {
            if !buffer[..read].is_ascii() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a byte is not ASCII")));
            }
            self.left.store(left - read, Ordering::Relaxed);
        }
        poll
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
