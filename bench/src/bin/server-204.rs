//! rollcall-server without its database: every heartbeat is answered 204 at once, by the same router,
//! the same HTTP loop and the same runtime. What rollcall-server cannot exceed.

use std::env;
use std::future;
use std::process::ExitCode;

use async_std::net::TcpListener;
use async_std::os::unix::net::UnixListener;
use async_std::task;
use rollcall::http::connection;
use tide::{Response, StatusCode};

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
        let mut app = tide::new();
        app.at("/api/client").patch(|_| async { Ok(Response::new(StatusCode::NoContent)) });
        // Everybody who asks is nginx.
        let knows = |_: &(), _: &_| true;
        match listen.strip_prefix("unix:") {
            Some(path) => {
                connection::serve(UnixListener::bind(path).await?, app, knows, future::pending()).await
            }
            None => connection::serve(TcpListener::bind(&listen).await?, app, knows, future::pending()).await,
        }
        Ok(())
    })
}
