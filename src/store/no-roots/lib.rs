//! The authorities that sqlx trusts without being told: none.

/// As webpki-roots 1 names it.
pub const TLS_SERVER_ROOTS: &[rustls_pki_types::TrustAnchor<'static>] = &[];
