//! Tests of the container.

use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

fn fresh() -> (TempDir, Image) {
    let place = TempDir::new().expect("temporary directory");
    let image = Image::create(&place.path().join("T.tap")).expect("is made");
    (place, image)
}

fn reopen(image: Image) -> Image {
    let path = image.path().to_owned();
    drop(image);
    Image::open(&path, Access::Write).expect("opens")
}

/// Everything up to the end: `None` is a mark.
fn objects(image: &mut Image) -> (Vec<Option<Vec<u8>>>, Found) {
    let mut found = Vec::new();
    let mut buffer = vec![0; 4096];
    image.seek(0).expect("rewinds");
    loop {
        match image.read(&mut buffer).expect("reads") {
            Found::Block(len) => found.push(Some(buffer[..len as usize].to_vec())),
            Found::Mark => found.push(None),
            end => return (found, end),
        }
    }
}

fn put(image: &mut Image, object: &Option<Vec<u8>>) {
    match object {
        Some(block) => image.write(block).expect("writes"),
        None => image.mark().expect("marks"),
    }
}

/// Blocks and marks.
fn tape() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
    let block = prop::collection::vec(any::<u8>(), 1..300);
    prop::collection::vec(prop::option::weighted(0.7, block), 0..30)
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let (_place, mut image) = fresh();
    image.write(b"abc").expect("writes");
    image.mark().expect("marks");
    image.write(b"de").expect("writes");
    image.prove().expect("is proven");
    let bytes = std::fs::read(image.path()).expect("reads");
    let expected = b"\x03\0\0\0abc\0\x03\0\0\0\0\0\0\0\x02\0\0\0de\x02\0\0\0";
    assert_eq!(bytes, expected);
    assert_eq!(
        image.place(),
        Place {
            object: 3,
            bytes: 5,
            offset: expected.len() as u64
        }
    );
}

#[test]
fn gaps_end_marks_and_reserved_words_are_what_the_format_says() {
    let (_place, image) = fresh();
    let path = image.path().to_owned();
    drop(image);
    let cases: [(&[u8], Found, u64); 6] = [
        (b"\xfe\xff\xff\xff\xfe\xff\xff\xff\0\0\0\0", Found::End, 1),
        (b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0", Found::End, 1),
        (
            b"\0\0\0\0\x01\0\0\xff",
            Found::Torn("a length that no record has"),
            1,
        ),
        (
            b"\0\0\0\0\x01\0\0\x01",
            Found::Torn("a length that no record has"),
            1,
        ),
        (
            b"\0\0\0\0\0\0",
            Found::Torn("the file ends within a length"),
            1,
        ),
        (
            b"\x02\0\0\0xy\x03\0\0\0",
            Found::Torn("a length is not repeated behind its data"),
            0,
        ),
    ];
    for (bytes, end, count) in cases {
        std::fs::write(&path, bytes).expect("writes");
        let mut image = Image::open(&path, Access::Write).expect("opens");
        let (_, found) = objects(&mut image);
        assert_eq!((found, image.place().object), (end, count), "{bytes:?}");
    }
}

#[test]
fn a_bad_block_is_told_and_passed_over() {
    let (_place, mut image) = fresh();
    for block in [&b"one"[..], b"two", b"three"] {
        image.write(block).expect("writes");
    }
    image.prove().expect("is proven");
    image.spoil(1).expect("spoils");
    assert!(matches!(image.spoil(3), Err(ImageError::Beyond { .. })));
    let mut image = reopen(image);
    let mut buffer = [0; 16];
    assert_eq!(image.read(&mut buffer).expect("reads"), Found::Block(3));
    assert_eq!(image.read(&mut buffer).expect("reads"), Found::Bad(3));
    assert_eq!(image.read(&mut buffer).expect("reads"), Found::Block(5));
    assert_eq!(&buffer[..5], b"three");
}

#[test]
fn a_block_longer_than_the_buffer_is_not_passed() {
    let (_place, mut image) = fresh();
    image.write(&[7; 100]).expect("writes");
    image.seek(0).expect("rewinds");
    let mut small = [0; 99];
    assert!(matches!(
        image.read(&mut small),
        Err(ImageError::Large { len: 100, .. })
    ));
    assert_eq!(image.place().object, 0);
    for len in [0, LONGEST as usize + 1] {
        assert!(matches!(
            image.write(&vec![0; len]),
            Err(ImageError::Length { .. })
        ));
    }
}

#[test]
fn an_image_has_one_writer() {
    let (_place, image) = fresh();
    for access in [Access::Read, Access::Write] {
        let second = Image::open(image.path(), access);
        assert!(
            matches!(second, Err(ImageError::InUse { .. })),
            "{second:?}"
        );
    }
    let path = image.path().to_owned();
    drop(image);
    let reader = Image::open(&path, Access::Read).expect("opens");
    Image::open(&path, Access::Read).expect("readers share");
    assert!(
        Image::create(&path).is_err(),
        "an image is never made over another"
    );
    let mut reader = reader;
    assert!(reader.write(b"x").is_err());
}

#[test]
fn a_medium_that_lies_is_found_and_takes_no_more() {
    let (_place, mut image) = fresh();
    image.write(&[1; 10_000]).expect("writes");
    image.prove().expect("is proven");
    image.write(&[2; 10_000]).expect("writes");
    let other = OpenOptions::new()
        .write(true)
        .open(image.path())
        .expect("opens");
    other
        .write_all_at(&[3], 15_000)
        .expect("the medium's bit flips");
    assert!(matches!(
        image.prove(),
        Err(ImageError::Lies { from: 10_008, .. })
    ));
    assert!(matches!(image.write(b"x"), Err(ImageError::Broken { .. })));
    assert!(matches!(image.prove(), Err(ImageError::Broken { .. })));
}

#[test]
fn a_needle_across_pieces_is_found() {
    let (_place, mut image) = fresh();
    let mut block = vec![b'.'; (3 << 20) - 1];
    block[(1 << 20) - 6..(1 << 20) + 2].copy_from_slice(b"NEEDLE12");
    image.write(&block).expect("writes");
    let occurs = |image: &Image, last: u8| {
        let is_it = |found: &[u8]| found.ends_with(&[last]);
        image.occurs_behind(b"NEEDLE", 8, &is_it).expect("searches")
    };
    assert!(!occurs(&image, b'2'), "behind, not before");
    image.seek(0).expect("rewinds");
    assert!(occurs(&image, b'2'));
    assert!(!occurs(&image, b'3'));
}

proptest! {
    #[test]
    fn what_was_written_is_read_and_every_object_is_found(tape in tape()) {
        let (_place, mut image) = fresh();
        let mut places = Vec::new();
        for object in &tape {
            places.push(image.place());
            put(&mut image, object);
        }
        image.prove().expect("is proven");
        let mut image = reopen(image);
        let (found, end) = objects(&mut image);
        prop_assert_eq!(&found, &tape);
        prop_assert_eq!(end, Found::End);
        let mut fresh = reopen(image);
        for place in places.iter().rev() {
            fresh.seek(place.object).expect("seeks");
            prop_assert_eq!(fresh.place(), *place);
        }
        let beyond = fresh.seek(tape.len() as u64 + 1);
        prop_assert!(matches!(beyond, Err(ImageError::Beyond { .. })), "{:?}", beyond);
    }

    #[test]
    fn any_truncation_leaves_a_readable_prefix(tape in tape(), cut in 0.0..1.0_f64) {
        let (_place, mut image) = fresh();
        for object in &tape {
            put(&mut image, object);
        }
        let len = (image.place().offset as f64 * cut) as u64;
        let path = image.path().to_owned();
        drop(image);
        let file = OpenOptions::new().write(true).open(&path).expect("opens");
        file.set_len(len).expect("is cut");
        let mut image = Image::open(&path, Access::Write).expect("opens");
        let (found, end) = objects(&mut image);
        prop_assert_eq!(&found[..], &tape[..found.len()]);
        let whole = image.place().offset == len;
        prop_assert_eq!(end == Found::End, whole);
        prop_assert!(whole || matches!(end, Found::Torn(_)));
        // The tail is overwritten, everything before stands.
        image.write(b"new").expect("writes");
        image.prove().expect("is proven");
        let mut image = reopen(image);
        let (after, end) = objects(&mut image);
        prop_assert_eq!(end, Found::End);
        prop_assert_eq!(&after[..found.len()], &found[..]);
        prop_assert_eq!(after.last(), Some(&Some(b"new".to_vec())));
        prop_assert_eq!(after.len(), found.len() + 1);
    }

    #[test]
    fn writing_removes_what_lies_behind(tape in tape(), at in 0.0..1.0_f64, proven: bool) {
        let (_place, mut image) = fresh();
        for object in &tape {
            put(&mut image, object);
        }
        if proven {
            image.prove().expect("is proven");
        }
        let at = (tape.len() as f64 * at) as usize;
        image.seek(at as u64).expect("seeks");
        put(&mut image, &Some(b"last".to_vec()));
        image.prove().expect("is proven");
        let (found, end) = objects(&mut image);
        let mut wanted = tape[..at].to_vec();
        wanted.push(Some(b"last".to_vec()));
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(end, Found::End);
    }

    #[test]
    fn no_bytes_panic_or_read_beyond(bytes in prop::collection::vec(any::<u8>(), 0..600), wrong: u64) {
        let (_place, image) = fresh();
        let path = image.path().to_owned();
        drop(image);
        std::fs::write(&path, &bytes).expect("writes");
        let mut image = Image::open(&path, Access::Write).expect("opens");
        image.know(&[Place { object: 3, bytes: 0, offset: wrong % 600 }]);
        let _ = image.seek(4);
        let mut buffer = vec![0; 4096];
        let mut steps = 0;
        while let Ok(Found::Block(_) | Found::Bad(_) | Found::Mark) = image.read(&mut buffer) {
            steps += 1;
            prop_assert!(steps <= bytes.len());
        }
        prop_assert!(image.place().offset <= bytes.len() as u64);
    }
}
