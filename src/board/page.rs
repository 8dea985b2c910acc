//! The page for people.

use tide::{Response, StatusCode};

const HTML: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>rollcall</title>\n<h1>rollcall</h1>\n<p>Who is here: <a href=\"/api/who\">/api/who</a></p>\n</html>\n";

/// `GET /`
pub fn page() -> Response {
    Response::builder(StatusCode::Ok)
        .content_type("text/html; charset=utf-8")
        .header("Cache-Control", "no-store")
        .header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        .body(HTML)
        .build()
}
