//! The calls of the board: the answer to each request. [`app`] needs no port.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_std::future::timeout;
use serde_json::{Value, json};
use tide::http::{Headers, Method};
use tide::{Request, Response, StatusCode};

use super::people::{Event, Look, People};
use super::query::{self, Parameters, cursor, decode, gone};
use super::readers::{Reader, Readers};
use super::stream::{self, Streams};
use super::{history, metrics, page, time};
use crate::http::identity::Forwarded;
use crate::http::problem::{Problem, Program, answer};
use crate::protocol::status::Email;
use crate::store::Store;

/// How long an answer waits for the row of somebody whom the board does not know.
const READ: Duration = Duration::from_secs(1);
/// Changes in one answer.
const MOST_CHANGES: usize = 1000;

pub struct State {
    pub people: Arc<People>,
    pub readers: Arc<Readers>,
    pub streams: Arc<Streams>,
    pub store: Store,
    pub started: SystemTime,
}

impl State {
    pub fn new(people: Arc<People>, readers: Readers, store: Store) -> Self {
        Self {
            people,
            readers: Arc::new(readers),
            streams: Arc::default(),
            store,
            started: SystemTime::now(),
        }
    }
}

impl Program for Arc<State> {
    const NAME: &'static str = "rollcall-board";

    fn knows(&self, forwarded: &Forwarded<'_>) -> bool {
        self.readers.knows(forwarded)
    }

    fn knows_reader(&self, headers: &Headers) -> bool {
        self.readers.is_host(headers)
    }
}

/// The router: every path and method, without a port.
pub fn app(state: State) -> tide::Server<Arc<State>> {
    let mut app = tide::with_state(Arc::new(state));
    app.at("/").all(|request| answer(request, front));
    app.at("/api/who").all(|request| answer(request, who));
    app.at("/api/who/:email").all(|request| answer(request, person));
    app.at("/api/me").all(|request| answer(request, me));
    app.at("/api/counts").all(|request| answer(request, counts));
    app.at("/api/changes").all(|request| answer(request, changes));
    app.at("/api/stream").all(|request| answer(request, stream::stream));
    app.at("/api/history/:email").all(|request| answer(request, history::history));
    app.at("/api/openapi.json").all(|request| answer(request, openapi));
    app.at("/metrics").all(|request| answer(request, metrics::metrics));
    for (path, ..) in page::FILES {
        app.at(path).all(|request| answer(request, file));
    }
    app.at("/code").all(|request| answer(request, code));
    app.at("/livez").get(|_| async { Ok(Response::new(StatusCode::NoContent)) });
    app.at("/readyz").get(|request| answer(request, readyz));
    app.at("/*").all(|request| answer(request, elsewhere));
    app
}

/// The reader of a call that only reads.
pub async fn reader(request: &Request<Arc<State>>) -> Result<Reader, Problem> {
    let reader = request.state().readers.reader(request).await?;
    match request.method() {
        Method::Get | Method::Head => Ok(reader),
        _ => Err(Problem::new(StatusCode::MethodNotAllowed, "only GET and HEAD are answered here")
            .with_header("Allow", "GET, HEAD")),
    }
}

async fn front(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let shown = shown(&request).await;
    match page::is_for_a_browser(request.header("Accept")) {
        true => shown.map_err(|problem| {
            let page = page::problem(&problem);
            problem.with_page(page)
        }),
        false => shown,
    }
}

async fn shown(request: &Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    let readers = &state.readers;
    let parameters = Parameters::of(request.url().query(), &["code", "state", "q", "sort", "after"])?;
    if let Some(code) = parameters.get("code")
        && Readers::is_direct(request)
        && request.method() == Method::Get
    {
        readers.must_be_here(request)?;
        return Ok(Response::builder(StatusCode::SeeOther)
            .header("Location", "/")
            .header("Set-Cookie", readers.redeem(code)?)
            .header("Cache-Control", "no-store")
            .header("Referrer-Policy", "no-referrer")
            .build());
    }
    let reader = reader(request).await?;
    readers.must_see_all(&reader).await?;
    let query = parameters.list(&state.people)?;
    let (look, people, end) = state.people.list(&query).ok_or_else(not_ready)?;
    let next = end.map(|end| cursor(&state.people, query.sort, &end));
    let view = page::View {
        state: parameters.get("state").unwrap_or_default(),
        q: parameters.get("q").unwrap_or_default(),
        sort: query.sort,
        is_later: query.after.is_some(),
    };
    Ok(page::page(view, &look, &people, next.as_deref()))
}

/// A file of the page.
async fn file(request: Request<Arc<State>>) -> Result<Response, Problem> {
    reader(&request).await?;
    let known = request.header("If-None-Match").map(|values| values.last().as_str());
    let found = page::FILES.iter().find(|(path, ..)| *path == request.url().path());
    let (_, kind, text) = found.expect("the router knows these paths alone");
    Ok(page::file(kind, text, known))
}

async fn who(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    let reader = reader(&request).await?;
    state.readers.must_see_all(&reader).await?;
    let parameters = Parameters::of(request.url().query(), &["state", "q", "sort", "limit", "after"])?;
    let query = parameters.list(&state.people)?;
    let (look, people, end) = state.people.list(&query).ok_or_else(not_ready)?;
    let position = look.position;
    let mut body = head(&state.people, look);
    body["people"] = people.into();
    body["next"] = end.map(|end| cursor(&state.people, query.sort, &end)).into();
    Ok(fresh(&request, position, &body))
}

async fn person(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let reader = reader(&request).await?;
    Parameters::of(request.url().query(), &[])?;
    let email = email(&request)?;
    one(&request, &reader, &email).await
}

/// The email in the path.
pub fn email(request: &Request<Arc<State>>) -> Result<Email, Problem> {
    let text = decode(request.param("email").unwrap_or_default())?;
    Email::new(&text).map_err(|error| Problem::new(StatusCode::BadRequest, error.to_string()))
}

async fn me(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let reader = reader(&request).await?;
    Parameters::of(request.url().query(), &[])?;
    let Some(email) = reader.email() else {
        return Err(Problem::new(StatusCode::NotFound, "the token is nobody's; a certificate is somebody's"));
    };
    one(&request, &reader, email).await
}

async fn one(request: &Request<Arc<State>>, reader: &Reader, email: &Email) -> Result<Response, Problem> {
    let state = request.state();
    state.readers.must_see(reader, email).await?;
    let people = &state.people;
    people.look().ok_or_else(not_ready)?;
    if people.person(email.as_str()).1.is_none() {
        let woken = people.wait();
        // Perhaps enrolled a moment ago.
        people.ask_for(email);
        let _ = timeout(READ, woken.recv()).await;
    }
    match people.person(email.as_str()) {
        (position, Some(person)) => Ok(fresh(request, position, &person)),
        (_, None) => Err(Problem::new(StatusCode::NotFound, format!("{email} is not enrolled"))),
    }
}

async fn counts(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    let reader = reader(&request).await?;
    state.readers.must_see_all(&reader).await?;
    Parameters::of(request.url().query(), &[])?;
    let look = state.people.look().ok_or_else(not_ready)?;
    let position = look.position;
    Ok(fresh(&request, position, &head(&state.people, look)))
}

async fn changes(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    let people = &state.people;
    let reader = reader(&request).await?;
    state.readers.must_see_all(&reader).await?;
    let parameters = Parameters::of(request.url().query(), &["after", "wait"])?;
    let Some(after) = parameters.get("after") else {
        return Err(Problem::new(
            StatusCode::BadRequest,
            "after is missing: the position of an earlier answer",
        ));
    };
    let position = query::position(people, after)?;
    let end = Instant::now() + parameters.wait()?;
    let woken = people.wait();
    let (events, position) = loop {
        let (events, position) = people.since(position, MOST_CHANGES).ok_or_else(gone)?;
        let left = end.saturating_duration_since(Instant::now());
        // An error: nothing changed in time, or the board ends.
        if !events.is_empty() || !matches!(timeout(left, woken.recv()).await, Ok(Ok(()))) {
            break (events, position);
        }
    };
    // Whoever waited may have lost the right meanwhile.
    state.readers.must_see_all(&reader).await?;
    let look = people.look().ok_or_else(not_ready)?;
    let mut body = head(people, look);
    body["position"] = people.name(position).into();
    body["changes"] = Value::Array(
        events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::State(json) => serde_json::from_str(json).ok(),
                Event::Server(_) => None,
            })
            .collect(),
    );
    Ok(uncached(&body))
}

async fn openapi(request: Request<Arc<State>>) -> Result<Response, Problem> {
    reader(&request).await?;
    Ok(Response::builder(StatusCode::Ok)
        .content_type("application/json")
        .header("Cache-Control", "no-cache")
        .body(include_str!("openapi.json"))
        .build())
}

/// `POST /code`: for `rollcall-board link`, with the token itself.
async fn code(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let readers = &request.state().readers;
    readers.reader(&request).await?;
    if !readers.has_token(&request) {
        return elsewhere(request).await;
    }
    if request.method() != Method::Post {
        return Err(Problem::new(StatusCode::MethodNotAllowed, "only POST is answered here")
            .with_header("Allow", "POST"));
    }
    match readers.new_code() {
        Ok(code) => Ok(uncached(&json!({ "code": code }))),
        Err(error) => Err(Problem::new(StatusCode::InternalServerError, error.to_string())),
    }
}

/// Everybody has been read, and the database answered lately.
async fn readyz(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let is_ready = request.state().people.look().is_some();
    // No problem, which would be a line in the log for each look of a script that waits.
    Ok(Response::new(if is_ready { StatusCode::NoContent } else { StatusCode::ServiceUnavailable }))
}

pub async fn elsewhere(request: Request<Arc<State>>) -> Result<Response, Problem> {
    request.state().readers.reader(&request).await?;
    Err(Problem::new(StatusCode::NotFound, "there is nothing here; /api/openapi.json has the calls"))
}

pub fn not_ready() -> Problem {
    Problem::new(StatusCode::ServiceUnavailable, "the board has not read everybody yet; try again")
        .with_header("Retry-After", "1")
}

/// The part that all answers about everybody have.
pub fn head(people: &People, look: Look) -> Value {
    json!({
        "position": people.name(look.position),
        "as_of": time(look.as_of_ns),
        "counts": look.counts.json(),
        "servers": look.servers,
    })
}

/// An answer that holds for as long as nothing changes.
fn fresh(request: &Request<Arc<State>>, position: u64, body: &Value) -> Response {
    let tag = format!("\"{}\"", request.state().people.name(position));
    let asked: Vec<&str> = request
        .header("If-None-Match")
        .map(|values| values.iter().flat_map(|value| value.as_str().split(',')).collect())
        .unwrap_or_default();
    let is_known = asked.iter().any(|asked| {
        let asked = asked.trim();
        asked == "*" || asked.strip_prefix("W/").unwrap_or(asked) == tag
    });
    let response = match is_known {
        true => Response::builder(StatusCode::NotModified),
        false => Response::builder(StatusCode::Ok).body(body.to_string()).content_type("application/json"),
    };
    response.header("ETag", tag).header("Cache-Control", "private, no-cache").build()
}

pub fn uncached(body: &Value) -> Response {
    Response::builder(StatusCode::Ok)
        .body(body.to_string())
        .content_type("application/json")
        .header("Cache-Control", "no-store")
        .build()
}
