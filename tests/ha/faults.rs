//! The faults, as somebody who pulls plugs would make them.

use std::time::Duration;

use crate::bed::DATABASES;
use crate::program::{expect, signal};
use crate::scene::Scene;

pub struct Fault {
    pub name: &'static str,
    /// Answers the host that it was done to.
    pub act: fn(&Scene) -> String,
    pub lasts: Lasts,
    pub heal: fn(&Scene, &str),
}

#[derive(Clone, Copy)]
pub enum Lasts {
    For(Duration),
    /// Until heartbeats are acknowledged again, and at least so long.
    UntilAcknowledged(Duration),
}

const fn for_seconds(seconds: u64) -> Lasts {
    Lasts::For(Duration::from_secs(seconds))
}

fn primary(scene: &Scene) -> String {
    scene.bed.just("just ha primary")
}

fn standby(scene: &Scene) -> String {
    scene.bed.just("just ha standby")
}

fn nothing(_: &Scene, _: &str) {}

/// `just ha VERB HOST`, and the host.
fn to(scene: &Scene, verb: &str, host: String) -> String {
    scene.bed.just(&format!("just ha {verb} {host}"));
    host
}

fn strict(scene: &Scene, on: bool) {
    scene.bed.just(&format!("just ha ctl edit-config --force --quiet -s synchronous_mode_strict={on}"));
}

const CRASH: Fault = Fault {
    name: "PostgreSQL of the primary killed",
    act: |scene| to(scene, "crash", primary(scene)),
    lasts: for_seconds(0),
    heal: nothing,
};
const DIE: Fault = Fault {
    name: "host of the primary killed",
    act: |scene| to(scene, "die", primary(scene)),
    lasts: Lasts::UntilAcknowledged(Duration::from_secs(3)),
    heal: |scene, host| drop(to(scene, "revive", host.to_owned())),
};
const FREEZE: Fault = Fault {
    name: "host of the primary frozen for 40 s, then thawed",
    act: |scene| to(scene, "freeze", primary(scene)),
    lasts: for_seconds(40),
    heal: |scene, host| drop(to(scene, "thaw", host.to_owned())),
};
const SWITCHOVER: Fault = Fault {
    name: "switchover",
    act: |scene| scene.bed.just("just ha switchover"),
    lasts: for_seconds(0),
    heal: nothing,
};
const HAPROXY: Fault = Fault {
    name: "HAProxy killed for 5 s",
    act: |scene| scene.bed.just("just ha haproxy stop"),
    lasts: for_seconds(5),
    heal: |scene, _| drop(scene.bed.just("just ha haproxy start")),
};
const CUT: Fault = Fault {
    name: "primary cut off for 40 s",
    act: |scene| to(scene, "cut", primary(scene)),
    lasts: for_seconds(40),
    heal: |scene, host| drop(to(scene, "heal", host.to_owned())),
};
const STANDBY: Fault = Fault {
    name: "host of the synchronous standby frozen",
    act: |scene| to(scene, "freeze", standby(scene)),
    lasts: Lasts::UntilAcknowledged(Duration::from_secs(5)),
    heal: |scene, host| drop(to(scene, "thaw", host.to_owned())),
};
const PROXY_AND_PRIMARY: Fault = Fault {
    name: "HAProxy and PostgreSQL of the primary killed",
    act: |scene| {
        let host = primary(scene);
        scene.bed.just("just ha haproxy stop");
        to(scene, "crash", host)
    },
    lasts: for_seconds(5),
    heal: |scene, _| drop(scene.bed.just("just ha haproxy start")),
};
const SERVER_AND_STANDBY: Fault = Fault {
    name: "server killed, host of the synchronous standby frozen for 10 s",
    act: |scene| {
        let host = to(scene, "freeze", standby(scene));
        signal("KILL", &[scene.stack.pid("server/pid")]);
        host
    },
    lasts: for_seconds(10),
    heal: |scene, host| {
        to(scene, "thaw", host.to_owned());
        expect(&mut scene.stack.tool("stack/up"), 0, "");
    },
};
const PROMOTED: Fault = Fault {
    name: "standby promoted by mistake",
    act: |scene| to(scene, "promote", standby(scene)),
    lasts: for_seconds(10),
    // Patroni makes it a standby again. Its history is another than the primary's, so it has to be made anew.
    heal: |scene, host| drop(scene.bed.just(&format!("just ha ctl reinit rollcall {host} --force"))),
};
const STRICT: Fault = Fault {
    name: "synchronous_mode_strict, both standbys killed for 20 s",
    act: |scene| {
        strict(scene, true);
        let primary = primary(scene);
        let standbys = DATABASES.into_iter().filter(|host| *host != primary);
        standbys.map(|host| to(scene, "postgresql stop", host.to_owned())).collect::<Vec<_>>().join(" ")
    },
    lasts: for_seconds(20),
    // With one of them all is well again.
    heal: |scene, hosts| {
        scene.assert_nothing_is_acknowledged_for(Duration::from_secs(10));
        for host in hosts.split(' ') {
            to(scene, "postgresql start", host.to_owned());
            scene.until_acknowledged_for(Duration::from_secs(2));
        }
        strict(scene, false);
    },
};
pub const FULL: Fault = Fault {
    name: "disk of the primary full",
    act: |scene| {
        let host = to(scene, "fill", primary(scene));
        // The segment of the log that is begun has room for a while.
        let _ = scene.bed.command("just ha sql").arg("select pg_switch_wal()").output();
        host
    },
    lasts: Lasts::UntilAcknowledged(Duration::from_secs(5)),
    heal: |scene, host| drop(to(scene, "empty", host.to_owned())),
};

pub const SHORT: [Fault; 4] = [CRASH, SWITCHOVER, HAPROXY, STANDBY];
pub const LONG: [Fault; 11] = [
    CRASH,
    DIE,
    FREEZE,
    SWITCHOVER,
    HAPROXY,
    CUT,
    STANDBY,
    STRICT,
    PROXY_AND_PRIMARY,
    SERVER_AND_STANDBY,
    PROMOTED,
];
