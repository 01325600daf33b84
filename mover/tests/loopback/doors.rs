//! Who gets in, who does not, and through which ports.

use crate::rig::{Held, LOCAL, Store, doors, iod, listener, options, run, until};
use cairn_mover::handshake::{CHALLENGE_LEN, Dialling, PROOF_LEN, Terms};
use cairn_mover::{
    DialRule, Dialler, Direction, Error, Iod, ListenOptions, Listener, Options, Place, PortMap,
    PortRange, Protect, Refused, Secret, StreamIndex, TransferId,
};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const SIZE: usize = 1_000_003;

/// Dials like a stream of `iod` whose secret is `secret`; answers whether the listener proved itself.
fn knock(address: SocketAddr, iod: &Iod, secret: &Secret, stream: u16) -> (TcpStream, bool) {
    let mut socket = TcpStream::connect(address).unwrap();
    let nonce = [stream as u8; 32];
    let limit = Duration::from_secs(20);
    let index = StreamIndex(stream);
    let (state, hello) = Dialling::begin(secret.clone(), Terms::of(iod), index, nonce, limit);
    socket.write_all(&hello).unwrap();
    let mut challenge = [0; CHALLENGE_LEN];
    socket.read_exact(&mut challenge).unwrap();
    let answer = state.answer(&challenge, Duration::ZERO);
    let proved = answer.is_ok();
    let proof = answer.map_or([7; PROOF_LEN], |(proof, _)| proof);
    socket.write_all(&proof).unwrap();
    (socket, proved)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_dropped_and_the_transfer_is_unharmed() {
    let listener = listener(1).await;
    let address = listener.addresses()[0];
    let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    let both = doors(&listener, &mut iod, None).await;
    let (theirs, other) = (
        Secret::generate().unwrap(),
        Iod {
            transfer: TransferId([9; 16]),
            ..iod.clone()
        },
    );
    let strangers = tokio::task::spawn_blocking({
        let iod = iod.clone();
        move || {
            let mut rude = TcpStream::connect(address).unwrap();
            rude.write_all(&[b'G'; 100]).unwrap();
            // Another secret, and a transfer that nobody knows: both are answered, and look alike.
            let (mut a, known) = knock(address, &iod, &theirs, 50_000);
            let (mut b, unknown) = knock(address, &other, &theirs, 50_001);
            assert!(!known && !unknown);
            let mut end = [0];
            assert_eq!(a.read(&mut end).unwrap_or(0), 0);
            assert_eq!(b.read(&mut end).unwrap_or(0), 0);
            rude
        }
    });
    let _rude = strangers.await.unwrap();
    until("three strangers are counted", || listener.strangers() == 3).await;
    let options = options();
    let ends = (&options, &options);
    let (sent, received) = run(both, &iod, source.clone(), sink.clone(), None, ends).await;
    sent.unwrap();
    received.unwrap();
    assert!(*sink.bytes.lock().unwrap() == source.bytes);
    assert_eq!(options.meter.lost(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_used_once_and_a_transfer_is_expected_once() {
    let listener = listener(1).await;
    let address = listener.addresses()[0];
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    let (_listening, _) = doors(&listener, &mut iod, None).await;
    assert!(matches!(listener.expect(&iod), Err(Error::Expected(_))));
    let knocking = iod.clone();
    let (first, second) = tokio::task::spawn_blocking(move || {
        let (first, proved) = knock(address, &knocking, &knocking.secret, 5);
        assert!(proved);
        let (mut second, proved) = knock(address, &knocking, &knocking.secret, 5);
        assert!(proved);
        let mut end = [0];
        (first, second.read(&mut end).unwrap_or(0))
    })
    .await
    .unwrap();
    assert_eq!(second, 0);
    first.set_nonblocking(true).unwrap();
    let open = (&first).read(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
    drop(_listening);
    assert!(listener.expect(&iod).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn third_parties_are_not_dialled() {
    let place = |host: &str| Place::new(host.parse().unwrap(), &[7000]);
    let rule = DialRule::new("192.0.2.1".parse().unwrap(), Vec::new());
    for third in ["198.51.100.7", "127.0.0.1", "localhost", "2001:db8::1"] {
        let mut iod = iod(SIZE, Direction::FromListener, Protect::None);
        iod.places = vec![place(third)];
        let refused = Dialler::new(&iod, &rule).await.unwrap_err();
        let expected = matches!(
            refused,
            Error::Refused {
                why: Refused::ThirdParty(_) | Refused::Near(_),
                ..
            }
        );
        assert!(expected, "{third}: {refused}");
        // Beside the peer, they are left out.
        iod.places.push(place("192.0.2.1"));
        assert!(Dialler::new(&iod, &rule).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_taken_are_passed_over_and_too_few_are_said() {
    // Three ports in a row of which the middle one is taken.
    let (taken, range) = (20_000..60_000_u16)
        .find_map(|first| {
            let middle = TcpListener::bind((LOCAL, first + 1)).ok()?;
            let free = |port| TcpListener::bind((LOCAL, port)).is_ok();
            let range = PortRange::new(first, first + 2).ok()?;
            (free(first) && free(first + 2)).then_some((middle, range))
        })
        .unwrap();
    let host = PortRange::new(range.first() - 1000, range.last() - 1000).unwrap();
    let options = ListenOptions {
        bind: LOCAL,
        ports: Some(PortMap::new(host, range).unwrap()),
        want: 3,
        handshake: Duration::from_secs(20),
    };
    let listener = Listener::bind(&options).await.unwrap();
    let mut bound: Vec<u16> = listener.addresses().iter().map(SocketAddr::port).collect();
    bound.sort_unstable();
    assert_eq!(bound, [range.first(), range.last()]);
    assert_eq!(listener.streams(), 2);
    let said = listener.shortfall().unwrap().to_string();
    assert!(
        said.contains("has 2 free ports and 3 were wanted: using 2"),
        "{said}"
    );
    // What is dialled are the host's ports, whatever was bound.
    let places = listener.places(&["host.example.org".parse().unwrap()]);
    let ports: Vec<u16> = places[0].each_port().collect();
    assert_eq!(ports, [host.first(), host.last()]);
    // All are taken now.
    let error = Listener::bind(&options).await.unwrap_err().to_string();
    assert!(error.contains(&format!("ports {range}")), "{error}");
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_error_that_names_the_address() {
    let (listener, gone) = (listener(1).await, TcpListener::bind((LOCAL, 0)).unwrap());
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    iod.offer = 1;
    let both = doors(&listener, &mut iod, Some(port)).await;
    let (options, sink) = (Options::default(), Arc::new(Store::new(SIZE)));
    let (sent, received) = run(
        both,
        &iod,
        Held::new(SIZE),
        sink,
        None,
        (&options, &options),
    )
    .await;
    let said = sent.unwrap_err().to_string();
    assert!(
        said.contains(&format!(
            "none could be made; cannot connect to 127.0.0.1:{port}"
        )),
        "{said}"
    );
    let said = received.unwrap_err().to_string();
    assert!(said.contains("no stream: none for 1s"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_dialled_and_listened_on() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("NOT RUN: this host has no IPv6 loopback address");
        return;
    }
    let options = ListenOptions {
        bind: Ipv6Addr::LOCALHOST.into(),
        ports: None,
        want: 2,
        handshake: Duration::from_secs(20),
    };
    let listener = Listener::bind(&options).await.unwrap();
    let mut iod = iod(SIZE, Direction::FromListener, Protect::Sealed);
    iod.places = listener.places(&["::1".parse().unwrap()]);
    let listening = listener.expect(&iod).unwrap();
    let rule = DialRule::new(Ipv6Addr::LOCALHOST.into(), Vec::new());
    let dialling = Dialler::new(&iod, &rule).await.unwrap();
    let both = (listening, cairn_mover::Door::Dialling(dialling));
    let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
    let options = crate::rig::options();
    let ends = (&options, &options);
    let (sent, received) = run(both, &iod, source.clone(), sink.clone(), None, ends).await;
    sent.unwrap();
    received.unwrap();
    assert!(*sink.bytes.lock().unwrap() == source.bytes);
}
