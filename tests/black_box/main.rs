//! The whole program from outside: real nginx, real PostgreSQL, real certificates, real sockets.
//!
//! Each test starts its own stack with `stack/up`, the script behind `just up`, on free ports and
//! with its own state folder, and drives it with the real client, with curl and with raw sockets.

#[allow(dead_code, reason = "the tests in ../lan use the rest")]
#[path = "../scene/namespace.rs"]
mod namespace;
mod stack;

mod admin;
mod broadcast;
mod certificates;
mod client;
mod credentials;
mod database;
mod doctor;
mod documents;
mod group_commit;
mod heartbeat;
mod identity;
mod lans;
mod lifecycle;
mod listener;
mod logs_and_disk;
mod privacy;
mod promises;
mod refusals;
mod requests;
mod rotation;
mod server;
mod up_and_down;
