//! The handshake: whom it lets in, and every way of not being let in.

use super::*;
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(5);

fn terms() -> Terms {
    Terms {
        transfer: TransferId([1; 16]),
        direction: Direction::ToListener,
        protect: Protect::Sealed,
    }
}

fn secret(byte: u8) -> Secret {
    Secret::from_bytes([byte; 32])
}

fn dial(with: Secret, terms: Terms, nonce: u8) -> (Dialling, [u8; HELLO_LEN]) {
    Dialling::begin(with, terms, StreamIndex(3), [nonce; 32], SOON)
}

fn challenge(hello: &[u8], nonce: u8) -> (Challenging, [u8; CHALLENGE_LEN]) {
    let hello = Hello::decode(hello).unwrap();
    Challenging::begin(secret(9), terms(), &hello, [nonce; 32], SOON).unwrap()
}

#[test]
fn both_ends_come_to_the_same_keys() {
    let (dialling, hello) = dial(secret(9), terms(), 20);
    let (challenging, challenge) = challenge(&hello, 21);
    let (proof, theirs) = dialling.answer(&challenge, SOON).unwrap();
    let ours = challenging.verify(&proof, SOON).unwrap();
    let tag = theirs.outgoing.tag(0, b"header");
    assert!(ours.incoming.check(0, b"header", &tag).is_ok());
    let tag = ours.outgoing.tag(0, b"header");
    assert!(theirs.incoming.check(0, b"header", &tag).is_ok());
    assert!(theirs.outgoing.check(0, b"header", &tag).is_err());
}

#[test]
fn another_secret_or_other_terms_prove_nothing() {
    let others = [
        (secret(8), terms()),
        (
            secret(9),
            Terms {
                direction: Direction::FromListener,
                ..terms()
            },
        ),
        (
            secret(9),
            Terms {
                protect: Protect::None,
                ..terms()
            },
        ),
    ];
    for (with, terms) in others {
        let (dialling, hello) = dial(with.clone(), terms, 20);
        let (challenging, challenge) = challenge(&hello, 21);
        assert_eq!(
            dialling.answer(&challenge, SOON).unwrap_err(),
            HandshakeFault::Proof
        );
        // A dialler that does not care who listens does not get in, either.
        let script = Transcript::new(&terms, StreamIndex(3), &[20; 32], &[21; 32]);
        let mut proof = [0; PROOF_LEN];
        head(&mut proof, 3);
        proof[8..].copy_from_slice(&with.mac(&[DIALLER, &script.0]));
        assert_eq!(
            challenging.verify(&proof, SOON).unwrap_err(),
            HandshakeFault::Proof
        );
    }
}

#[test]
fn a_recording_proves_nothing() {
    let (dialling, hello) = dial(secret(9), terms(), 20);
    let (_, first) = challenge(&hello, 21);
    let (proof, _) = dialling.answer(&first, SOON).unwrap();
    // The same HELLO and PROOF again, to a listener with a fresh nonce.
    let (challenging, _) = challenge(&hello, 22);
    assert_eq!(
        challenging.verify(&proof, SOON).unwrap_err(),
        HandshakeFault::Proof
    );
    // The recorded CHALLENGE, to a dialler with a fresh nonce.
    let (dialling, _) = dial(secret(9), terms(), 23);
    assert_eq!(
        dialling.answer(&first, SOON).unwrap_err(),
        HandshakeFault::Proof
    );
}

#[test]
fn a_reflection_proves_nothing() {
    let (dialling, hello) = dial(secret(9), terms(), 20);
    // The listener's own proof, sent back to it as the dialler's.
    let (challenging, sent) = challenge(&hello, 21);
    let mut proof = [0; PROOF_LEN];
    head(&mut proof, 3);
    proof[8..].copy_from_slice(&sent[40..]);
    assert_eq!(
        challenging.verify(&proof, SOON).unwrap_err(),
        HandshakeFault::Proof
    );
    // The dialler's own nonce, sent back to it.
    let mut back = sent;
    back[8..40].copy_from_slice(&[20; 32]);
    assert_eq!(
        dialling.answer(&back, SOON).unwrap_err(),
        HandshakeFault::Reflected
    );
    let hello = Hello::decode(&hello).unwrap();
    let same = Challenging::begin(secret(9), terms(), &hello, [20; 32], SOON);
    assert_eq!(same.unwrap_err(), HandshakeFault::Reflected);
}

#[test]
fn truncated_and_late_ones_are_refused() {
    let late = SOON + Duration::from_nanos(1);
    let (dialling, hello) = dial(secret(9), terms(), 20);
    let (challenging, sent) = challenge(&hello, 21);
    let (proof, _) = dialling.answer(&sent, SOON).unwrap();
    assert_eq!(
        challenging.verify(&proof, late).unwrap_err(),
        HandshakeFault::Late
    );
    for cut in 0..HELLO_LEN {
        assert!(Hello::decode(&hello[..cut]).is_err());
    }
    for cut in 0..CHALLENGE_LEN {
        let (dialling, _) = dial(secret(9), terms(), 20);
        assert_eq!(
            dialling.answer(&sent[..cut], SOON).unwrap_err(),
            HandshakeFault::Shape
        );
    }
    for cut in 0..PROOF_LEN {
        let (challenging, _) = challenge(&hello, 21);
        assert_eq!(
            challenging.verify(&proof[..cut], SOON).unwrap_err(),
            HandshakeFault::Shape
        );
    }
    let (dialling, _) = dial(secret(9), terms(), 20);
    assert_eq!(
        dialling.answer(&sent, late).unwrap_err(),
        HandshakeFault::Late
    );
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(message in 0_usize..3, at: usize, flip in 1_u8..) {
        let (dialling, mut hello) = dial(secret(9), terms(), 20);
        if message == 0 {
            let at = at % HELLO_LEN;
            hello[at] ^= flip;
            let Ok(read) = Hello::decode(&hello) else { return Ok(()) };
            // Another transfer is not looked up; under the same secret its proof would not fit.
            let (_, sent) = Challenging::begin(secret(9), terms(), &read, [21; 32], SOON).unwrap();
            let same = (8..24).contains(&at);
            prop_assert_eq!(dialling.answer(&sent, SOON).is_ok(), same);
            return Ok(());
        }
        let (challenging, mut sent) = challenge(&hello, 21);
        if message == 1 {
            sent[at % CHALLENGE_LEN] ^= flip;
            prop_assert!(dialling.answer(&sent, SOON).is_err());
            return Ok(());
        }
        let (mut proof, _) = dialling.answer(&sent, SOON).unwrap();
        proof[at % PROOF_LEN] ^= flip;
        prop_assert!(challenging.verify(&proof, SOON).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Hello::decode(&bytes);
        let (dialling, hello) = dial(secret(9), terms(), 20);
        prop_assert!(dialling.answer(&bytes, SOON).is_err());
        let (challenging, _) = challenge(&hello, 21);
        prop_assert!(challenging.verify(&bytes, SOON).is_err());
    }
}
