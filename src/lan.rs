//! UDP on this host: its interfaces, the destinations that `ROLLCALL_BROADCAST` and `--relay` name, every socket.

pub mod destination;
pub mod endpoints;
pub mod group;
pub mod interfaces;
pub mod proc;
pub mod sockets;

pub use group::Group;
