//! Files that are written behind one synchronisation: all or none of them, whatever comes between.

use super::*;

/// Writes a batch of objects of these numbers and lengths.
fn together(
    drive: &mut dyn Drive,
    next: Next,
    objects: &[(u64, usize)],
) -> Result<Vec<TapeFile>, VolumeError> {
    let mut files = Appender::new(drive, barcode(), next, (objects[0].0, DAY));
    for (seq, len) in objects {
        write_one(&mut files, *seq, &content(*seq, *len))?;
    }
    let (files, _) = files.close()?.expect("there are some");
    Ok(files)
}

const THREE: [(u64, usize); 3] = [(2, 3000), (3, 0), (4, 1200)];
/// Three labels before each, and behind each; 6, 0 and 3 blocks of data.
const BLOCKS: u64 = 6 * 3 + 9;

/// One proven file, and where the next goes.
fn one(shelf: &Shelf) -> TapeFile {
    fill(&mut shelf.load(), &[2000])[0]
}

fn kinds(image: &Path) -> (usize, usize) {
    let bytes = std::fs::read(image).expect("image");
    let count = |word: &[u8; 4]| bytes.windows(4).filter(|w| w == word).count();
    (count(b"UTL1"), count(b"UTLP"))
}

#[test]
fn a_batch_costs_two_stops_and_is_found_from_wherever_an_index_ends() {
    let shelf = Shelf::new(1 << 30);
    let first = one(&shelf);
    let mut drive = shelf.load();
    check(&mut drive, barcode(), TIER).expect("is ours");
    drive.locate(first.end()).expect("locates");
    let before = drive.tally().backhitches;
    let files = together(&mut drive, behind(&first), &THREE).expect("is written");
    assert_eq!(
        drive.tally().backhitches - before,
        1,
        "before the closing labels"
    );
    assert_eq!(kinds(&shelf.image()), (2, 2));
    let last = together(&mut drive, behind(&files[2]), &[(5, 10)]).expect("is written");
    assert_eq!(drive.tally().backhitches - before, 3);
    let all = [&[first][..], &files, &last].concat();
    drop(drive);
    let mut drive = shelf.load();
    for known in 0..=all.len() {
        let index = known.checked_sub(1).map(|at| &all[at]);
        let found = scan(&mut drive, barcode(), index).expect("scans");
        let wanted = Scan {
            files: all[known..].to_vec(),
            next: behind(&last[0]),
            damage: None,
            torn: false,
        };
        assert_eq!(found, wanted, "{known} are known");
    }
    for (seq, file) in (1..).zip(&all) {
        assert_eq!(whole(&mut drive, file), content(seq, file.len as usize));
    }
}

#[test]
fn a_power_loss_at_any_block_of_a_batch_leaves_those_that_are_whole() {
    for nth in 1..=BLOCKS {
        let shelf = Shelf::new(1 << 30);
        let first = one(&shelf);
        let mut drive = shelf.load();
        shelf.faults.power_loss(nth);
        let lost = together(&mut drive, behind(&first), &THREE);
        assert!(lost.is_err(), "{nth}");
        drop(drive);
        shelf.faults.clear();
        // Six labels each; 6 and 0 blocks of data.
        let (whole, torn) = match nth {
            1..=12 => (0, nth > 1),
            13..=18 => (1, nth > 13),
            _ => (2, nth > 19),
        };
        let mut next = behind(&first);
        for known in [Some(&first), None] {
            let found = scan(&mut shelf.load(), barcode(), known).expect("scans");
            let files = &found.files[usize::from(known.is_none())..];
            let seqs: Vec<u64> = files.iter().map(|file| file.name.seq).collect();
            assert_eq!(seqs, [2, 3][..whole], "{nth}");
            assert_eq!((found.damage, found.torn), (None, torn), "{nth}");
            next = files.last().map_or(behind(&first), behind);
            assert_eq!(found.next, next, "{nth}");
        }
        let mut drive = shelf.load();
        let file = append(&mut drive, next, 9, &content(9, 700)).expect("overwrites");
        let found = scan(&mut drive, barcode(), None).expect("scans");
        assert_eq!((found.files.len(), found.torn), (whole + 2, false), "{nth}");
        assert_eq!(found.files[whole + 1], file, "{nth}");
    }
    // One block more is that of the next.
    let shelf = Shelf::new(1 << 30);
    let first = one(&shelf);
    shelf.faults.power_loss(BLOCKS + 1);
    together(&mut shelf.load(), behind(&first), &THREE).expect("is written");
}

#[test]
fn a_torn_batch_at_the_beginning_leaves_an_empty_cartridge() {
    let shelf = Shelf::new(1 << 30);
    shelf.faults.power_loss(8);
    together(&mut shelf.load(), FIRST, &THREE).expect_err("the power is gone");
    shelf.faults.clear();
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!((found.files, found.next, found.torn), (vec![], FIRST, true));
}

/// Three behind one, and the last one's UTL1 is spoiled: a bit of it, or all of it.
fn without_proof(bad_block: bool) -> (Shelf, TapeFile, Vec<TapeFile>) {
    let shelf = Shelf::new(1 << 30);
    let first = one(&shelf);
    let files = together(&mut shelf.load(), behind(&first), &THREE).expect("is written");
    if bad_block {
        let mut image = Image::open(&shelf.image(), Access::Write).expect("opens");
        image.spoil(files[2].labels() + 2).expect("spoils");
    } else {
        // Behind it its length and a tape mark.
        overwrite(&shelf.image(), shelf.len() - 8 - 40, b"x");
    }
    (shelf, first, files)
}

#[test]
fn a_proof_that_cannot_be_read_costs_no_file_but_its_own() {
    for bad_block in [false, true] {
        let (shelf, first, files) = without_proof(bad_block);
        for known in [None, Some(&first), Some(&files[0]), Some(&files[1])] {
            let found = scan(&mut shelf.load(), barcode(), known).expect("scans");
            let all = [first, files[0], files[1]];
            let skip = known.map_or(0, |known| {
                all.iter().position(|f| f == known).expect("one of them") + 1
            });
            assert_eq!(found.files, all[skip..], "{bad_block}");
            assert_eq!((found.next, found.torn), (behind(&files[1]), true));
            assert_eq!(found.damage.is_some(), bad_block);
        }
        // What the index alone knows is not taken for torn.
        let found = scan(&mut shelf.load(), barcode(), Some(&files[2]));
        assert!(matches!(found, Err(VolumeError::Moved { .. })), "{found:?}");
    }
    // What goes on behind them proves them.
    let (shelf, first, files) = without_proof(false);
    let more = append(&mut shelf.load(), behind(&files[1]), 9, b"more").expect("is written");
    overwrite(&shelf.image(), files[0].offset + 500, &[0; 4]);
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!(found.files, [first, files[0], files[1], more]);
}

#[test]
fn of_those_without_proof_the_first_with_other_bytes_and_all_behind_it_are_torn() {
    let (shelf, first, files) = without_proof(false);
    overwrite(&shelf.image(), files[0].offset + 500, &[0; 4]);
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!(
        (&found.files[..], found.next),
        (&[first][..], behind(&first))
    );
    assert_eq!((found.torn, found.damage), (true, None));
    assert_eq!(files[1].len, 0, "whose bytes are there");
}

#[test]
fn one_without_proof_that_cannot_be_read_is_no_torn_tail() {
    for bad in 0..2 {
        let (shelf, first, files) = without_proof(false);
        let mut image = Image::open(&shelf.image(), Access::Write).expect("opens");
        // The second has no data.
        let object = if bad == 0 {
            files[0].data() + 2
        } else {
            files[1].labels()
        };
        image.spoil(object).expect("spoils");
        drop(image);
        let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
        let all = [first, files[0]];
        assert_eq!(found.files, all[..=bad], "{bad}");
        assert_eq!((found.next, found.torn), (behind(&all[bad]), true), "{bad}");
        assert!(found.damage.is_some(), "{bad}: it may have a receipt");
        // What an index knows stays, and so does what is whole behind it.
        let found = scan(&mut shelf.load(), barcode(), Some(&files[0])).expect("scans");
        assert_eq!(found.files, files[1..2 - bad], "{bad}");
        assert!(found.damage.is_some(), "{bad}");
    }
}

#[test]
fn what_was_found_to_count_is_not_read_for_that_again() {
    let (shelf, _, files) = without_proof(false);
    for (counted, reads) in [(false, true), (true, false)] {
        let mut drive = shelf.load();
        let before = drive.tally().read;
        let found = scan_behind(&mut drive, barcode(), Some(&files[0]), counted).expect("scans");
        assert_eq!(found.files, files[1..2]);
        assert_eq!(drive.tally().read - before >= files[0].len, reads);
    }
}

#[test]
fn an_index_that_knows_files_which_nothing_proves_is_believed_if_they_can_be_read() {
    let (shelf, first, files) = without_proof(false);
    overwrite(&shelf.image(), files[0].offset + 500, &[0; 4]);
    let found = scan(&mut shelf.load(), barcode(), Some(&files[0]));
    assert!(matches!(found, Err(VolumeError::Moved { .. })), "{found:?}");
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!((found.files, found.next), (vec![first], behind(&first)));
}

#[test]
fn what_looks_like_a_proof_within_data_is_none() {
    let shelf = Shelf::new(1 << 30);
    let first = one(&shelf);
    together(&mut shelf.load(), behind(&first), &THREE).expect("is written");
    // A user keeps a copy of the image: an object of the same volume's labels.
    let copy = std::fs::read(shelf.image()).expect("image");
    let shelf = Shelf::new(1 << 30);
    let first = one(&shelf);
    let mut drive = shelf.load();
    let mut files = Appender::new(&mut drive, barcode(), behind(&first), (2, DAY));
    write_one(&mut files, 2, &content(2, 3000)).expect("is written");
    let begun = shelf.len();
    write_one(&mut files, 3, &copy[copy.len() - 400..]).expect("is written");
    drop(drive);
    overwrite(&shelf.image(), begun - 2000, &[0; 4]);
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!(found.files, [first], "the second has other bytes");
}

#[test]
fn damage_within_a_batch_hides_what_lies_behind_it_alone() {
    let shelf = Shelf::new(1 << 30);
    let first = one(&shelf);
    let files = together(&mut shelf.load(), behind(&first), &THREE).expect("is written");
    together(&mut shelf.load(), behind(&files[2]), &[(5, 10)]).expect("is written");
    // Labels of the second of three: the proof of the first lies behind them, and its bytes are there.
    overwrite(&shelf.image(), files[1].offset + 20, &[0; 100]);
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!(found.files, [first, files[0]]);
    assert!(found.damage.is_some(), "{found:?}");
    // Whoever knows the first does not begin anew for that, nor reads it.
    let mut drive = shelf.load();
    let before = drive.tally().read;
    let found = scan(&mut drive, barcode(), Some(&files[0])).expect("scans");
    assert_eq!((&found.files[..], found.damage.is_some()), (&[][..], true));
    assert!(drive.tally().read - before < 1000, "labels alone");
    drop(drive);
    // If its bytes are others, it does not count.
    overwrite(&shelf.image(), files[0].offset + 500, &[0; 4]);
    let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
    assert_eq!((found.files, found.next), (vec![first], behind(&first)));
    assert!(found.damage.is_some());
}

#[test]
fn a_lie_at_either_synchronisation_leaves_none_of_the_batch() {
    for nth in [1, 2] {
        let shelf = Shelf::new(1 << 30);
        let first = one(&shelf);
        shelf.faults.lie_at(barcode(), nth);
        let lie = together(&mut shelf.load(), behind(&first), &THREE);
        let is_lie = |error: &VolumeError| {
            let VolumeError::Drive { source, .. } = error else {
                return false;
            };
            matches!(source, DriveError::Lies { .. })
        };
        assert!(lie.as_ref().is_err_and(is_lie), "{lie:?}");
        // Loaded anew and cut, as the library does it.
        cut(&mut shelf.load(), behind(&first)).expect("is cut");
        let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
        assert_eq!((found.files, found.torn), (vec![first], false), "{nth}");
    }
}

#[test]
fn those_that_are_given_up_are_left_out_and_the_last_that_is_there_is_the_end() {
    // Each of three is given up, in the middle of its data or when its sum is wrong.
    for (bad, wrong_sum) in [
        (0, false),
        (1, false),
        (2, false),
        (0, true),
        (1, true),
        (2, true),
    ] {
        let shelf = Shelf::new(1 << 30);
        let first = one(&shelf);
        let mut drive = shelf.load();
        let mut files = Appender::new(&mut drive, barcode(), behind(&first), (2, DAY));
        for (at, (seq, len)) in THREE.into_iter().enumerate() {
            let data = content(seq, len + 600);
            if at != bad {
                write_one(&mut files, seq, &data).expect("is written");
                continue;
            }
            files.begin(name(seq), BLOCK).expect("begins");
            files.write(&data).expect("writes");
            if wrong_sum {
                let ended = files.end(Crc32c(1));
                assert!(matches!(ended, Err(VolumeError::Sum { .. })), "{ended:?}");
            }
            files.give_up();
        }
        assert_eq!(files.len(), 2);
        let (written, _) = files.close().expect("closes").expect("two");
        let found = scan(&mut drive, barcode(), Some(&first)).expect("scans");
        assert_eq!((&found.files, found.torn), (&written, false), "{bad}");
        let mut kept = THREE.to_vec();
        kept.remove(bad);
        for ((seq, len), file) in kept.into_iter().zip(&written) {
            assert_eq!(file.name, name(seq));
            assert_eq!(whole(&mut drive, file), content(seq, len + 600));
        }
        assert_eq!(kinds(&shelf.image()), (2, 1), "{bad}");
    }
}

#[test]
fn wherever_the_tape_ends_in_a_batch_those_before_it_are_there() {
    let whole_batch = {
        let shelf = Shelf::new(1 << 20);
        let first = one(&shelf);
        let files = together(&mut shelf.load(), behind(&first), &THREE).expect("is written");
        files[2].end_bytes()
    };
    let mut counts = std::collections::BTreeSet::new();
    // Labels and blocks are longer than a step.
    for short in (0..).step_by(40) {
        let shelf = Shelf::new(1 << 20);
        let first = one(&shelf);
        shelf.faults.end_of_tape(barcode(), whole_batch - short);
        let mut drive = shelf.load();
        let mut files = Appender::new(&mut drive, barcode(), behind(&first), (2, DAY));
        for (seq, len) in THREE {
            if let Err(error) = write_one(&mut files, seq, &content(seq, len)) {
                assert!(ended(&error), "{error}");
                files.give_up();
                break;
            }
        }
        let closed = loop {
            match files.close() {
                Ok(closed) => break closed,
                Err(error) => assert!(ended(&error), "{error}"),
            }
            files.give_up();
        };
        let written = closed.map_or_else(Vec::new, |(files, _)| files);
        if written.is_empty() {
            files.abandon().expect("is removed");
        }
        let found = scan(&mut drive, barcode(), Some(&first)).expect("scans");
        assert_eq!((&found.files, found.torn), (&written, false), "{short}");
        for ((seq, len), file) in THREE.into_iter().zip(&written) {
            assert_eq!(whole(&mut drive, file), content(seq, len));
        }
        counts.insert(written.len());
        if written.is_empty() {
            break;
        }
    }
    assert_eq!(Vec::from_iter(counts), [0, 1, 2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_image_cut_anywhere_shows_whole_files(
        batches in prop::collection::vec(prop::collection::vec(0..2000_usize, 1..4), 1..4),
        cut in 0.0..1.0_f64,
        zeros in 0..1000_u64,
    ) {
        let shelf = Shelf::new(1 << 30);
        let start = shelf.len();
        let (mut next, mut seq, mut all, mut ends) = (FIRST, 0, Vec::new(), Vec::new());
        for lens in &batches {
            let objects: Vec<(u64, usize)> = lens.iter().map(|len| { seq += 1; (seq, *len) }).collect();
            let files = together(&mut shelf.load(), next, &objects).expect("is written");
            next = behind(files.last().expect("some"));
            // A file ends where the next begins.
            ends.extend(files.iter().map(|file| file.offset).skip(usize::from(all.is_empty())));
            all.extend(files);
        }
        ends.push(shelf.len());
        let len = start + ((shelf.len() - start) as f64 * cut) as u64;
        shelf.cut(len);
        shelf.cut(len + zeros);
        let complete = ends.iter().filter(|end| **end <= len).count();
        let found = scan(&mut shelf.load(), barcode(), None).expect("scans");
        prop_assert_eq!(&found.damage, &None);
        prop_assert_eq!(&found.files[..], &all[..found.files.len()]);
        // The zeros may stand for the last tape mark that was cut off, and for those that end the length before it.
        let is_whole = found.files.len() == complete
            || (zeros > 0 && found.files.len() == complete + 1 && ends[complete] <= len + 7);
        prop_assert!(is_whole, "{} of {:?}, {} whole", found.files.len(), ends, complete);
    }
}
