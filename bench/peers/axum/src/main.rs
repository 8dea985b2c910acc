//! The peer: axum, tokio and sqlx, one `update` per request, then the same datagram.
//!
//! Written as a Rust team would write it today and tuned where that costs nothing: a pool of kept
//! connections with prepared statements, no middleware that is not needed, link-time optimisation.
//! It keeps the contract that rollcall keeps: nobody without the proxy's credential, 403 for
//! who is not enrolled, 204 only after the commit, and the datagram after that.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::patch;
use axum::serve::ListenerExt;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::types::ipnetwork::IpNetwork;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, UnixListener};

struct App {
    credential: String,
    pool: PgPool,
    socket: UdpSocket,
    destination: SocketAddr,
}

/// Whom nginx named. A handler cannot have one without the check of the credential.
struct Caller {
    email: String,
    ip: IpAddr,
    port: u16,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, StatusCode> {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let presented = header("x-proxy-credential").ok_or(StatusCode::UNAUTHORIZED)?;
        if !bool::from(presented.as_bytes().ct_eq(app.credential.as_bytes())) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let email = header("x-subject-cn").ok_or(StatusCode::UNAUTHORIZED)?.to_ascii_lowercase();
        if email.len() > 254 || !email.contains('@') {
            return Err(StatusCode::BAD_REQUEST);
        }
        let parsed = |name| header(name).ok_or(StatusCode::BAD_REQUEST);
        Ok(Self {
            email,
            ip: parsed("x-real-ip")?.parse().map_err(|_| StatusCode::BAD_REQUEST)?,
            port: parsed("x-real-port")?.parse().map_err(|_| StatusCode::BAD_REQUEST)?,
        })
    }
}

async fn heartbeat(State(app): State<Arc<App>>, caller: Caller) -> Result<StatusCode, StatusCode> {
    let now_ns =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
    let committed: Option<(i64,)> = sqlx::query_as(
        "update users
            set last_seen_ns = greatest(last_seen_ns, $2), ip = $3, port = $4
          where email = $1 and disabled_at is null
      returning last_seen_ns",
    )
    .bind(&caller.email)
    .bind(now_ns)
    .bind(IpNetwork::from(caller.ip))
    .bind(i32::from(caller.port))
    .fetch_optional(&app.pool)
    .await
    .map_err(|error| {
        tracing::warn!(%error, "the database");
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    let (last_seen_ns,) = committed.ok_or(StatusCode::FORBIDDEN)?;
    // The socket never blocks, so there is nothing to await: a full buffer drops the datagram.
    if let Err(error) = app.socket.send_to(&datagram(&caller, last_seen_ns), app.destination) {
        tracing::debug!(%error, "the broadcast");
    }
    Ok(StatusCode::NO_CONTENT)
}

fn datagram(caller: &Caller, last_seen_ns: i64) -> Vec<u8> {
    let ip = caller.ip.to_string();
    let mut bytes = Vec::with_capacity(12 + caller.email.len() + ip.len());
    bytes.push(caller.email.len() as u8);
    bytes.extend_from_slice(caller.email.as_bytes());
    bytes.extend_from_slice(&last_seen_ns.to_be_bytes());
    bytes.push(ip.len() as u8);
    bytes.extend_from_slice(ip.as_bytes());
    bytes.extend_from_slice(&caller.port.to_be_bytes());
    bytes
}

fn setting(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
    let connections = env::var("PEER_POOL").map_or(16, |text| text.parse().expect("PEER_POOL is a number"));
    let options =
        PgConnectOptions::from_str(&setting("DATABASE_URL")).expect("DATABASE_URL").application_name("axum");
    let pool = PgPoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(2))
        // Asking a connection whether it is alive before each use would cost a round trip per request.
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .expect("the database");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a UDP socket");
    socket.set_broadcast(true).expect("SO_BROADCAST");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    let app = Router::new().route("/api/client", patch(heartbeat)).with_state(Arc::new(App {
        credential: std::fs::read_to_string(setting("PEER_CREDENTIAL"))
            .expect("PEER_CREDENTIAL")
            .trim()
            .to_owned(),
        pool,
        socket,
        destination: setting("PEER_BROADCAST").parse().expect("PEER_BROADCAST is ADDRESS:PORT"),
    }));
    let listen = setting("PEER_LISTEN");
    match listen.strip_prefix("unix:") {
        Some(path) => {
            let listener = UnixListener::bind(Path::new(path)).expect("PEER_LISTEN");
            axum::serve(listener, app).with_graceful_shutdown(stop()).await
        }
        None => {
            let listener = TcpListener::bind(&listen).await.expect("PEER_LISTEN");
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("TCP_NODELAY"));
            axum::serve(listener, app).with_graceful_shutdown(stop()).await
        }
    }
    .expect("serving");
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate()).expect("SIGTERM").recv().await;
}
