//! `sqlx::migrate!` puts sql/ into the programs. Cargo sees that a file there changed, but not that one came or went.

fn main() {
    println!("cargo::rerun-if-changed=sql");
}
