//! A bad network: a relay between two LANs that drops, duplicates, reorders and flips bits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, UdpSocket};

use crate::lan::{PORT, Voice, has_read};
use crate::namespace::Namespace;
use crate::program::PATIENCE;

/// Numbers that look random, the same ones for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// The far LAN gets those datagrams of the near one that it passes on, and no others.
pub struct Relay<'a> {
    ear: UdpSocket,
    mouth: Voice,
    /// Where the one listener of the far LAN is: nothing more is said before it has kept up.
    far: &'a Namespace,
    random: Random,
    /// Datagrams that it has heard.
    heard: u64,
    /// Copies that wait, by the count of datagrams that release them, and by their age.
    held: BTreeMap<(u64, u64), Vec<u8>>,
    /// Copies that were made, and those among them that bits were flipped in.
    pub copies: u64,
    pub flipped: u64,
    /// Datagrams of which at least one copy was intact.
    pub intact: BTreeSet<Vec<u8>>,
    pub said: u64,
}

impl<'a> Relay<'a> {
    pub fn new(near: &Namespace, mouth: Voice, far: &'a Namespace, seed: u64) -> Self {
        let ear = near.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
        ear.set_read_timeout(Some(PATIENCE)).unwrap();
        let (held, intact) = (BTreeMap::new(), BTreeSet::new());
        Self { ear, mouth, far, random: Random(seed), heard: 0, held, copies: 0, flipped: 0, intact, said: 0 }
    }

    /// Hears one datagram, and decides its fate.
    pub fn carry(&mut self) {
        let mut buffer = [0; 2048];
        let len = self.ear.recv(&mut buffer).unwrap();
        self.heard += 1;
        if !self.random.percent(30) {
            let copies = if self.random.percent(10) { 2 } else { 1 };
            (0..copies).for_each(|_| self.copy(buffer[..len].to_vec()));
        }
        self.say_until(self.heard);
    }

    fn copy(&mut self, mut datagram: Vec<u8>) {
        self.copies += 1;
        if self.random.percent(1) {
            self.flipped += 1;
            let (flips, len) = (1 + self.random.below(3), datagram.len() as u64);
            // A set, so that no bit is flipped back.
            let bits: BTreeSet<u64> = (0..flips).map(|_| self.random.below(8 * len)).collect();
            for bit in bits {
                datagram[bit as usize / 8] ^= 1 << (bit % 8);
            }
        } else {
            self.intact.insert(datagram.clone());
        }
        let turn = self.heard + self.random.below(20);
        self.held.insert((turn, self.copies), datagram);
    }

    /// Sends the copies that wait for this count.
    pub fn say_until(&mut self, turn: u64) {
        while let Some(entry) = self.held.first_entry().filter(|entry| entry.key().0 <= turn) {
            self.mouth.say(&[entry.remove()]);
            self.said += 1;
            if self.said.is_multiple_of(32) {
                has_read(self.far, self.said);
            }
        }
    }
}
