//! Error bodies (RFC 9457), and their lines in the log.

use tide::{Request, Response, StatusCode};

use super::identity::Refusal;
use super::refusals;

/// The state of a program's router. Its error bodies name the program.
pub trait Program {
    const NAME: &'static str;
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
pub async fn answer<S: Program, F>(request: Request<S>, handler: fn(Request<S>) -> F) -> tide::Result
where
    F: Future<Output = Result<Response, Problem>> + Send,
{
    // Anybody can say anything here, and only nginx's own is worth a place in the log.
    let id = request.header("X-Request-Id").map(|id| id.as_str().to_owned());
    let id = id.filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    Ok(handler(request).await.unwrap_or_else(|problem| {
        let id = id.as_deref().unwrap_or("-");
        refusals::log(format_args!("{} {}: {}", id, problem.status, problem.detail));
        problem.by::<S>()
    }))
}
