//! The loop that serves accepted connections: it bounds each peer, and drains the requests under way at the end.

use std::fmt::Display;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_h1::server::{Encoder, decode};
use async_std::future::timeout;
use async_std::io::{Read, ReadExt, Write, WriteExt};
use async_std::net::{TcpListener, TcpStream};
use async_std::os::unix::net::{UnixListener, UnixStream};
use async_std::prelude::FutureExt;
use async_std::task;
use tide::StatusCode;
use tide::http::Method;

use super::bounded::Bounded;
use super::identity::Forwarded;
use super::newcomers::{Newcomer, Newcomers};
use super::outage::Outage;
use super::problem::{Problem, Program};
use super::refusals;
use super::usual;

/// A connection that says nothing for longer than this, and at the latest after twice as long, is closed.
/// nginx closes an idle connection after half of it, so the two never meet in the middle.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one request, head and body. nginx forwards a body of 8 kB at most, and a head that is smaller.
const MAX_REQUEST: usize = 16 * 1024;
/// Bytes of a stream that are written at once.
const PART: usize = 8 * 1024;
const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const NO_CONTENT_AND_CLOSE: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
/// How long a shutdown waits for the requests that are being answered.
const GRACE: Duration = Duration::from_secs(10);

/// Where connections come from. Both kinds behave the same from the first byte on.
pub trait Listener {
    type Stream: Stream;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// One connection. A clone is the same one.
pub trait Stream: Read + Write + Clone + Send + Sync + Unpin + 'static {
    fn shutdown(&self);
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        // An answer is one small write: waiting for more to fill the packet would only delay it.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Stream for TcpStream {
    fn shutdown(&self) {
        let _ = TcpStream::shutdown(self, Shutdown::Both);
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

impl Stream for UnixStream {
    fn shutdown(&self) {
        let _ = UnixStream::shutdown(self, Shutdown::Both);
    }
}

/// Answers every connection until `shutdown` resolves; then stops accepting, lets the requests
/// that are being answered finish, and returns. Connections without one are left to end with the process.
///
/// A connection is kept after its first answer only if the program knows the sender of that request. Any user of this host
/// can open others. Only so many of them are there at once, and none for long. `accepts` says whether the last could be
/// taken.
pub async fn serve<L: Listener, T: Program + Clone + Send + Sync + 'static>(
    listener: L,
    app: tide::Server<T>,
    accepts: &AtomicBool,
    shutdown: impl Future<Output = ()> + Send,
) {
    let progress = Arc::new(Progress::default());
    let newcomers = Arc::new(Newcomers::default());
    let accepting = async {
        let outage = Outage::of("accepting connections");
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    outage.worked();
                    accepts.store(true, Ordering::Relaxed);
                    let newcomer = newcomers.admit(stream.clone());
                    task::spawn(converse(stream, newcomer, app.clone(), Arc::clone(&progress)));
                }
                Err(error) => {
                    outage.failed(&error);
                    accepts.store(false, Ordering::Relaxed);
                    // Out of file descriptors, most likely: they come back as connections end.
                    task::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    accepting.race(shutdown).await;
    drop(listener);
    progress.stopping.store(true, Ordering::SeqCst);
    let end = Instant::now() + GRACE;
    while progress.unanswered.load(Ordering::SeqCst) > 0 {
        if Instant::now() > end {
            log::warn!("some requests were still unanswered {GRACE:?} after the shutdown began");
            return;
        }
        task::sleep(Duration::from_millis(5)).await;
    }
}

/// The state that the connections and the shutdown share.
#[derive(Default)]
struct Progress {
    stopping: AtomicBool,
    unanswered: AtomicUsize,
}

/// Counts a request as unanswered for as long as it lives, also when its task panics.
struct Unanswered<'a>(&'a Progress);

impl<'a> Unanswered<'a> {
    fn count(progress: &'a Progress) -> Self {
        progress.unanswered.fetch_add(1, Ordering::SeqCst);
        Self(progress)
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One connection: requests one after another until it closes, misbehaves or the server stops.
///
/// nginx keeps hundreds of them, and opens as many more as requests wait in a stall of the database. So one that waits for
/// a request holds no buffer, one that waits for the answer to a usual request holds that request alone, and whatever
/// async-h1 needs is in a future of its own.
async fn converse<S: Stream, T: Program + Clone + Send + Sync + 'static>(
    stream: S,
    newcomer: Newcomer<S>,
    app: tide::Server<T>,
    progress: Arc<Progress>,
) {
    let mut stream = Bounded::new(stream, PATIENCE);
    let mut newcomer = Some(newcomer);
    loop {
        stream.allow(MAX_REQUEST);
        let head = match in_time(newcomer.as_ref(), stream.next()).await {
            Ok(head) if !head.is_empty() => head,
            _ => return,
        };
        let usual = T::USUAL
            .and_then(|line| usual::read(line, &head))
            .filter(|forwarded| newcomer.is_none() || app.state().knows(forwarded));
        let is_kept = match usual {
            Some(forwarded) => {
                newcomer = None;
                answer_usual(&mut stream, &forwarded, app.state(), &progress).await
            }
            None => {
                stream.unread(head);
                Box::pin(answer_other(&mut stream, &mut newcomer, &app, &progress)).await
            }
        };
        if !is_kept {
            return;
        }
    }
}

/// The end of this work, which a newcomer may not put off.
async fn in_time<S, T, E: From<io::Error>>(
    newcomer: Option<&Newcomer<S>>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match newcomer {
        None => work.await,
        Some(newcomer) => timeout(newcomer.time_left(), work)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())),
    }
}

/// Answers any request, of which the first bytes were read. Is the connection kept?
async fn answer_other<S: Stream, T: Program + Clone + Send + Sync + 'static>(
    stream: &mut Bounded<S>,
    newcomer: &mut Option<Newcomer<S>>,
    app: &tide::Server<T>,
    progress: &Progress,
) -> bool {
    let decoded = in_time(newcomer.as_ref(), decode(stream.clone())).await;
    let _unanswered = Unanswered::count(progress);
    let (method, response, keep) = match decoded {
        Ok(None) => return false,
        Ok(Some((request, _body))) => {
            let method = request.method();
            let program = app.state();
            if newcomer.is_some()
                && (program.knows(&Forwarded::of(&request)) || program.knows_reader(request.as_ref()))
            {
                *newcomer = None;
            }
            // Only a renewal reads its body. The rest of one would look like the next request.
            let asked_to_close = request
                .header("Connection")
                .is_some_and(|value| value.as_str().eq_ignore_ascii_case("close"));
            let keep = newcomer.is_none() && request.is_empty() == Some(true) && !asked_to_close;
            let response: tide::http::Response =
                app.respond(request).await.unwrap_or_else(|error| tide::http::Response::new(error.status()));
            (method, response, keep)
        }
        Err(error) if is_silence(&error) => return false,
        Err(error) => (Method::Get, malformed::<T>(&error), false),
    };
    // Asked after the answer is ready: the server may have begun to stop meanwhile.
    let keep = keep && !progress.stopping.load(Ordering::SeqCst);
    // A peer that does not read its answer holds the connection no longer than one that does not ask.
    let written = match response.len() {
        Some(_) => timeout(ANSWER_TIMEOUT, write_answer(stream, method, response, keep)).await,
        None => {
            write_stream(stream.inner().clone(), method, response).await;
            return false;
        }
    };
    matches!(written, Ok(Ok(()))) && keep
}

/// Answers the usual request. Is the connection kept?
async fn answer_usual<S: Stream, T: Program>(
    stream: &mut Bounded<S>,
    forwarded: &Forwarded<'_>,
    program: &T,
    progress: &Progress,
) -> bool {
    let _unanswered = Unanswered::count(progress);
    let response = program.answer_usual(forwarded).await;
    let keep = !progress.stopping.load(Ordering::SeqCst);
    let writing = async {
        match response {
            None => stream.write_all(no_content(keep)).await,
            Some(response) => Box::pin(write_answer(stream, Method::Patch, response.into(), keep)).await,
        }
    };
    keep & matches!(timeout(ANSWER_TIMEOUT, writing).await, Ok(Ok(())))
}

/// The answer of nearly every request is always the same, so it is ready: no headers are collected and no
/// buffer is filled for it. A `Date` is nginx's to add (RFC 9110, section 6.6.1).
async fn write_answer<S: Write + Unpin>(
    stream: &mut S,
    method: Method,
    mut response: tide::http::Response,
    keep: bool,
) -> io::Result<()> {
    if response.status() == StatusCode::NoContent {
        let ready = no_content(keep);
        if response.iter().next().is_none() {
            return stream.write_all(ready).await;
        }
        let mut answer = ready[..ready.len() - 2].to_vec();
        for (name, values) in response.iter() {
            for value in values {
                answer.extend([name.as_str(), ": ", value.as_str(), "\r\n"].concat().bytes());
            }
        }
        answer.extend(b"\r\n");
        return stream.write_all(&answer).await;
    }
    if !keep {
        response.insert_header("Connection", "close");
    }
    async_std::io::copy(Encoder::new(response, method), stream).await.map(|_| ())
}

fn no_content(keep: bool) -> &'static [u8] {
    if keep { NO_CONTENT } else { NO_CONTENT_AND_CLOSE }
}

/// A body without a length lasts for as long as its source and its reader, who takes each part of it in time.
async fn write_stream<S: Stream>(mut stream: S, method: Method, mut response: tide::http::Response) {
    response.insert_header("Connection", "close");
    let mut peer = stream.clone();
    // Nothing more is awaited from the reader, so that this ends when it goes.
    let gone = async {
        let _ = peer.read(&mut [0]).await;
    };
    let writing = async {
        let mut encoder = Encoder::new(response, method);
        let mut part = vec![0; PART];
        loop {
            let len = encoder.read(&mut part).await.unwrap_or_default();
            let written = timeout(ANSWER_TIMEOUT, stream.write_all(&part[..len])).await;
            if len == 0 || !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    };
    gone.race(writing).await;
}

/// Did the peer say nothing, or go? Then there is nobody to answer.
fn is_silence(error: &tide::http::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut))
}

fn malformed<T: Program>(error: &dyn Display) -> tide::http::Response {
    let problem = Problem::new(StatusCode::BadRequest, format!("not an HTTP/1.1 request: {error}"));
    refusals::log(format_args!("{}: {}", problem.status, problem.detail));
    problem.by::<T>().into()
}
