//! `rollcall-admin history` and `maintain`: the visits of a person, and the care of the table that has them.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::{Error, History, report, time, unless_closed};
use crate::cli::{Timespan, note, now_ns, printable, setting};
use crate::protocol::status::Email;
use crate::store::Store;
use crate::store::events::{Event, Kind, Maintained};

/// Events of one person that are read, the newest.
const MOST: u32 = 100_000;
/// Whoever was noticed sooner than this after they came was noticed at once.
const AT_ONCE_NS: u64 = 10_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From somebody's first heartbeat to their last one before they were offline. Nanoseconds since the Unix epoch.
#[derive(Debug, Default, PartialEq)]
struct Visit {
    /// `None`: it began before the first event that is known.
    from_ns: Option<u64>,
    /// They came between then and `from_ns`, while nobody looked.
    not_before_ns: Option<u64>,
    /// `None`: it goes on.
    to_ns: Option<u64>,
    is_late: bool,
    ip: Option<IpAddr>,
    server: Option<String>,
}

/// The visits that these events of one person tell of, the oldest first.
fn visits(events: Vec<Event>) -> Vec<Visit> {
    let (mut visits, mut present) = (Vec::new(), None);
    for Event { at_ns, kind, since_ns, ip, server, .. } in events {
        let visit = present.get_or_insert_with(|| match kind {
            Kind::Online => Visit {
                from_ns: since_ns.filter(|since| at_ns.saturating_sub(*since) <= AT_ONCE_NS).or(Some(at_ns)),
                not_before_ns: since_ns.filter(|since| at_ns.saturating_sub(*since) > AT_ONCE_NS),
                ..Visit::default()
            },
            _ => Visit::default(),
        });
        visit.is_late = kind == Kind::Late;
        visit.ip = ip.or(visit.ip);
        visit.server = server.or(visit.server.take());
        if kind == Kind::Offline {
            visit.to_ns = Some(since_ns.unwrap_or(at_ns));
            // An administrator's interval can make somebody online long after the last heartbeat.
            visit.from_ns = visit.from_ns.min(visit.to_ns);
            visits.extend(present.take());
        }
    }
    visits.extend(present);
    visits
}

/// How long its server could not hear meanwhile. Another one may have heard them, which no row tells.
fn unheard(visit: &Visit, servers: &[Event], now_ns: u64) -> Duration {
    let (from, to) = (visit.from_ns.unwrap_or(0), visit.to_ns.unwrap_or(now_ns));
    let (mut unheard, mut deaf) = (0, None);
    let mut end = |since: u64, until: u64| unheard += until.min(to).saturating_sub(since.max(from));
    for event in servers.iter().filter(|event| event.server == visit.server) {
        match event.kind {
            Kind::Deaf => deaf = deaf.or(Some(event.at_ns)),
            _ => deaf.take().into_iter().for_each(|since| end(since, event.at_ns)),
        }
    }
    deaf.into_iter().for_each(|since| end(since, now_ns));
    Duration::from_nanos(unheard)
}

pub async fn history(store: &Store, History { email, since, json }: &History) -> Result<(), Error> {
    let email = Email::new(email).map_err(Error::Email)?;
    let now = now_ns();
    let ago = since.map_or(u64::MAX, |Timespan(ago)| u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX));
    let events = store.history(&email, now.saturating_sub(ago), MOST).await?;
    let servers = store.turns_of_servers(now.saturating_sub(ago)).await?;
    if events.len() == MOST as usize {
        note(format_args!(
            "rollcall-admin: only the newest {MOST} events are shown; --since tells from when on"
        ));
    }
    let visits = visits(events);
    if visits.is_empty() && !json {
        let since = since.map_or_else(String::new, |since| format!(" of the last {since}"));
        note(format_args!("rollcall-admin: no visits of {email}{since} are known"));
        return Ok(());
    }
    let mut out = io::stdout().lock();
    if !json {
        let [from, to] = ["FROM", "TO"];
        unless_closed(writeln!(out, "{from:<20}  {to:<20}  HOW LONG    ADDRESS          SERVER"))?;
    }
    for visit in visits {
        let end = visit.to_ns.unwrap_or(now);
        let how_long = visit.from_ns.map(|from| Duration::from_nanos(end.saturating_sub(from)));
        let unheard = unheard(&visit, &servers, now);
        unless_closed(if *json {
            let state = match (visit.to_ns, visit.is_late) {
                (Some(_), _) => "offline",
                (None, true) => "late",
                (None, false) => "online",
            };
            let line = serde_json::json!({
                "from": visit.from_ns.map(time), "not_before": visit.not_before_ns.map(time),
                "to": visit.to_ns.map(time), "seconds": how_long.map(|time| time.as_secs()), "unheard_seconds": unheard.as_secs(),
                "state": state, "ip": visit.ip, "server": visit.server,
            });
            writeln!(out, "{line}")
        } else {
            let from = visit.from_ns.map_or("before that".to_owned(), second);
            let to = match (visit.to_ns, visit.is_late) {
                (Some(to), _) => second(to),
                (None, true) => "late".to_owned(),
                (None, false) => "here now".to_owned(),
            };
            let how_long = how_long.map_or("-".to_owned(), short);
            let ip = visit.ip.map_or("-".to_owned(), |ip| ip.to_string());
            let server = visit.server.as_deref().map_or("-".to_owned(), printable);
            let gap = visit.not_before_ns.map_or_else(String::new, |since| {
                format!("  (came after {}; no board looked then)", second(since))
            });
            let unheard = match unheard.as_secs() {
                0 => String::new(),
                _ => format!("  (for {} of it this server heard nobody)", short(unheard)),
            };
            writeln!(out, "{from:<20}  {to:<20}  {how_long:<10}  {ip:<15}  {server}{gap}{unheard}")
        })?;
    }
    Ok(())
}

fn second(ns: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)).to_string()
}

/// The two largest units: `8h 18m`.
fn short(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub async fn maintain(store: &Store) -> Result<(), Error> {
    let Timespan(keep) = setting(None, "ROLLCALL_KEEP", "90d")?;
    if !(DAY..=DAY * 3650).contains(&keep) {
        return Err(Error::Keep(Timespan(keep)));
    }
    let Maintained { made, dropped, deleted } = store.maintain_events(keep).await?;
    for name in made {
        report(&name, "made")?;
    }
    for name in dropped {
        report(&name, "dropped")?;
    }
    if deleted > 0 {
        report(&deleted, &format!("events deleted, older than {} days", keep.as_secs() / DAY.as_secs()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn event(at: u64, kind: Kind, since: u64) -> Event {
        Event {
            id: 0,
            at_ns: at * SECOND,
            email: Some("a@example.com".to_owned()),
            kind,
            since_ns: Some(since * SECOND),
            ip: Some(IpAddr::from([192, 0, 2, at as u8])),
            server: Some("host".to_owned()),
        }
    }

    #[test]
    fn a_visit_ends_with_the_last_sighting() {
        let told = visits(vec![
            event(10, Kind::Late, 5),
            event(20, Kind::Offline, 5),
            event(30, Kind::Online, 30),
            event(70, Kind::Late, 40),
            event(80, Kind::Online, 80),
            event(150, Kind::Late, 120),
            event(200, Kind::Offline, 120),
            // The board was away.
            event(250, Kind::Online, 205),
        ]);
        let seconds = |ns: Option<u64>| ns.map(|ns| ns / SECOND);
        let told: Vec<_> = told
            .iter()
            .map(|visit| (seconds(visit.from_ns), seconds(visit.to_ns), seconds(visit.not_before_ns)))
            .collect();
        assert_eq!(told, [(None, Some(5), None), (Some(30), Some(120), None), (Some(250), None, Some(205))]);
        assert_eq!(visits(vec![]), []);
    }

    #[test]
    fn the_time_in_which_its_server_heard_nobody_is_told() {
        let turn = |at, kind, server: &str| Event {
            email: None,
            server: Some(server.to_owned()),
            ..event(at, kind, at)
        };
        let turns = [
            turn(10, Kind::Deaf, "host"),
            turn(30, Kind::Hears, "host"),
            turn(40, Kind::Deaf, "other"),
            turn(50, Kind::Deaf, "host"),
            turn(55, Kind::Hears, "host"),
            turn(90, Kind::Deaf, "host"),
        ];
        for (from, to, expected) in
            [(Some(20), Some(60), 15), (Some(31), Some(49), 0), (None, Some(60), 25), (Some(60), None, 10)]
        {
            let ns = |seconds: Option<u64>| seconds.map(|seconds| seconds * SECOND);
            let visit = Visit {
                from_ns: ns(from),
                to_ns: ns(to),
                server: Some("host".to_owned()),
                ..Visit::default()
            };
            assert_eq!(unheard(&visit, &turns, 100 * SECOND), Duration::from_secs(expected), "{from:?}");
        }
    }

    #[test]
    fn a_time_is_short() {
        assert_eq!(short(Duration::from_millis(29_880_400)), "8h 18m");
        assert_eq!(short(Duration::from_millis(900)), "0s");
    }
}
