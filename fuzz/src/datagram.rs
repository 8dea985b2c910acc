//! A datagram of either version. Whatever is read, is written and read again.

use rollcall::protocol::keys::Signer;
use rollcall::protocol::status::Status;
use rollcall::protocol::{self, Batch, Datagram, Kind, MAX_DATAGRAM, encode_batch};

use super::judge::signer;

pub fn check(bytes: &[u8]) {
    let Ok((status, rest)) = protocol::decode(bytes) else {
        assert!(Datagram::decode(bytes).is_err());
        return;
    };
    let mut again = Vec::new();
    protocol::encode(&status, &mut again);
    assert_eq!(protocol::decode(&again).unwrap(), (status.clone(), &[][..]));
    match Datagram::decode(bytes) {
        Ok(Datagram::Unsigned(read)) => assert!(read == status && rest.is_empty()),
        Ok(Datagram::Signed(claim)) => {
            assert_eq!(claim.key_id(), rest[4..8]);
            // Nobody has signed it with this key.
            let public = *signer(1).public();
            let doubted = claim.verify(|message, signature| public.verify(message, signature));
            assert_eq!(doubted.unwrap_err(), status);
        }
        Ok(Datagram::Broken(read, _)) => assert_eq!(read, status),
        Err(_) => assert!(!rest.is_empty()),
    }
    announced(&status, rest.len() as u16, &signer(1));
}

/// The same status, signed in a batch of `others` more: verified, it is the same.
fn announced(status: &Status, others: u16, signer: &Signer) {
    let statuses = vec![status.clone(); 1 + usize::from(others % 4)];
    let batch = Batch {
        kind: Kind::SEEN,
        key_id: signer.public().id(),
        epoch: status.last_seen_ns,
        first_sequence: 1 + u64::from(others),
        statuses: &statuses,
    };
    for (datagram, sequence) in encode_batch(&batch, |message| signer.sign(message)).iter().zip(1..) {
        assert!(datagram.len() <= MAX_DATAGRAM);
        let Ok(Datagram::Signed(claim)) = Datagram::decode(datagram) else { panic!("it was signed") };
        let verified = claim.verify(|message, signature| signer.public().verify(message, signature)).unwrap();
        assert_eq!((verified.status(), verified.kind()), (status, Kind::SEEN));
        assert_eq!(
            (verified.epoch(), verified.sequence()),
            (status.last_seen_ns, sequence + u64::from(others))
        );
    }
}
