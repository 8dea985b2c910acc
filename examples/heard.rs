//! Rollcall inside another program: it believes the server that we know.
//!
//!     cargo run --example heard -- certs/broadcast.pub [PORT]
//!
//! [`sockets::receiver`] shares the port with every other listener; [`Judge`] finds the new
//! announcements. This program keeps the last sighting of everybody.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use rollcall::cli::now_ns;
use rollcall::keyfile;
use rollcall::lan::sockets;
use rollcall::protocol::judge::{Judge, Policy, Verdict};

fn main() {
    if let Err(error) = hear() {
        eprintln!("heard: {error}");
        std::process::exit(1);
    }
}

fn hear() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("which key? heard KEY.pub [PORT]")?;
    let port = std::env::args().nth(2).map_or(Ok(6667), |port| port.parse())?;
    let policy = Policy { keys: vec![keyfile::public_key(Path::new(&file))?], ..Policy::default() };
    let mut judge = Judge::new(policy, Vec::new(), now_ns());
    let socket = sockets::receiver((Ipv4Addr::UNSPECIFIED, port).into())?;
    let mut here = BTreeMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        // `bind` set a timeout, after which there is time for other things.
        if let Ok((len, _)) = socket.recv_from(&mut buffer)
            && let Verdict::New(announcement) = judge.judge(&buffer[..len], now_ns())
        {
            let status = announcement.verified.status();
            here.insert(status.email.clone(), status.last_seen_ns);
            println!("{} is here, as are {} others", status.email, here.len() - 1);
        }
        for gap in judge.settle(Instant::now()) {
            println!("{gap}");
        }
    }
}
