//! A part of `just prove`.
