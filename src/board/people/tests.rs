use super::memory::REMEMBERED;
use super::*;
use crate::store::presence::Window;

fn row(email: &str, good_until_ms: u64) -> Person {
    let window = Window { good_until_ms, gone_after_ms: good_until_ms + 1000, every_s: 30 };
    Person {
        email: email.to_owned(),
        disabled: false,
        seen: Some((1_000_000_000, "192.0.2.1".parse().unwrap(), 1)),
        server: Some("here".to_owned()),
        window: Some(window),
        every_s: 30,
        certificate: None,
    }
}

fn clock(heard_ms: u64, silent_ms: u64) -> Option<Vec<ServerRow>> {
    Some(vec![ServerRow { name: "here".to_owned(), epoch: 1, heard_ms, resumed_ms: 0, silent_ms }])
}

fn people(key: Option<Key>) -> (People, Receiver<Change>) {
    let (people, changes) = People::new("00000000".to_owned(), Email::new("canary@x").ok(), key);
    people.clocks(clock(100_000, 0));
    people.apply(vec![row("a@x", 110_000), row("b@x", 120_000), row("canary@x", 1)]);
    people.ready();
    (people, changes)
}

fn state(people: &People, email: &str) -> String {
    people.person(email).1.unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_row_is_read_before_somebody_is_called_late() {
    let (people, changes) = people(None);
    assert_eq!((people.number_of_all(), people.doubtful(9).len()), (2, 0));
    people.clocks(clock(110_001, 0));
    assert_eq!((people.doubtful(9), state(&people, "a@x")), (vec!["a@x".to_owned()], "online".to_owned()));
    assert!(changes.is_empty());
    people.apply(vec![row("a@x", 110_000)]);
    assert_eq!((people.doubtful(9).len(), state(&people, "a@x")), (0, "late".to_owned()));
    let change = changes.try_recv().unwrap();
    assert_eq!((change.position, change.from, change.to), (1, Some(State::Online), Some(State::Late)));
    // It was heard meanwhile.
    people.clocks(clock(120_001, 0));
    people.apply(vec![row("b@x", 150_000)]);
    assert_eq!(state(&people, "b@x"), "online");
    assert_eq!(people.look().unwrap().counts.states, [0, 1, 0, 1, 0]);
}

#[test]
fn nobody_is_late_while_the_server_cannot_hear() {
    let (people, changes) = people(None);
    people.begin(HashMap::from([("a@x".to_owned(), 7)]));
    let since = || people.person("a@x").1.unwrap()["since"].clone();
    let arrived = since();
    people.lock().servers[0].moved = Instant::now().checked_sub(DEAF_AFTER).unwrap();
    people.clocks(None);
    assert_eq!(state(&people, "a@x"), "unknown");
    assert_ne!(since(), arrived);
    assert_eq!(people.look().unwrap().counts.states, [0, 0, 2, 0, 0]);
    // One event of the server, and none of the people.
    let (events, end) = people.since(0, 9).unwrap();
    assert!(matches!(&events[..], [(1, Event::Server(_))]) && end == 1 && changes.is_empty());
    people.apply(vec![row("a@x", 1)]);
    assert_eq!(state(&people, "a@x"), "unknown");
    people.clocks(clock(100_500, 0));
    assert_eq!((state(&people, "a@x"), people.doubtful(9)), ("online".to_owned(), vec!["a@x".to_owned()]));
    // The silence of the server ended no state.
    assert_eq!(since(), arrived);
    // An administrator says that it is gone.
    people.clocks(Some(Vec::new()));
    people.apply(vec![row("b@x", 120_000)]);
    assert_eq!(state(&people, "b@x"), "offline");
}

#[test]
fn whoever_is_missing_from_a_page_is_in_doubt() {
    let (people, changes) = people(None);
    people.page("", vec![row("b@x", 120_000)], true);
    assert_eq!(people.doubtful(9), ["a@x"]);
    people.remove(["a@x", "nobody@x"].into_iter());
    assert_eq!((people.number_of_all(), people.doubtful(9).len()), (1, 0));
    assert_eq!(changes.try_recv().unwrap().to, None);
    people.page("b@x", vec![row("c@x", 120_000)], false);
    people.page("c@x", vec![], true);
    assert_eq!((people.number_of_all(), people.doubtful(9).len()), (2, 0));
}

#[test]
fn an_announcement_names_a_pseudonym() {
    let email = |text: &str| Email::new(text).unwrap();
    let key = || Key::new(&[7; 32]);
    let (people, _changes) = people(Some(key()));
    for stranger in ["a@x", "canary@x", "1b51cb3d88a03dce@pseudonym.invalid"] {
        people.heard_of(&email(stranger));
    }
    people.heard_of(&key().pseudonym(&email("canary@x")));
    assert!(people.doubtful(9).is_empty());
    people.heard_of(&key().pseudonym(&email("b@x")));
    assert_eq!(people.doubtful(9), ["b@x"]);
}

#[test]
fn a_position_that_is_too_old_is_no_place() {
    let (people, _changes) = people(None);
    for round in 0..=REMEMBERED as u32 {
        people.apply(vec![Person { every_s: 31 + round % 2, ..row("a@x", 110_000) }]);
    }
    assert_eq!(people.look().unwrap().position, REMEMBERED as u64 + 1);
    assert!(people.since(0, 9).is_none());
    let (events, end) = people.since(1, 9).unwrap();
    assert_eq!((events.len(), events[0].0, end), (9, 2, 10));
    for (name, number) in [
        ("00000000.1", Some(1)),
        ("00000000.01", None),
        ("00000000.+1", None),
        ("00000000.99999", None),
        ("00000001.1", None),
        ("00000000", None),
        ("", None),
    ] {
        assert_eq!(people.number(name), number, "{name}");
    }
}
