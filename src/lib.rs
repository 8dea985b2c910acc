//! Presence, proven: a client certificate in, one row and one datagram out.
//!
//! The data goes one way: **request → identity → commit → store, then broadcast → wire.** nginx verifies the
//! certificate and hands the name on; each later step is a room of this library. Arrows between rooms point down
//! only, and `just layers` checks them.
//!
//! | to change | look in |
//! |---|---|
//! | a flag, a default or a setting | `Options` of the program's room; the shared part is [`cli`] |
//! | an exit code, the way that an error is shown | [`cli`] |
//! | a byte on the wire, a signature, a pseudonym | [`protocol`] |
//! | a socket, the choice of networks | [`lan`] |
//! | a statement of SQL, a column | [`store`] (and `sql/`) |
//! | a header that nginx passes on | [`http::identity`] (and `nginx/`) |
//! | the holder of a certificate by its row | [`server::registry`] |
//! | a connection's limits, the body of an error | [`http`] |
//! | a route, a status code | [`server::routes`] |
//! | a metric | [`server::metrics`], `stats` of [`listener`]; the text that Prometheus reads: [`prometheus`] |
//! | the program that messages name in the place of a recipe | `recipes` of [`cli`] |
//! | a page of the manual, a completion | examples/manual.rs, docs/man/ |
//! | a line of the log, its JSON | `logging` of [`cli`] |
//! | the readiness of the service, its watchdog | [`server::supervisor`] |
//! | the grouping of commits, the answer while the database is away | [`server::commit`] |
//! | an announcement's way to the network | [`server::broadcast`] |
//! | a full disk: PostgreSQL's answer | [`store`] (class 53), [`server::commit`]; own files: [`files`]; tests/it/logs_and_disk.rs |
//! | a half-written file, a secret's mode | [`files`] |
//! | the format of a file with a key or certificate | [`keyfile`] |
//! | a field of a certificate, request or CRL; which keys are taken | [`x509`] |
//! | a line that the listener prints, its JSON | [`listener`] |
//! | the announcements that go to another site | `relay` of [`listener`] |
//! | a TLS message, a retry | [`client`] |
//! | who is here: a call, the stream, the page | [`board`] |
//! | the folder of a stack, nginx's file, the proof of a server | [`stack`] (and `stack/`) |
//! | enrolment, revocation | [`admin`] |
//! | the renewal by a device | `renewal` of [`client`] and [`server`], `renewals` of [`store`] and [`admin`] |
//! | a check of the doctor | [`doctor`] (its name also in the help of [`server::Doctor`], and in stack/status) |
//!
//! The programs in `bin/` hand their arguments to one function each: [`server::run`], [`client::run`],
//! [`listener::run`], [`admin::run`], [`doctor::run`], [`board::run`]. The features `server`, `board`, `client` and
//! `listen` choose the rooms.

pub mod cli;
#[cfg(any(feature = "client", feature = "protocol"))]
pub mod files;
#[cfg(any(feature = "client", feature = "protocol"))]
pub mod keyfile;
#[cfg(any(feature = "client", feature = "server"))]
pub mod x509;

#[cfg(feature = "protocol")]
pub mod lan;
#[cfg(any(feature = "listen", feature = "server"))]
pub mod prometheus;
#[cfg(feature = "protocol")]
pub mod protocol;

#[cfg(feature = "store")]
pub mod store;

#[cfg(feature = "server")]
pub mod http;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "listen")]
pub mod listener;

#[cfg(feature = "board")]
pub mod board;
#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub mod stack;

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod doctor;
