//! rollcall-server without its database: every heartbeat is answered 204 at once, by the same router,
//! the same HTTP loop and the same runtime. What rollcall-server cannot exceed.

use std::env;
use std::future;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use async_std::net::TcpListener;
use async_std::os::unix::net::UnixListener;
use async_std::task;
use rollcall::http::connection;
use rollcall::http::identity::Forwarded;
use rollcall::http::problem::Program;
use tide::{Response, StatusCode};

/// As in rollcall-server, the usual request does not reach the router.
#[derive(Clone)]
struct Server204;

impl Program for Server204 {
    const NAME: &'static str = "server-204";
    const USUAL: Option<&'static str> = Some("PATCH /api/client HTTP/1.1");

    /// Everybody who asks is nginx.
    fn knows(&self, _: &Forwarded<'_>) -> bool {
        true
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server-204: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let listen = env::var("PEER_LISTEN")?;
    task::block_on(async {
        let mut app = tide::with_state(Server204);
        app.at("/api/client").patch(|_| async { Ok(Response::new(StatusCode::NoContent)) });
        let (accepts, end) = (AtomicBool::new(true), future::pending());
        match listen.strip_prefix("unix:") {
            Some(path) => connection::serve(UnixListener::bind(path).await?, app, &accepts, end).await,
            None => connection::serve(TcpListener::bind(&listen).await?, app, &accepts, end).await,
        }
        Ok(())
    })
}
