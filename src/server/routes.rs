//! The HTTP contract of the server: the answer to each request. [`app`] needs no port.

use std::sync::Arc;

use hex::FromHex;
use tide::http::Method;
use tide::{Request, Response, StatusCode};

use super::broadcast::Broadcaster;
use super::commit::{Commits, MAX_REPEATS, Refused};
use super::hearing::Hearing;
use super::metrics::{self, About, Heartbeats};
use super::proof::{self, Proof};
use super::pulse::Lack;
use super::registry::Registry;
use super::renewal;
use crate::cli::now_ns;
use crate::http::identity::{Credential, Forwarded, Identity};
use crate::http::problem::{self, Problem, Program, answer, refuse};
use crate::prometheus;
use crate::store::Store;
use crate::store::sighting::Sighting;

/// The means of an answer: the credential that a request must show, and the place where it is recorded.
pub struct State {
    pub credential: Credential,
    pub identity: Identity,
    /// Asked with [`Identity::Registered`] only.
    pub registry: Registry,
    /// For a script that asks whose server this is.
    pub proof: Option<Proof>,
    pub commits: Commits,
    pub hearing: Arc<Hearing>,
    /// To ask whether the database answers, and whose a certificate is.
    pub store: Store,
    /// To ask what it announced.
    pub broadcaster: Arc<Broadcaster>,
    pub heartbeats: Heartbeats,
    pub about: About,
}

impl Program for Arc<State> {
    const NAME: &'static str = "rollcall-server";
    const USUAL: Option<&'static str> = Some("PATCH /api/client HTTP/1.1");

    fn knows(&self, forwarded: &Forwarded<'_>) -> bool {
        self.credential.admit(forwarded).is_ok()
    }

    async fn answer_usual(&self, forwarded: &Forwarded<'_>) -> Option<Response> {
        match beat(self, Method::Patch, forwarded).await {
            Ok(()) => self.hearing.reannounce_after().map(|seconds| recorded(Some(seconds))),
            Err(problem) => Some(refuse::<Self>(problem, forwarded)),
        }
    }
}

/// The router: every path and method, without a port.
pub fn app(state: State) -> tide::Server<Arc<State>> {
    let mut app = tide::with_state(Arc::new(state));
    app.at("/api/client").all(|request| answer(request, client));
    app.at(renewal::PATH).all(|request| answer(request, renewal::renew));
    app.at("/livez").get(|_| async { Ok(Response::new(StatusCode::NoContent)) });
    app.at("/readyz").get(readyz);
    app.at("/metrics").get(tell);
    app.at("/proof").all(|request| answer(request, prove));
    for everywhere_else in ["/", "/*"] {
        app.at(everywhere_else).all(|request| answer(request, elsewhere));
    }
    app
}

async fn client(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = request.state();
    beat(state, request.method(), &Forwarded::of(&request)).await?;
    Ok(recorded(state.hearing.reannounce_after()))
}

fn recorded(reannounce_after: Option<u32>) -> Response {
    let mut response = Response::new(StatusCode::NoContent);
    if let Some(seconds) = reannounce_after {
        response.insert_header("Reannounce-After", seconds.to_string());
    }
    response
}

/// A heartbeat, counted.
async fn beat(state: &State, method: Method, forwarded: &Forwarded<'_>) -> Result<(), Problem> {
    let recorded = heartbeat(state, method, forwarded).await;
    state
        .heartbeats
        .count(recorded.as_ref().map_or_else(|problem| problem.status, |()| StatusCode::NoContent));
    recorded
}

/// `PATCH /api/client`: prove, then record; the commit announces. Each only if the one before succeeded.
async fn heartbeat(state: &State, method: Method, forwarded: &Forwarded<'_>) -> Result<(), Problem> {
    state.credential.admit(forwarded)?;
    if method != Method::Patch {
        return Err(Problem::new(StatusCode::MethodNotAllowed, "only PATCH is answered here")
            .with_header("Allow", "PATCH"));
    }
    Ok(state.commits.record(sighting(state, forwarded).await?).await?)
}

/// The person, and the certificate that proves it: of a heartbeat and of a renewal alike.
pub async fn sighting(state: &State, forwarded: &Forwarded<'_>) -> Result<Sighting, Problem> {
    let now_ns = now_ns();
    let email = match state.identity {
        Identity::Cn => forwarded.common_name()?,
        Identity::San => forwarded.alternative_name()?,
        Identity::Registered => state.registry.holder(&state.store, forwarded.certificate()?).await?,
    };
    let lacks = || state.hearing.pulse().lacks(&state.store).unwrap_or(Lack::Away);
    let heard_ms = state.hearing.reading().ok_or_else(|| unavailable(lacks().text()))?;
    let mut sighting = forwarded.sighting(email, now_ns, heard_ms)?;
    // nginx has this host's clock; only its differences count.
    let age_ns = now_ns.saturating_sub(sighting.status.last_seen_ns);
    sighting.status.last_seen_ns = state.store.time().now_ns().saturating_sub(age_ns);
    Ok(sighting)
}

/// Ready: the database takes what this server writes each second. The log has the reason once, from that write, and
/// nothing of those who ask.
async fn readyz(request: Request<Arc<State>>) -> tide::Result {
    let state = request.state();
    Ok(match state.hearing.pulse().lacks(&state.store) {
        None => Response::new(StatusCode::NoContent),
        Some(lack) => try_again(format!("{}; just doctor says more", lack.text())).by::<Arc<State>>(),
    })
}

/// `GET /metrics`: no secret, and nginx does not forward it.
async fn tell(request: Request<Arc<State>>) -> tide::Result {
    let text = metrics::text(request.state());
    Ok(Response::builder(StatusCode::Ok).content_type(prometheus::CONTENT_TYPE).body(text).build())
}

/// `GET /proof` with a challenge: whose server this is, and with which settings. Anything else is elsewhere.
async fn prove(request: Request<Arc<State>>) -> Result<Response, Problem> {
    let challenge = request.header(proof::HEADER).map(|values| FromHex::from_hex(values.as_str()));
    match (request.method(), challenge, &request.state().proof) {
        (Method::Get, Some(Ok(challenge)), Some(proof)) => {
            Ok(Response::builder(StatusCode::Ok).body(proof.answer(&challenge)).build())
        }
        _ => elsewhere(request).await,
    }
}

async fn elsewhere(request: Request<Arc<State>>) -> Result<Response, Problem> {
    request.state().credential.admit(&Forwarded::of(&request))?;
    Err(Problem::new(StatusCode::NotFound, "there is nothing here; the path of a heartbeat is /api/client"))
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let forbidden = |detail| Problem::new(StatusCode::Forbidden, detail);
        match refused {
            Refused::NotEnrolled => forbidden(problem::NOT_ENROLLED),
            Refused::Disabled => forbidden(problem::DISABLED),
            Refused::Revoked => forbidden(problem::REVOKED),
            Refused::NotRegistered => forbidden(problem::NOT_REGISTERED),
            Refused::Unavailable => unavailable(Lack::Away.text()),
            Refused::Held => unavailable(
                "somebody else holds the row of this email in the database: a commit of another server, or an \
                 administrator's session",
            ),
            Refused::TooMany => {
                let detail = format!("more than {MAX_REPEATS} requests at once of one person");
                Problem::new(StatusCode::TooManyRequests, detail).with_header("Retry-After", "1")
            }
        }
    }
}

/// The log has the reason: database text stays on this side.
fn unavailable(lacks: &str) -> Problem {
    try_again(format!("{lacks}; nothing was announced, try again"))
}

fn try_again(detail: String) -> Problem {
    Problem::new(StatusCode::ServiceUnavailable, detail).with_header("Retry-After", "2")
}
