//! Error bodies (RFC 9457), and their lines in the log.

use tide::http::Headers;
use tide::{Request, Response, StatusCode};

use super::identity::{Forwarded, Refusal};
use super::refusals;

/// Why somebody whom nginx let in is refused: the same words to whoever beats, renews or reads.
pub const NOT_ENROLLED: &str = "this email is not enrolled; ask the administrator of rollcall to add it";
pub const DISABLED: &str =
    "this email is enrolled and disabled; ask the administrator of rollcall to enable it";
pub const REVOKED: &str = "this certificate is revoked; ask the administrator of rollcall for a new one";
pub const NOT_REGISTERED: &str = "this certificate is not registered; the administrator of rollcall notes its holder with: \
                                  rollcall-admin enrol EMAIL --cert FILE";

/// The state of a program's router. Its error bodies name the program.
pub trait Program: Sync {
    const NAME: &'static str;
    /// The first line of the request that nearly all are, if there is one. [`Program::answer_usual`] answers it as the
    /// router would.
    const USUAL: Option<&'static str> = None;

    /// Did nginx send this request, and not anybody on this host?
    fn knows(&self, forwarded: &Forwarded<'_>) -> bool;

    /// Did somebody on this host send it who is known by a secret of the program?
    fn knows_reader(&self, _: &Headers) -> bool {
        false
    }

    /// The answer to the usual request, which has no body. `None` is a 204 and nothing else.
    fn answer_usual(&self, _: &Forwarded<'_>) -> impl Future<Output = Option<Response>> + Send {
        async { None }
    }
}

/// An error body of RFC 9457. `by` is our extension: which of the programs in the path refused.
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
    header: Option<(&'static str, &'static str)>,
    page: Option<Box<Response>>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None, page: None }
    }

    pub fn with_header(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// This is the answer, instead of JSON.
    pub fn with_page(self, page: Response) -> Self {
        Self { page: Some(Box::new(page)), ..self }
    }
}

impl Problem {
    /// The answer of this program.
    pub fn by<P: Program>(self) -> Response {
        let problem = self;
        let body = serde_json::json!({
            "type": "about:blank",
            "title": problem.status.canonical_reason(),
            "status": problem.status as u16,
            "detail": problem.detail,
            "by": P::NAME,
        });
        let json = || {
            Response::builder(problem.status)
                .content_type("application/problem+json")
                .body(body.to_string())
                .build()
        };
        let mut response = problem.page.map_or_else(json, |page| *page);
        if let Some((name, value)) = problem.header {
            response.insert_header(name, value);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NotThroughProxy | Refusal::NoName | Refusal::NoCertificate => StatusCode::Unauthorized,
            _ => StatusCode::BadRequest,
        };
        Problem::new(status, refusal.to_string())
    }
}

/// A problem becomes its answer, and a line in the log with the id that nginx logged too.
pub fn refuse<S: Program>(problem: Problem, forwarded: &Forwarded<'_>) -> Response {
    let id = forwarded.id().unwrap_or("-");
    refusals::log(format_args!("{} {}: {}", id, problem.status, problem.detail));
    problem.by::<S>()
}

/// Runs a handler; its problem becomes the answer.
pub async fn answer<S: Program, F>(request: Request<S>, handler: fn(Request<S>) -> F) -> tide::Result
where
    F: Future<Output = Result<Response, Problem>> + Send,
{
    let id = Forwarded::of(&request).id().map(str::to_owned);
    Ok(handler(request).await.unwrap_or_else(|problem| {
        let request_id = id.as_deref().into_iter().collect();
        refuse::<S>(problem, &Forwarded { request_id, ..Forwarded::default() })
    }))
}
