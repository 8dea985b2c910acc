//! UDP on this host: its interfaces, the destinations that `ROLLCALL_BROADCAST` names, every socket.

pub mod destination;
pub mod group;
pub mod interfaces;
pub mod proc;
pub mod sockets;

pub use group::Group;
