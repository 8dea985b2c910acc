//! The whole program from outside: real nginx, real PostgreSQL, real certificates, real sockets.
//!
//! Each test starts its own stack with `stack/up`, the script behind `just up`, on free ports and
//! with its own state folder, and drives it with the real client, with curl and with raw sockets.

mod stack;

mod admin;
mod broadcast;
mod certificates;
mod client;
mod database;
mod doctor;
mod group_commit;
mod heartbeat;
mod identity;
mod lifecycle;
mod listener;
mod requests;
mod server;
mod up_and_down;
