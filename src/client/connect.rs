//! One TCP connection to a name that may have several addresses, some of them dead (RFC 8305).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_std::future::timeout;
use async_std::net::TcpStream;
use async_std::task;

use crate::cli::Timespan;

/// How long an attempt has before the next one begins beside it: the Connection Attempt Delay of RFC 8305, section 8.
const HEAD_START: Duration = Duration::from_millis(250);

/// Tries the addresses of the name one after the other, beside each other when one does not answer at once. The
/// first that answers is taken, and the others are given up.
pub async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, Error> {
    let began = Instant::now();
    let left = || limit.saturating_sub(began.elapsed());
    let name = (host.to_owned(), port);
    let found =
        timeout(limit, task::spawn_blocking(move || name.to_socket_addrs().map(Vec::from_iter))).await;
    let addresses = match found {
        Ok(Ok(addresses)) => in_turns(addresses),
        Ok(Err(error)) => return Err(Error::NoAddress { host: host.to_owned(), why: reason(&error) }),
        Err(_) => {
            let why = format!("no answer within {}", Timespan(limit));
            return Err(Error::NoAddress { host: host.to_owned(), why });
        }
    };
    let mut waiting = addresses.into_iter();
    let mut attempts = Attempts::default();
    let mut tried = Vec::new();
    loop {
        // The first; and one more each time that one failed or had its head start.
        if let Some(address) = waiting.next() {
            attempts.0.push((address, Box::pin(TcpStream::connect(address))));
        }
        if attempts.0.is_empty() {
            return Err(Error::Unreachable { host: host.to_owned(), port, tried });
        }
        let patience = if waiting.len() > 0 { HEAD_START.min(left()) } else { left() };
        match timeout(patience, poll_fn(|cx| attempts.poll(cx))).await {
            Ok((_, Ok(stream))) => return Ok(stream),
            Ok((address, Err(error))) => tried.push((address.ip(), reason(&error))),
            Err(_) if left().is_zero() => {
                let silent = attempts.0.iter().map(|(address, _)| address.ip());
                tried.extend(silent.map(|ip| (ip, format!("no answer within {}", Timespan(limit)))));
                return Err(Error::Unreachable { host: host.to_owned(), port, tried });
            }
            Err(_) => {}
        }
    }
}

/// Those under way.
#[derive(Default)]
struct Attempts(Vec<(SocketAddr, Attempt)>);

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

impl Attempts {
    /// Ready with the first that ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(SocketAddr, io::Result<TcpStream>)> {
        for i in 0..self.0.len() {
            if let Poll::Ready(ended) = self.0[i].1.as_mut().poll(cx) {
                return Poll::Ready((self.0.remove(i).0, ended));
            }
        }
        Poll::Pending
    }
}

/// The two families take turns, each in the order that the system prefers (RFC 6724).
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (these, those): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == preferred);
    let most = these.len().max(those.len());
    (0..most).flat_map(|i| [these.get(i), those.get(i)]).flatten().copied().collect()
}

/// In the words of the system, without its number and without the standard library's words before them.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    text.split(" (os error ").next().unwrap_or(text).to_owned()
}

#[derive(Debug)]
pub enum Error {
    NoAddress { host: String, why: String },
    Unreachable { host: String, port: u16, tried: Vec<(IpAddr, String)> },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoAddress { host, why } => {
                write!(f, "the name {host} has no address: {why}; are the URL and this device's DNS right?")
            }
            Error::Unreachable { host, port, tried } => {
                write!(f, "cannot reach {host} port {port}")?;
                for (i, (ip, why)) in tried.iter().enumerate() {
                    f.write_str(if i == 0 { ": " } else { ", " })?;
                    match ip.to_string() {
                        ip if ip == *host => write!(f, "{why}")?,
                        ip => write!(f, "{ip}: {why}")?,
                    }
                }
                f.write_str("; on the server's host, just status tells whether it is up")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_preferred_one_begins() {
        let of = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 1)).collect()
        };
        for (given, expected) in [
            (vec![], vec![]),
            (vec!["::1", "::2", "::3", "192.0.2.1"], vec!["::1", "192.0.2.1", "::2", "::3"]),
            (vec!["192.0.2.1", "192.0.2.2", "::1", "::2"], vec!["192.0.2.1", "::1", "192.0.2.2", "::2"]),
            (vec!["192.0.2.1"], vec!["192.0.2.1"]),
        ] {
            assert_eq!(in_turns(of(&given)), of(&expected));
        }
    }

    #[test]
    fn an_error_names_the_addresses_that_were_tried() {
        let refused = || io::Error::from_raw_os_error(111);
        assert_eq!(reason(&refused()), "Connection refused");
        let tried = |ips: &[&str]| ips.iter().map(|ip| (ip.parse().unwrap(), reason(&refused()))).collect();
        let host = "192.0.2.1".to_owned();
        assert_eq!(
            Error::Unreachable { host, port: 443, tried: tried(&["192.0.2.1"]) }.to_string(),
            "cannot reach 192.0.2.1 port 443: Connection refused; \
             on the server's host, just status tells whether it is up"
        );
        let host = "rollcall.example.com".to_owned();
        assert_eq!(
            Error::Unreachable { host, port: 443, tried: tried(&["2001:db8::1", "192.0.2.1"]) }.to_string(),
            "cannot reach rollcall.example.com port 443: 2001:db8::1: Connection refused, \
             192.0.2.1: Connection refused; on the server's host, just status tells whether it is up"
        );
    }
}
