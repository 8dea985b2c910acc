//! HTTP behind nginx: the connection loop, error bodies, and the headers that prove the caller.

mod bounded;
pub mod connection;
pub mod identity;
mod newcomers;
pub mod outage;
pub mod problem;
mod refusals;
mod usual;
