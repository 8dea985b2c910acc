//! `GET /api/stream`: server-sent events. A stream holds its position and reads the log of changes from there; so one that
//! is not read costs nobody anything, and is dropped.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::io::{BufReader, Read};
use async_std::stream::Stream;
use async_std::task;
use serde_json::json;
use tide::http::Method;
use tide::{Body, Request, Response, StatusCode};

use super::people::{Event, People};
use super::query::Parameters;
use super::readers::{Reader, Readers};
use super::routes::{State, head, not_ready, reader};
use super::time;
use crate::cli::now_ns;
use crate::http::problem::Problem;

/// A comment and a ping show that the connection lives.
const COMMENT: Duration = Duration::from_secs(15);
/// How often it is asked whether the reader may still read.
const CHECK: Duration = Duration::from_secs(10);
/// How long a reader may leave a part unread.
const UNREAD: Duration = Duration::from_secs(10);
/// Events that are written at once.
const MOST: usize = 100;
/// Streams at once, and those of one person.
const MAX: usize = 1000;
const MAX_PER_PERSON: usize = 20;

/// How many each person reads.
#[derive(Default)]
pub struct Streams(Mutex<HashMap<String, usize>>);

/// One of them, counted for as long as it lives.
struct Place {
    streams: Arc<Streams>,
    reader: String,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host itself is bounded by the sum alone.
    fn enter(self: &Arc<Self>, reader: &Reader) -> Result<Place, Problem> {
        let mut streams = self.lock();
        let name = reader.email().map(|email| email.as_str().to_owned()).unwrap_or_default();
        let own = streams.get(&name).copied().unwrap_or_default();
        if streams.values().sum::<usize>() >= MAX || (own >= MAX_PER_PERSON && !name.is_empty()) {
            return Err(Problem::new(
                StatusCode::TooManyRequests,
                format!(
                    "too many streams are open: {MAX_PER_PERSON} of one person, and {MAX} in all; end some"
                ),
            )
            .with_header("Retry-After", "10"));
        }
        *streams.entry(name.clone()).or_default() += 1;
        Ok(Place { streams: Arc::clone(self), reader: name })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        if let Some(own) = streams.get_mut(&self.reader) {
            *own -= 1;
            if *own == 0 {
                streams.remove(&self.reader);
            }
        }
    }
}

pub async fn stream(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    let reader = reader(&request).await?;
    state.readers.must_see_all(&reader).await?;
    let parameters = Parameters::of(request.url().query(), &["after"])?;
    let present = state.people.look().ok_or_else(not_ready)?.position;
    let response = Response::builder(StatusCode::Ok)
        .content_type("text/event-stream")
        .header("Cache-Control", "no-store")
        .header("X-Accel-Buffering", "no");
    if request.method() == Method::Head {
        return Ok(response.build());
    }
    let last = request.header("Last-Event-ID").map(|values| values.last().as_str());
    // A position that nobody knows any more is too old.
    let position = match last.or(parameters.get("after")) {
        Some(name) => state.people.number(name),
        None => Some(present),
    };
    let place = state.streams.enter(&reader)?;
    let (write, parts) = channel::bounded(1);
    let feed = Feed { people: Arc::clone(&state.people), readers: Arc::clone(&state.readers), reader, write };
    task::spawn(async move {
        let _place = place;
        feed.run(position).await;
    });
    let body = BufReader::new(Parts { parts, part: Vec::new() });
    Ok(response.body(Body::from_reader(body, None)).build())
}

/// The body: the parts as they come, until their sender is gone.
struct Parts {
    parts: Receiver<Vec<u8>>,
    /// The rest of the last one.
    part: Vec<u8>,
}

impl Read for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.part.is_empty() {
            self.part = ready!(Pin::new(&mut self.parts).poll_next(cx)).unwrap_or_default();
        }
        let len = self.part.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.part[..len]);
        self.part.drain(..len);
        Poll::Ready(Ok(len))
    }
}

struct Feed {
    people: Arc<People>,
    readers: Arc<Readers>,
    reader: Reader,
    write: Sender<Vec<u8>>,
}

impl Feed {
    /// Writes until the reader goes, may no longer read, or the board ends.
    async fn run(self, position: Option<u64>) {
        let woken = self.people.wait();
        let mut text = "retry: 2000\n\n".to_owned();
        self.ping(&mut text);
        let mut position = self.begin(position, &mut text);
        let (mut comment, mut check) = (Instant::now() + COMMENT, Instant::now() + CHECK);
        loop {
            match self.people.since(position, MOST) {
                Some((events, end)) if !events.is_empty() => {
                    for (position, event) in events {
                        let (kind, json) = match &event {
                            Event::State(json) => ("state", json),
                            Event::Server(json) => ("server", json),
                        };
                        self.say(&mut text, kind, position, json);
                    }
                    position = end;
                    self.count(&mut text, position);
                }
                Some(_) => {}
                None => position = self.begin(None, &mut text),
            }
            let now = Instant::now();
            if now >= comment {
                comment = now + COMMENT;
                self.ping(&mut text);
            }
            if now >= check {
                check = now + CHECK;
                if self.readers.must_see_all(&self.reader).await.is_err() {
                    return;
                }
            }
            if !text.is_empty() {
                let part = std::mem::take(&mut text).into_bytes();
                if !matches!(timeout(UNREAD, self.write.send(part)).await, Ok(Ok(()))) {
                    return;
                }
                continue;
            }
            let next = comment.min(check).saturating_duration_since(now);
            // Closed: the board ends.
            if let Ok(Err(_)) = timeout(next, woken.recv()).await {
                return;
            }
        }
    }

    /// Where the stream goes on: `None` is no place any more, so that the reader reads everybody again.
    fn begin(&self, position: Option<u64>, text: &mut String) -> u64 {
        let present = self.people.look().map_or(0, |look| look.position);
        match position.filter(|position| self.people.since(*position, 0).is_some()) {
            Some(position) => {
                if position == present {
                    self.count(text, position);
                }
                position
            }
            None => {
                self.say(text, "reset", present, "{}");
                self.count(text, present);
                present
            }
        }
    }

    fn count(&self, text: &mut String, position: u64) {
        if let Some(look) = self.people.look() {
            let counts = head(&self.people, look)["counts"].to_string();
            self.say(text, "counts", position, &counts);
        }
    }

    /// A comment, which no page can see, and for pages an event: the time, and that of the last good look at the database.
    fn ping(&self, text: &mut String) {
        let as_of = self.people.look().map(|look| time(look.as_of_ns));
        let json = json!({ "now": time(now_ns()), "as_of": as_of });
        *text += &format!(":\n\nevent: ping\ndata: {json}\n\n");
    }

    fn say(&self, text: &mut String, kind: &str, position: u64, json: &str) {
        *text += &format!("id: {}\nevent: {kind}\ndata: {json}\n\n", self.people.name(position));
    }
}
