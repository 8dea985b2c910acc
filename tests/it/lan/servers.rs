//! Two servers on one LAN, each with a key of its own.

use rollcall::cli::now_ns;

use crate::keys::{Keys, statuses};
use crate::lan::{Voice, count, gaps, has_read, listen};
use crate::namespace::Lan;

#[test]
fn two_servers_do_not_disturb_each_other() {
    let Some((_lan, [one, two, both, single])) = Lan::of() else { return };
    let keys = Keys::new();
    let (one_pub, two_pub) = (keys.file("one.pub"), keys.file("two.pub"));
    let believes_both = listen(&both, &keys, &["--key", &one_pub, "--key", &two_pub]);
    let believes_two = listen(&single, &keys, &["--key", &two_pub]);

    let epoch = now_ns();
    let ones = keys.announcer("one", epoch).announce(&statuses(["a", "b", "c", "d", "e"]));
    let twos = keys.announcer("two", epoch).announce(&statuses(["v", "w", "x", "y", "z"]));
    let (one, two) = (Voice::of(&one), Voice::of(&two));
    // Of the first three are lost, of the second one, in turns.
    for at in [0, 1, 2, 4] {
        two.say(&twos[at..=at]);
        if at % 4 == 0 {
            one.say(&ones[at..=at]);
        }
    }
    has_read(&both, 6);
    has_read(&single, 6);

    let (printed, said, _) = believes_both.end();
    let key = |name| keys.signer(name).public().to_string();
    let of = |name| -> Vec<&str> {
        let lines = printed.iter().filter(|line| line["key"] == key(name));
        lines.map(|line| line["email"].as_str().unwrap().split('@').next().unwrap()).collect()
    };
    assert_eq!((of("one"), of("two"), printed.len()), (vec!["a", "e"], vec!["v", "w", "x", "z"], 6));
    assert_eq!(gaps(&said), [(3, &*key("one")), (1, &*key("two"))]);

    let (printed, said, _) = believes_two.end();
    assert_eq!(printed.len(), 4);
    assert!(printed.iter().all(|line| line["key"] == key("two")));
    assert_eq!((count(&said, "new"), count(&said, "unknown key"), count(&said, "missing")), (4, 2, 1));
    assert_eq!(gaps(&said), [(1, &*key("two"))]);
}
