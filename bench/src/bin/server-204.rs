//! rollcall-server without its database: every heartbeat is answered 204 at once, by the same router,
//! the same HTTP loop and the same runtime. What rollcall-server cannot exceed.

use std::env;
use std::future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_std::net::TcpListener;
use async_std::os::unix::net::UnixListener;
use async_std::task;
use rollcall::broadcast::Broadcaster;
use rollcall::http::{self, State};
use rollcall::identity::Trust;
use rollcall::store::Store;
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
        // The state that a router of rollcall carries. Nothing here connects or sends anything.
        let store = Store::open("postgres://nobody@localhost/nothing", Duration::from_secs(1), 1)?;
        let state = State::new(Trust::SocketFolder, store, Broadcaster::open("127.255.255.255:9")?, || 0);
        let mut app = tide::with_state(Arc::new(state));
        app.at("/api/client").patch(|_| async { Ok(Response::new(StatusCode::NoContent)) });
        match listen.strip_prefix("unix:") {
            Some(path) => http::serve(UnixListener::bind(path).await?, app, future::pending()).await,
            None => http::serve(TcpListener::bind(&listen).await?, app, future::pending()).await,
        }
        Ok(())
    })
}
