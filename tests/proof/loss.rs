//! Is anything lost that was acknowledged?

use std::thread;
use std::time::Duration;

use crate::claims::{Came, Verdict};
use crate::faults::{self, Part};
use crate::program::is_root;
use crate::scene::{Account, Scene};

const PEOPLE: usize = 12;
const BETWEEN: Duration = Duration::from_millis(5);
const TIMES: u64 = 3;

pub fn over(parts: &[Part]) -> Came {
    let mut scene = Scene::up(PEOPLE, None);
    let load = scene.load(BETWEEN);
    for time in 1..=TIMES {
        // Not in step with anything.
        thread::sleep(Duration::from_millis(700 * time + fastrand::u64(0..1000)));
        faults::kill(&scene, parts);
        scene.goes_on(&load);
    }
    came(scene.account(load), TIMES)
}

pub fn over_a_full_disk() -> Came {
    if !is_root() {
        return (Verdict::NotMeasured, "it needs root, to mount a small disk".to_owned());
    }
    let mut scene = Scene::up(PEOPLE, Some("500m"));
    let load = scene.load(BETWEEN);
    thread::sleep(Duration::from_secs(3));
    faults::fill_the_disk(&scene);
    scene.goes_on(&load);
    thread::sleep(Duration::from_secs(2));
    came(scene.account(load), 1)
}

fn came(account: Account, times: u64) -> Came {
    let Account { acknowledged, refused, lost, unheard, announced, announced_only } = &account;
    let text = format!(
        "{times} x: {acknowledged} acknowledged, {} lost; {announced} announced, {} without a row, {} not heard; {refused} \
         not acknowledged",
        lost.len(),
        announced_only.len(),
        unheard.len()
    );
    (Verdict::of(account.held() && *refused > 0), text)
}
