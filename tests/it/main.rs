//! The programs from outside: real nginx, real PostgreSQL, real certificates, real sockets, and hosts and networks that
//! are network namespaces.
//!
//! A test has its own folder, free ports and its own database; `stack/up`, the script behind `just up`, starts its
//! parts. It is driven with the real client, with curl and with raw sockets.

mod disk;
mod guardian;
mod keys;
mod machine;
mod namespace;
mod program;
mod session;
mod stack;

mod admin;
mod authority;
mod believed;
mod board;
mod broadcast;
mod certificates;
mod client;
mod cluster;
mod contract;
mod credentials;
mod database;
mod doctor;
mod documents;
mod group_commit;
mod heartbeat;
mod history;
mod hooks;
mod identities;
mod identity;
mod image;
mod lan;
mod lans;
mod lifecycle;
mod listener;
mod logs_and_disk;
mod manuals;
mod metrics;
mod own_parts;
mod page;
mod presence;
mod privacy;
mod promises;
mod proof;
mod refusals;
mod renewal;
mod requests;
mod rotation;
mod server;
mod servers;
mod standby;
mod supervisor;
mod tls;
mod up_and_down;
mod who;
