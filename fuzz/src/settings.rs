//! The settings and flags. Those that have a form of their own are said as they were read.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use rollcall::cli::{FromArgs, ServerName, Timespan};
use rollcall::http::identity::{Canary, Identity};
use rollcall::lan::destination::{self, Destination, Destinations};
use rollcall::protocol::pseudonym::Privacy;
use rollcall::store::Store;
use rollcall::{admin, listener, server};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    same_again::<Timespan>(text);
    same_again::<Identity>(text);
    let _ = text.parse::<Privacy>();
    if let Ok(ServerName(name)) = text.parse() {
        assert!(!name.is_empty() && !name.contains(char::is_control));
    }
    if let Ok(Canary(Some(email))) = text.parse() {
        assert!(Canary::from_str(email.as_str()).is_ok_and(|canary| canary.0 == Some(email)));
    }
    if let Ok(Destinations(list)) = text.parse() {
        assert!(!list.is_empty());
        let again: Vec<String> = list.iter().map(written).collect();
        assert_eq!(destination::parse(&again.join(",")), Ok(list), "{again:?}");
    }
    let _ = Store::open(text, Duration::from_secs(1)).map_err(|error| error.to_string());
    let words: Vec<&str> = text.split('\n').collect();
    // Help and mistakes are answers, too.
    let _ = server::Options::from_args(&["rollcall-server"], &words);
    let _ = listener::Options::from_args(&["rollcall-listen"], &words);
    let _ = admin::Options::from_args(&["rollcall-admin"], &words);
}

fn same_again<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let again = value.to_string();
    assert!(again.parse::<T>().is_ok_and(|again| again == value), "{value:?} is written {again:?}");
}

fn written(destination: &Destination) -> String {
    match destination {
        Destination::Auto { port } => format!("auto:{port}"),
        Destination::Interface { name, port } => format!("{name}:{port}"),
        Destination::Address { ip, interface, port, ttl } => {
            let interface = interface.as_ref().map_or(String::new(), |name| format!("%{name}"));
            let host = if ip.is_ipv6() { format!("[{ip}{interface}]") } else { format!("{ip}{interface}") };
            format!("{host}:{port}{}", ttl.map_or(String::new(), |ttl| format!("/{ttl}")))
        }
    }
}
