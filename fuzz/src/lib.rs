//! Each module takes any bytes and panics if a reader of rollcall breaks one of its promises: it panics itself, or that
//! which it took is not the same when it is written and read again.
//!
//! `just fuzz NAME` lets LLVM's fuzzer choose the bytes; tests/corpus.rs takes those in `corpus/`.

pub mod datagram;
pub mod headers;
pub mod judge;
pub mod settings;
pub mod state;
pub mod subject;
pub mod x509;

mod bytes;
