//! The descriptor: there and back, and what is refused.

use super::*;
use crate::checksum::Crc32c;
use proptest::prelude::*;
use std::net::IpAddr;

fn sample() -> Iod {
    Iod {
        transfer: TransferId([7; 16]),
        secret: Secret::from_bytes([0xab; 32]),
        direction: Direction::FromListener,
        mode: Mode::Parallel,
        protect: Protect::Sealed,
        block: BLOCK_DEFAULT,
        streams: 8,
        offer: 30,
        size: 1 << 30,
        version: b"v1".to_vec(),
        places: vec![
            Place::new("192.0.2.7".parse().unwrap(), &[7011, 7010, 7012, 7019]),
            Place::new("2001:db8::7".parse().unwrap(), &[7000]),
            Place::new("login.example.org".parse().unwrap(), &[7000]),
        ],
        ranges: vec![
            ByteRange::new(0, 10).unwrap(),
            ByteRange::new(11, 1000).unwrap(),
        ],
    }
}

/// `bytes` with another right sum, so that what is behind the sum is looked at.
fn sealed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    change(&mut bytes);
    let sum = Crc32c::of(&bytes).0;
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn there_and_back() {
    let bytes = sample().encode().unwrap();
    let back = Iod::decode(&bytes).unwrap();
    assert_eq!(back.encode().unwrap(), bytes);
    assert_eq!(back.secret.expose(), sample().secret.expose());
    assert_eq!(back.places, sample().places);
    assert_eq!(back.places[0].ports, [(7010, 7012), (7019, 7019)]);
    assert_eq!(back.bytes(), 1010);
}

#[test]
fn the_secret_is_in_no_printed_form() {
    let shown = format!("{} {:?}", sample(), sample());
    assert!(
        !shown.contains("abab") && !shown.contains("171, 171"),
        "{shown}"
    );
    assert!(shown.contains("192.0.2.7:7010-7012:7019"), "{shown}");
    assert!(shown.contains("[2001:db8::7]:7000"), "{shown}");
}

#[test]
fn any_bit_and_any_cut_is_noticed() {
    let bytes = sample().encode().unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Iod::decode(&bad).is_err(), "bit in byte {at}");
        assert!(Iod::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(Iod::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn fields_out_of_bounds_are_named() {
    let fault = |change: fn(&mut Vec<u8>)| {
        Iod::decode(&sealed(sample().encode().unwrap(), change)).unwrap_err()
    };
    assert_eq!(fault(|b| b[4] = 2), IodFault::Version(2));
    assert_eq!(fault(|b| b[5] = 0), IodFault::Field("direction"));
    assert_eq!(fault(|b| b[7] = 3), IodFault::Field("protect"));
    assert_eq!(fault(|b| b[56..60].fill(0)), IodFault::Field("block"));
    assert_eq!(fault(|b| b[60..62].fill(0xff)), IodFault::Field("streams"));
    assert_eq!(fault(|b| b[62] = 1), IodFault::Field("reserved"));
    assert_eq!(fault(|b| b[64..68].fill(0)), IodFault::Field("offer"));
    assert_eq!(fault(|b| b[68..76].fill(0)), IodFault::Field("ranges"));
    assert_eq!(fault(|b| b.push(0)), IodFault::Damaged);
    let mut touching = sample();
    touching.ranges[1] = ByteRange::new(10, 5).unwrap();
    assert_eq!(touching.encode().unwrap_err(), IodFault::Field("ranges"));
    let mut named = sample();
    named.places[2].host = Host::Name("a b".into());
    assert_eq!(named.encode().unwrap_err(), IodFault::Field("host"));
    let mut address = sample();
    address.places[2].host = Host::Name("192.0.2.1".into());
    assert_eq!(address.encode().unwrap_err(), IodFault::Field("host"));
}

#[test]
fn hosts_are_addresses_or_names() {
    let host = |t: &str| t.parse::<Host>();
    let six: IpAddr = "2001:db8::7".parse().unwrap();
    assert_eq!(host("[2001:db8::7]").unwrap(), Host::Address(six));
    assert_eq!(
        host("n1-ib0.cluster_a").unwrap().to_string(),
        "n1-ib0.cluster_a"
    );
    for bad in [
        "",
        "a b",
        "192.0.2",
        "1.2.3.4.5",
        "-x",
        ".x",
        "a/b",
        "naïve",
    ] {
        assert!(host(bad).is_err(), "{bad}");
    }
    assert!(host(&"a".repeat(254)).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Iod::decode(&bytes);
    }

    #[test]
    fn what_decodes_encodes_to_the_same(
        changes in proptest::collection::vec((5_usize..200, any::<u8>()), 0..4)
    ) {
        let bytes = sealed(sample().encode().unwrap(), |bytes| {
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
        });
        if let Ok(iod) = Iod::decode(&bytes) {
            prop_assert_eq!(iod.encode().unwrap(), bytes);
        }
    }
}
