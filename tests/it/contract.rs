//! The HTTP contract, row by row, in process: the router with a real database behind it, and no port.

use std::sync::Arc;
use std::time::Duration;

use async_std::task::block_on;
use rollcall::http::identity::{Credential, Identity};
use rollcall::server::broadcast::Broadcaster;
use rollcall::server::commit;
use rollcall::server::hearing::Hearing;
use rollcall::server::metrics::{About, Heartbeats};
use rollcall::server::registry::Registry;
use rollcall::server::routes::{State, app};
use rollcall::store::{Recorder, Store};
use tide::http::{Method, Request, Response, Url};

use crate::stack::Stack;

const SECRET: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";
const FINGERPRINT: &str = "0123456789abcdef0123456789abcdef01234567";
const NOT_AFTER: &str = "Nov 23 19:50:56 2037 GMT";
const DEADLINE: Duration = Duration::from_secs(2);

/// The answer to a request with the headers of nginx, but for those that are replaced; an empty one is left out.
fn answer(identity: Identity, url: &str, method: Method, path: &str, replaced: &[(&str, &str)]) -> Response {
    let store = Store::open(url, DEADLINE).unwrap();
    let broadcaster = Broadcaster::open(Vec::new(), None, None).unwrap();
    block_on(async {
        let credential = Credential::new(SECRET).unwrap();
        let hearing = Arc::new(Hearing::new("here".to_owned(), None, None, None, Arc::default()));
        let _ = hearing.start(&store).await;
        let recorder = Recorder::new(store.clone(), "here".to_owned());
        let commits = commit::start(recorder, broadcaster.clone(), Arc::clone(&hearing), DEADLINE, None);
        let (registry, heartbeats, about) =
            (Registry::default(), Heartbeats::default(), About::this("certs".into()));
        let app = app(State {
            credential,
            identity,
            registry,
            proof: None,
            commits,
            hearing,
            store,
            broadcaster,
            heartbeats,
            about,
        });
        let mut request = Request::new(method, Url::parse(&format!("http://clerk{path}")).unwrap());
        for (name, value) in [
            ("X-Proxy-Credential", SECRET),
            ("X-Subject-CN", "valid_user@qt-test.com"),
            ("X-Client-Certificate", ""),
            ("X-Real-IP", "192.0.2.10"),
            ("X-Real-Port", "41234"),
            ("X-Client-Serial", "0AFF"),
            ("X-Client-Fingerprint", FINGERPRINT),
            ("X-Client-Not-After", NOT_AFTER),
        ] {
            let value =
                replaced.iter().find(|(replaced, _)| *replaced == name).map_or(value, |(_, value)| value);
            if !value.is_empty() {
                request.insert_header(name, value);
            }
        }
        app.respond(request).await.unwrap()
    })
}

#[test]
fn each_row_of_the_contract() {
    let stack = Stack::database();
    let url = stack.server_database_url();
    for arguments in
        [&["user", "add", "disabled@example.com"][..], &["user", "disable", "disabled@example.com"]]
    {
        assert!(stack.admin(arguments).status.success(), "{arguments:?}");
    }
    stack.sql(&format!(
        "insert into certificates (serial_number, email, fingerprint, not_after, revoked_at)
         values ('0BAD', 'valid_user@qt-test.com', '{FINGERPRINT}', 1826999456, now())"
    ));
    let (client, est) = ("/api/client", "/.well-known/est/simplereenroll");
    let away = "postgres://rollcall_server@127.0.0.1:1/rollcall?sslmode=disable";
    for (url, method, path, replaced, status, detail) in [
        (url.as_str(), Method::Patch, client, &[][..], 204, ""),
        (
            &url,
            Method::Patch,
            client,
            &[("X-Subject-CN", "not_an_email")],
            400,
            "the certificate's CN is not an email",
        ),
        (
            &url,
            Method::Patch,
            client,
            &[("X-Client-Not-After", "Nov 23 19:50:56 2017 GMT")],
            400,
            "has expired",
        ),
        (&url, Method::Patch, client, &[("X-Proxy-Credential", "")], 401, "did not come through nginx"),
        (&url, Method::Patch, client, &[("X-Proxy-Credential", "c0ffee")], 401, "did not come through nginx"),
        (&url, Method::Patch, client, &[("X-Subject-CN", "")], 401, "there is no X-Subject-CN"),
        (&url, Method::Patch, client, &[("X-Subject-CN", "nobody@example.com")], 403, "is not enrolled"),
        (&url, Method::Patch, client, &[("X-Subject-CN", "disabled@example.com")], 403, "disabled"),
        (&url, Method::Patch, client, &[("X-Client-Serial", "0BAD")], 403, "is revoked"),
        (&url, Method::Patch, "/api/elsewhere", &[], 404, "the path of a heartbeat is /api/client"),
        (&url, Method::Get, "/proof", &[], 404, "the path of a heartbeat is /api/client"),
        (&url, Method::Get, client, &[], 405, "only PATCH"),
        (&url, Method::Post, est, &[("X-Proxy-Credential", "")], 401, "did not come through nginx"),
        (&url, Method::Post, est, &[], 400, "X-Client-Not-Before must be there once"),
        (&url, Method::Get, est, &[], 405, "only POST"),
        (away, Method::Patch, client, &[], 503, "the database is unreachable or too slow"),
        (&url, Method::Get, "/livez", &[("X-Proxy-Credential", "")], 204, ""),
        (&url, Method::Get, "/readyz", &[("X-Proxy-Credential", "")], 204, ""),
        (away, Method::Get, "/readyz", &[("X-Proxy-Credential", "")], 503, "the database is unreachable"),
    ] {
        let row = format!("{method} {path} {replaced:?}");
        check(answer(Identity::Cn, url, method, path, replaced), status, detail, &row);
    }
}

#[track_caller]
fn check(mut answer: Response, status: u16, detail: &str, row: &str) {
    assert_eq!(answer.status() as u16, status, "{row}");
    let body = block_on(answer.body_string()).unwrap();
    if status == 204 {
        assert_eq!(body, "", "{row}");
        return;
    }
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains(detail), "{row}: {body}");
    assert_eq!(problem["status"], status, "{row}");
    assert_eq!(answer.content_type().unwrap().essence(), "application/problem+json", "{row}");
    let header = |name: &str| answer.header(name).map(|values| values.as_str().to_owned());
    let allowed = if row.contains(" /.well-known/") { "POST" } else { "PATCH" };
    assert_eq!(header("Allow").as_deref(), (status == 405).then_some(allowed), "{row}");
    assert_eq!(header("Retry-After").is_some(), status == 503, "{row}");
}

#[test]
fn the_rows_of_the_other_identities() {
    use Identity::{Registered, San};
    let stack = Stack::database();
    let url = stack.server_database_url();
    for (serial, revoked_at) in [("600D", "null"), ("0BAD", "now()")] {
        stack.sql(&format!(
            "insert into certificates (serial_number, email, fingerprint, not_after, issuer, revoked_at)
             values ('{serial}', 'valid_user@qt-test.com', '{FINGERPRINT}', 2142618656, 'CN=x', {revoked_at})"
        ));
    }
    let away = "postgres://rollcall_server@127.0.0.1:1/rollcall?sslmode=disable";
    let nobody = ("X-Subject-CN", "");
    for (identity, url, replaced, status, detail) in [
        (San, url.as_str(), &[][..], 401, "there is no X-Client-Certificate"),
        (San, &url, &[("X-Client-Certificate", "x")], 400, "X-Client-Certificate is not one certificate"),
        (Registered, &url, &[], 403, "this certificate is not registered"),
        (Registered, &url, &[nobody, ("X-Client-Serial", "600D")], 204, ""),
        (Registered, &url, &[nobody, ("X-Client-Serial", "0BAD")], 403, "is revoked"),
        (Registered, &url, &[("X-Client-Serial", "")], 400, "X-Client-Serial must be there once"),
        (
            Registered,
            &url,
            &[("X-Client-Serial", "600D"), ("X-Client-Not-After", "Nov 23 19:50:56 2017 GMT")],
            400,
            "has expired",
        ),
        (Registered, away, &[], 503, "the database is unreachable or too slow"),
    ] {
        let row = format!("{identity} {replaced:?}");
        check(answer(identity, url, Method::Patch, "/api/client", replaced), status, detail, &row);
    }
}
