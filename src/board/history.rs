//! `GET /api/history/EMAIL`.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tide::{Request, Response, StatusCode};

use super::query::Parameters;
use super::routes::{State, email, reader, uncached};
use super::time;
use crate::http::problem::Problem;
use crate::store::Error;
use crate::store::events::Event;

/// Events of one answer, the newest.
const MOST: u32 = 10_000;

pub async fn history(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    let reader = reader(&request).await?;
    let parameters = Parameters::of(request.url().query(), &["since"])?;
    let email = email(&request)?;
    state.readers.must_see(&reader, &email).await?;
    let since_ns = parameters.get("since").map_or(Ok(0), since)?;
    match state.store.history(&email, since_ns, MOST).await {
        Ok(events) => {
            let events: Vec<Value> = events.iter().map(describe).collect();
            Ok(uncached(&json!({ "email": email.as_str(), "events": events })))
        }
        Err(Error::NotEnrolled(_)) => {
            Err(Problem::new(StatusCode::NotFound, format!("{email} is not enrolled")))
        }
        Err(error) => {
            log::warn!("the history of somebody cannot be read: {error}");
            Err(Problem::new(
                StatusCode::ServiceUnavailable,
                "the database is unreachable or too slow; try again",
            )
            .with_header("Retry-After", "2"))
        }
    }
}

fn since(text: &str) -> Result<u64, Problem> {
    let time = humantime::parse_rfc3339(text).ok();
    let ns = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    ns.map(|ns| u64::try_from(ns.as_nanos()).unwrap_or(u64::MAX)).ok_or_else(|| {
        Problem::new(
            StatusCode::BadRequest,
            format!("since is {text:?}: it is a time of RFC 3339 in UTC, such as 2026-11-28T09:00:00Z"),
        )
    })
}

fn describe(event: &Event) -> Value {
    json!({
        "at": time(event.at_ns),
        "kind": event.kind.word(),
        "since": event.since_ns.map(time),
        "ip": event.ip,
        "server": event.server,
    })
}
