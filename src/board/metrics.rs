//! `GET /metrics` on the board's own port, for holders of its token: how many are in which state.

use std::sync::Arc;
use std::time::SystemTime;

use tide::{Request, Response, StatusCode};

use super::people::People;
use super::readers::Readers;
use super::routes::{self, elsewhere, reader};
use crate::http::problem::Problem;
use crate::prometheus::{CONTENT_TYPE, Page, process};
use crate::store::presence::State;

pub async fn metrics(request: Request<Arc<routes::State>>) -> Result<Response, Problem> {
    reader(&request).await?;
    if !Readers::is_direct(&request) {
        return elsewhere(request).await;
    }
    let state = request.state();
    let body = text(&state.people, state.started);
    Ok(Response::builder(StatusCode::Ok).content_type(CONTENT_TYPE).body(body).build())
}

fn text(people: &People, started: SystemTime) -> String {
    let mut page = Page::default();
    // Until everybody was read nobody is counted: that nobody is offline would be a lie.
    if let Some(look) = people.look() {
        let mut family = page.gauge("rollcall_people", "Enabled people in each state, and the disabled.");
        for (state, count) in State::ALL.iter().zip(look.counts.states) {
            family.with(&[("state", state.word())], count);
        }
        family.with(&[("state", "disabled")], look.counts.disabled);
    }
    let mut family = page.counter("rollcall_transitions_total", "Changes to each state.");
    for (state, count) in State::ALL.iter().zip(people.transitions_to()) {
        family.with(&[("to", state.word())], count);
    }
    let mut family =
        page.gauge("rollcall_server_hears", "1 if a server can hear, 0 if its people are unknown.");
    for (server, hears) in people.hearing() {
        family.with(&[("server", &server)], u8::from(hears));
    }
    let version = ("version", env!("CARGO_PKG_VERSION"));
    page.gauge("rollcall_build_info", "1, and the version of the program.").with(&[version], 1);
    process::write(&mut page, started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    page.text()
}
