//! Who is here, proven: a client certificate in, one row and one datagram out.
//!
//! The data goes one way: **request -> identity -> commit -> store -> broadcast -> wire**. nginx verifies the
//! certificate and hands the name on; everything after that is in this library, one job per module.
//!
//! | module | job |
//! |---|---|
//! | [`status`] | the record that travels through everything, and the checked `Email` |
//! | [`identity`] | header values become a proven caller or a typed refusal |
//! | [`certificate`] | which certificate proved it, and when that ends |
//! | [`commit`] | group commit: requests that arrive together become one statement and one commit |
//! | [`store`] | the only SQL |
//! | [`wire`] | the datagram's bytes |
//! | [`sign`] | the key pair that makes the datagrams believable |
//! | [`privacy`] | pseudonyms in the place of emails, and the list that resolves them |
//! | [`announce`] | numbers, signs and repeats what is announced |
//! | [`interfaces`] | the networks that the host is attached to |
//! | [`broadcast`] | the UDP sockets, each opened once: one per network, or where `ROLLCALL_BROADCAST` says |
//! | [`http`] | the HTTP contract: the router, and the loop that serves it |
//! | [`server`] | puts the server together: settings in, sockets opened, the database waited for |
//! | [`listen`] | receives, decodes and prints datagrams |
//! | [`credential`] | what a file of keys or certificates holds, whichever tool wrote it |
//! | [`client`] | proves who it is over mutual TLS, once or every so often |
//! | [`admin`] | enrolment |
//! | [`doctor`] | looks for what keeps announcements from being heard, or clients from being let in |
//! | [`outage`] | what fails, told in the log once |
//! | [`sockets`] | who holds a UDP port, what room a socket has, and what the kernel dropped |
//! | [`cli`], [`clock`], [`files`], [`hex`], [`signals`] | what the programs share: arguments and exit codes, the time, small files, hexadecimal, signals |
//!
//! The binaries in `bin/` turn arguments into one call of [`server::run`], [`client::run`],
//! [`listen::run`], [`admin::run`] or [`doctor::run`]. The features `server`, `client` and `listen` choose what is built.

pub mod cli;
pub mod status;

#[cfg(feature = "client")]
pub mod client;
#[cfg(any(feature = "client", feature = "listen"))]
pub mod credential;
#[cfg(any(feature = "client", feature = "listen"))]
pub mod files;
#[cfg(any(feature = "client", feature = "server"))]
pub mod signals;

// The server's; here too, because whoever tests a listener needs something to hear.
#[cfg(feature = "listen")]
pub mod announce;
#[cfg(feature = "listen")]
pub mod clock;
#[cfg(feature = "listen")]
pub mod hex;
#[cfg(feature = "listen")]
pub mod listen;
#[cfg(feature = "listen")]
pub mod privacy;
#[cfg(feature = "listen")]
pub mod sign;
#[cfg(feature = "listen")]
pub mod sockets;
#[cfg(feature = "listen")]
pub mod wire;

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod broadcast;
#[cfg(feature = "server")]
pub mod certificate;
#[cfg(feature = "server")]
pub mod commit;
#[cfg(feature = "server")]
pub mod doctor;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod identity;
#[cfg(feature = "server")]
pub mod interfaces;
#[cfg(feature = "server")]
pub mod outage;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod store;
