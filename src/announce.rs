//! What the broadcaster says next: numbers and signs what was committed, and repeats the newest.
//!
//! No socket and no clock: statuses and times in, datagrams out. The broadcaster keeps an [`Announcer`] and
//! a [`Repetition`] under one lock. After a commit it sends what [`Announcer::announce`] gives and hands the
//! last datagram to [`Repetition::sent`]; a task sleeps until [`Repetition::next`] and sends what is
//! [`Repetition::due`]. One lock, so that the order on the wire is the order of the numbers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::{self, Problem};
use crate::sign::Signer;
use crate::status::Status;
use crate::wire::{self, Batch, KeyId, Kind};

/// Gives every status its sequence, and every batch its signature. One per key at a time.
pub struct Announcer {
    signer: Signer,
    key_id: KeyId,
    epoch: u64,
    sequence: u64,
}

impl Announcer {
    /// `epoch` is what [`LastEpoch::next`] gave.
    pub fn new(signer: Signer, epoch: u64) -> Self {
        let key_id = signer.public().id();
        Self { signer, key_id, epoch, sequence: 0 }
    }

    /// The datagrams that announce what one commit held, in its order. They have to be sent, all of them
    /// and in this order: a number that is not heard is reported as missing.
    pub fn announce(&mut self, committed: &[Status]) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::with_capacity(committed.len());
        for statuses in committed.chunks(wire::trailer::MAX_COUNT.into()) {
            let batch = Batch {
                kind: Kind::SEEN,
                key_id: self.key_id,
                epoch: self.epoch,
                first_sequence: self.sequence + 1,
                statuses,
            };
            datagrams.extend(wire::encode_batch(&batch, |message| self.signer.sign(message)));
            self.sequence += statuses.len() as u64;
        }
        datagrams
    }
}

/// When the newest datagram is said again: so long after it was new, and then every [`EVERY`].
const AFTER: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];
pub const EVERY: Duration = Duration::from_secs(30);

/// The repetition of the newest datagram, by which listeners notice that the newest was lost.
#[derive(Default)]
pub struct Repetition {
    newest: Option<Newest>,
}

struct Newest {
    datagram: Vec<u8>,
    /// When it was new.
    sent: Instant,
    /// How long after that it is due again.
    due: Duration,
}

impl Repetition {
    /// `datagram`, the last of a batch, was sent for the first time.
    pub fn sent(&mut self, datagram: Vec<u8>, now: Instant) {
        self.newest = Some(Newest { datagram, sent: now, due: AFTER[0] });
    }

    /// When to ask [`Repetition::due`] next; `None` before anything was sent.
    pub fn next(&self) -> Option<Instant> {
        self.newest.as_ref().map(|newest| newest.sent + newest.due)
    }

    /// The newest, due or not: a server that ends says it once more, for nobody will repeat it.
    pub fn newest(&self) -> Option<&[u8]> {
        self.newest.as_ref().map(|newest| &newest.datagram[..])
    }

    /// The datagram to send again now. However late this is asked, once makes up for what was not asked.
    pub fn due(&mut self, now: Instant) -> Option<&[u8]> {
        let newest = self.newest.as_mut()?;
        let age = now.saturating_duration_since(newest.sent);
        if age < newest.due {
            return None;
        }
        newest.due = after(age);
        Some(&newest.datagram)
    }
}

/// The first moment of the schedule that is later than `age`.
fn after(age: Duration) -> Duration {
    let last = AFTER[AFTER.len() - 1];
    AFTER.into_iter().find(|moment| *moment > age).unwrap_or_else(|| {
        let rounds = age.saturating_sub(last).as_secs() / EVERY.as_secs() + 1;
        last + Duration::from_secs(rounds * EVERY.as_secs())
    })
}

const ROLE: &str = "the last epoch";
const DAMAGED: &str = "it must hold one number and a line end; if the clock is right, remove the file";

/// The last epoch of a server, in a file that outlives it.
pub struct LastEpoch {
    path: PathBuf,
    epoch: u64,
}

impl LastEpoch {
    /// In `KEY.epoch`, beside the key that signs.
    pub fn beside(key: &Path) -> Result<Self, EpochError> {
        let mut path = key.as_os_str().to_owned();
        path.push(".epoch");
        Self::load(Path::new(&path))
    }

    /// 0 if there is no file yet.
    fn load(path: &Path) -> Result<Self, EpochError> {
        let error = EpochError::of(ROLE, path);
        let epoch = match files::read(path, files::SMALL) {
            Ok(text) => {
                let number =
                    str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
                number.filter(|epoch| *epoch < u64::MAX).ok_or_else(|| error(Problem::Damaged(DAMAGED)))?
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => 0,
            Err(cause) => return Err(error(Problem::Read(cause))),
        };
        Ok(Self { path: path.to_owned(), epoch })
    }

    /// The epoch of a server that starts now: its time, or one more than the last epoch when the clock stepped
    /// back since. It is on the disk before this returns.
    pub fn next(self, now_ns: u64) -> Result<u64, EpochError> {
        let epoch = u64::max(now_ns, self.epoch + 1);
        files::replace(&self.path, format!("{epoch}\n").as_bytes())
            .map_err(|cause| EpochError::of(ROLE, &self.path)(Problem::Write(cause)))?;
        Ok(epoch)
    }
}

/// The file of the last epoch cannot be used.
pub type EpochError = files::Error<Problem>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::Signer;
    use crate::status::Email;
    use crate::wire::{Datagram, Verified};
    use std::fs;

    fn announcer(epoch: u64) -> Announcer {
        let key = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
            -----END PRIVATE KEY-----\n";
        Announcer::new(Signer::from_pem(key).unwrap(), epoch)
    }

    fn statuses(count: usize) -> Vec<Status> {
        let status = |i| Status {
            email: Email::new(&format!("user{i}@example.com")).unwrap(),
            last_seen_ns: i as u64,
            ip: "192.0.2.1".parse().unwrap(),
            port: 1,
        };
        (0..count).map(status).collect()
    }

    fn verified(announcer: &Announcer, datagram: &[u8]) -> Verified {
        let Datagram::Signed(claim) = Datagram::decode(datagram).unwrap() else { panic!("unsigned") };
        claim
            .verify(|message, signature| announcer.signer.public().verify(message, signature))
            .expect("our own signature")
    }

    #[test]
    fn numbers_go_on_without_a_gap_and_everything_verifies() {
        let mut announcer = announcer(77);
        let mut expected = 0;
        for count in [1, 0, 3, 512, 513, 1100, 2] {
            let statuses = statuses(count);
            let datagrams = announcer.announce(&statuses);
            assert_eq!(datagrams.len(), count);
            for (datagram, status) in datagrams.iter().zip(&statuses) {
                let verified = verified(&announcer, datagram);
                expected += 1;
                assert_eq!((verified.epoch(), verified.sequence()), (77, expected));
                assert_eq!(verified.status(), status);
            }
        }
    }

    #[test]
    fn the_newest_is_repeated_when_the_contract_says() {
        let start = Instant::now();
        let mut repetition = Repetition::default();
        assert_eq!((repetition.next(), repetition.due(start)), (None, None));
        repetition.sent(b"one".to_vec(), start);
        for ms in [50, 250, 1000, 4000, 34_000, 64_000, 94_000] {
            let moment = start + Duration::from_millis(ms);
            assert_eq!(repetition.next(), Some(moment));
            assert_eq!(repetition.due(moment - Duration::from_millis(1)), None);
            assert_eq!(repetition.due(moment), Some(&b"one"[..]), "{ms}");
            assert_eq!(repetition.due(moment), None);
        }
        let later = start + Duration::from_secs(95);
        repetition.sent(b"two".to_vec(), later);
        assert_eq!(repetition.next(), Some(later + Duration::from_millis(50)));
    }

    #[test]
    fn asked_late_it_is_repeated_once() {
        let start = Instant::now();
        let mut repetition = Repetition::default();
        repetition.sent(b"one".to_vec(), start);
        assert!(repetition.due(start + Duration::from_secs(3)).is_some());
        assert_eq!(repetition.next(), Some(start + Duration::from_secs(4)));
        assert!(repetition.due(start + Duration::from_secs(3600)).is_some());
        assert_eq!(repetition.next(), Some(start + Duration::from_secs(3604)));
        assert!(repetition.due(start + Duration::from_secs(3601)).is_none());
    }

    #[test]
    fn epochs_only_grow() {
        let next = |path: &Path, now_ns| LastEpoch::load(path).and_then(|last| last.next(now_ns));
        let file = std::env::temp_dir().join(format!("rollcall-epoch-{}", std::process::id()));
        for (now, epoch) in [(1000, 1000), (2000, 2000), (500, 2001), (2001, 2002), (2003, 2003), (0, 2004)] {
            assert_eq!(next(&file, now).unwrap(), epoch);
        }
        for damaged in [&b""[..], b"\n", b"12", b"12\n\n", b"-1\n", b"18446744073709551615\n", b"\xff\n"] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(
                LastEpoch::load(&file).err().unwrap().to_string(),
                format!(
                    "the last epoch, {}: it is damaged: it must hold one number and a line end; \
                     if the clock is right, remove the file",
                    file.display()
                )
            );
            assert_eq!(fs::read(&file).unwrap(), damaged);
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(
            next(Path::new("no/such/epoch"), 1).unwrap_err().to_string(),
            "the last epoch, no/such/epoch: cannot write it: No such file or directory (os error 2)"
        );
    }
}
