//! The listener on networks as they are: 255.255.255.255:6667, between hosts that are network namespaces.
//!
//! That needs root and ip(8). Elsewhere each test says that it was skipped.

#[path = "../scene/keys.rs"]
mod keys;
#[path = "../scene/namespace.rs"]
mod namespace;
#[path = "../scene/program.rs"]
mod program;
mod relay;
mod traffic;

mod decoders;
mod forger;
mod lossy;
mod servers;
mod stopped;
