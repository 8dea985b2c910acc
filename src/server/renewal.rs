//! `POST /.well-known/est/simplereenroll` (EST, RFC 7030, section 4.2.2): a device asks for the certificate after its
//! present one. The server checks the request and hands it on by the database; the signer, which alone has the key of
//! the CA, answers there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_std::io::ReadExt;
use async_std::task;
use tide::http::Method;
use tide::{Request, Response, StatusCode};

use super::commit::Refused;
use super::routes::{self, State};
use crate::cli::now_ns;
use crate::http::identity::{self, Forwarded};
use crate::http::problem::Problem;
use crate::store::sighting::Certificate;
use crate::store::{self, PAUSE, Standing};
use crate::x509;

pub const PATH: &str = "/.well-known/est/simplereenroll";

/// Bytes of a body. A request with an RSA key of 4096 bits has 2 kB in base64.
const MOST: u64 = 8 * 1024;
/// How long a request waits for the signer: shorter than a shutdown does for it, and than a client for its answer.
const WAIT: Duration = Duration::from_secs(8);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// Requests that wait at once. Each one more is answered with 202, so that a fleet does not busy the database.
const MOST_WAITING: usize = 16;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The right to wait, until it is dropped.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let more = |waiting| (waiting < MOST_WAITING).then_some(waiting + 1);
        WAITING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Checks the caller, then the request, then the time; each only if the one before succeeded.
pub async fn renew(mut request: Request<Arc<State>>) -> Result<Response, Problem> {
    let state = Arc::clone(request.state());
    let forwarded = Forwarded::of(&request);
    state.credential.admit(&forwarded)?;
    if request.method() != Method::Post {
        return Err(Problem::new(StatusCode::MethodNotAllowed, "only POST is answered here")
            .with_header("Allow", "POST"));
    }
    let sighting = routes::sighting(&state, &forwarded).await?;
    let not_before = identity::not_before(&request)?;
    let standing = state.store.standing(&sighting).await.map_err(unavailable)?;
    unless_good(standing)?;
    let wanted = read(&mut request).await?;
    if let Some(name) = wanted.other_name(sighting.status.email.as_str()) {
        return Err(bad(format!(
            "the request is for {name:?}, and the certificate that asks is {}'s; ask for the same names",
            sighting.status.email
        )));
    }
    let certificate = &sighting.certificate;
    let due = x509::due(not_before, certificate.not_after);
    if now_ns() / 1_000_000_000 < due {
        let due = SystemTime::UNIX_EPOCH + Duration::from_secs(due);
        return Err(Problem::new(
            StatusCode::Forbidden,
            format!(
                "the certificate can be renewed from {} on, when two thirds of its lifetime are over",
                humantime::format_rfc3339_seconds(due)
            ),
        ));
    }
    hand_on(&state, certificate, &wanted).await?;
    answered(&state, certificate, &wanted).await
}

fn unless_good(standing: Standing) -> Result<(), Problem> {
    match standing {
        Standing::Good => Ok(()),
        Standing::NotEnrolled => Err(Refused::NotEnrolled.into()),
        Standing::Disabled => Err(Refused::Disabled.into()),
        Standing::Revoked => Err(Refused::Revoked.into()),
        Standing::Unknown => Err(Problem::new(
            StatusCode::Forbidden,
            "this certificate is not known as this person's; the administrator of rollcall notes it: enrol EMAIL --cert FILE",
        )),
    }
}

/// RFC 7030, section 4.2.1: PKCS #10 in base64. PEM, which is that between two lines, will do.
async fn read(request: &mut Request<Arc<State>>) -> Result<x509::Request, Problem> {
    if request.content_type().is_none_or(|mime| mime.essence() != "application/pkcs10") {
        return Err(Problem::new(
            StatusCode::UnsupportedMediaType,
            "the Content-Type of a request is application/pkcs10",
        ));
    }
    let mut body = Vec::new();
    let reading = request.take_body().take(MOST + 1).read_to_end(&mut body).await;
    reading.map_err(|error| bad(format!("the body cannot be read: {error}")))?;
    if body.len() as u64 > MOST {
        return Err(Problem::new(StatusCode::PayloadTooLarge, "a request of more than 8 kB is refused"));
    }
    let der = x509::from_base64(&body);
    x509::Request::read(der.as_deref().unwrap_or(&body)).map_err(|error| bad(format!("the request: {error}")))
}

/// Leaves the request for the signer, unless it is there already: it is the same if it is for the same key.
async fn hand_on(state: &State, certificate: &Certificate, wanted: &x509::Request) -> Result<(), Problem> {
    let stored = state.store.renewal(certificate).await.map_err(unavailable)?;
    let request = match &stored {
        Some(stored) if stored.age < PAUSE => return Ok(()),
        // Byte for byte, so that an answer to it that is on its way counts.
        Some(stored) if is_of_key(&stored.request, wanted) => &stored.request,
        _ => &wanted.der,
    };
    state.store.ask(certificate, request).await.map_err(unavailable)
}

fn is_of_key(stored: &[u8], wanted: &x509::Request) -> bool {
    x509::Request::read(stored).is_ok_and(|stored| stored.public_key == wanted.public_key)
}

/// Waits for the answer of the signer to this key.
async fn answered(
    state: &State,
    certificate: &Certificate,
    wanted: &x509::Request,
) -> Result<Response, Problem> {
    let (place, began) = (Place::take(), Instant::now());
    let mut same = Vec::new();
    loop {
        if let Some(stored) = state.store.renewal(certificate).await.map_err(unavailable)? {
            if same != stored.request {
                if !is_of_key(&stored.request, wanted) {
                    return Err(Problem::new(
                        StatusCode::TooManyRequests,
                        "this certificate has just asked for another key; ask again in a minute",
                    )
                    .with_header("Retry-After", "60"));
                }
                same = stored.request;
            }
            match stored.answer {
                Some(Ok(pem)) => return granted(&pem),
                Some(Err(reason)) => return Err(Problem::new(StatusCode::Forbidden, reason)),
                None => {}
            }
        }
        if place.is_none() || began.elapsed() + LOOK > WAIT {
            return Ok(Response::builder(StatusCode::Accepted)
                .header("Retry-After", "5")
                .body("The signer has not answered yet. Ask again, with the same request.\n")
                .build());
        }
        task::sleep(LOOK).await;
    }
}

/// RFC 7030, sections 4.2.3 and 4.3.3.
fn granted(pem: &str) -> Result<Response, Problem> {
    let chain = x509::certificates(pem.as_bytes()).map_err(damaged)?;
    let bundle = x509::bundle(chain.iter().map(|certificate| certificate.der.as_slice())).map_err(damaged)?;
    let mut response = Response::builder(StatusCode::Ok).body(x509::base64(&bundle)).build();
    response.insert_header("Content-Type", "application/pkcs7-mime; smime-type=certs-only");
    response.insert_header("Content-Transfer-Encoding", "base64");
    Ok(response)
}

/// The log has a line of it, too, whatever stands in the request.
fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BadRequest, detail.chars().take(300).collect::<String>())
}

fn damaged(error: x509::Error) -> Problem {
    log::error!("the certificate that the signer left in the table renewals: {error}");
    Problem::new(StatusCode::InternalServerError, "the new certificate cannot be read; ask the administrator")
}

/// The log has the reason: database text stays on this side.
fn unavailable(error: store::Error) -> Problem {
    log::info!("a renewal was not handed on: {error}");
    Problem::new(StatusCode::ServiceUnavailable, "the database is unreachable or too slow; try again")
        .with_header("Retry-After", "2")
}
