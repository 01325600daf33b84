//! A disk or a drive that keeps what it likes of what was not synchronised: whatever that is, the files that are
//! found have their bytes, and those with a receipt are found. Where synchronising does nothing, that is seen to fail.
//! So it is with one that says once that it lost what was written, if whoever is told goes on all the same.

use super::*;
use crate::tier::tape::drive::{Read, Status, Wrote};
use crate::tier::tape::label::{LAYOUT, Worth};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Block(Vec<u8>),
    Mark,
}

/// A tape in memory. What is behind `durable` may be lost, each object for itself.
#[derive(Clone, Default)]
struct Memory {
    objects: Vec<Object>,
    at: usize,
    durable: usize,
    /// [`Drive::sync`] does what it says.
    honest: bool,
    /// Verbs left until the power goes.
    verbs: Option<usize>,
    /// What was not synchronised is lost at that verb, which says so; what lay there before is there again.
    loses: Option<usize>,
    /// What lies on the tape from some object on, under what was written and is not synchronised.
    under: Option<(usize, Vec<Object>)>,
    /// Nothing before it is still to be proven.
    proven: usize,
    /// What was written behind that is not there.
    spoiled: bool,
    /// It forgets that it lost something when the head moves.
    forgets: bool,
    /// It says then that the tape is at its end.
    ends: bool,
}

impl Memory {
    fn new(honest: bool) -> Self {
        let volume = Volume {
            layout: LAYOUT,
            name: "TST001".into(),
            owner: TIER,
        };
        let mut tape = Self {
            honest: true,
            ..Self::default()
        };
        initialise(&mut tape, &volume).expect("is labelled");
        tape.honest = honest;
        tape
    }

    fn verb(&mut self) -> Result<(), DriveError> {
        if let Some(left) = &mut self.verbs {
            if *left == 0 {
                return Err(DriveError::Failed {
                    drive: DriveNumber(1),
                    step: "writing",
                    why: "the power is gone".to_owned(),
                });
            }
            *left -= 1;
        }
        Ok(())
    }

    fn put(&mut self, object: Object) -> Result<Wrote, DriveError> {
        self.verb()?;
        self.loss()?;
        self.is_whole()?;
        self.cut();
        self.objects.push(object);
        self.at += 1;
        Ok(Wrote {
            early_warning: false,
        })
    }

    /// What lies behind the head is none any more.
    fn cut(&mut self) {
        let at = self.at;
        let mut behind = self.objects.split_off(at);
        self.under = match self.under.take() {
            Some((from, under)) if at < from => {
                behind.truncate(from - at);
                behind.extend(under);
                Some((at, behind))
            }
            None => Some((at, behind)),
            under => under,
        };
        self.durable = self.durable.min(at);
    }

    fn says(step: &'static str) -> DriveError {
        let source = std::io::Error::from_raw_os_error(libc::EIO);
        DriveError::Medium { step, source }
    }

    fn loss(&mut self) -> Result<(), DriveError> {
        let Some(left) = self.loses else {
            return Ok(());
        };
        self.loses = left.checked_sub(1);
        if left > 0 {
            return Ok(());
        }
        if let Some((from, under)) = self.under.take() {
            self.objects.truncate(from);
            self.objects.extend(under);
            self.durable = self.objects.len();
        }
        self.spoiled = true;
        match self.ends {
            true => Err(DriveError::EndOfMedium),
            false => Err(Self::says("flushing")),
        }
    }

    fn is_whole(&self) -> Result<(), DriveError> {
        match self.spoiled {
            true => Err(Self::says("an earlier write failed")),
            false => Ok(()),
        }
    }

    /// After the power came back: of what was not durable, `kept` says what is there.
    fn after(&self, mut kept: impl FnMut(usize) -> bool) -> Self {
        let lose = |(at, object): (usize, &Object)| match object {
            object if at < self.durable || kept(at) => object.clone(),
            Object::Block(block) => Object::Block(vec![0; block.len()]),
            // What is in its place is no mark.
            Object::Mark => Object::Block(vec![0]),
        };
        Self {
            objects: self.objects.iter().enumerate().map(lose).collect(),
            at: 0,
            durable: self.durable,
            honest: true,
            ..Self::default()
        }
    }
}

impl Drive for Memory {
    fn number(&self) -> DriveNumber {
        DriveNumber(1)
    }
    fn load(&mut self) -> Result<(), DriveError> {
        Ok(())
    }
    fn unload(&mut self) -> Result<(), DriveError> {
        Ok(())
    }
    fn rewind(&mut self) -> Result<(), DriveError> {
        (self.at, self.proven, self.spoiled) = (0, 0, false);
        Ok(())
    }
    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        if self.under.is_some() {
            self.loss()?;
        }
        if self.forgets || object <= self.proven as u64 {
            self.spoiled = false;
        }
        if !self.spoiled && self.under.is_none() {
            self.proven = object as usize;
        }
        let (wanted, end) = (object, self.objects.len() as u64);
        if wanted > end {
            return Err(DriveError::Beyond { wanted, end });
        }
        self.at = wanted as usize;
        Ok(())
    }
    fn space_file(&mut self) -> Result<bool, DriveError> {
        while let Some(object) = self.objects.get(self.at) {
            self.at += 1;
            if *object == Object::Mark {
                return Ok(true);
            }
        }
        Ok(false)
    }
    fn position(&mut self) -> Result<u64, DriveError> {
        Ok(self.at as u64)
    }
    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        let read = match self.objects.get(self.at) {
            None => return Ok(Read::End),
            Some(Object::Mark) => Read::Mark,
            Some(Object::Block(block)) => {
                let (len, room) = (block.len(), buffer.len());
                let into = buffer.get_mut(..len);
                into.ok_or(DriveError::Length { len, room })?
                    .copy_from_slice(block);
                Read::Block(len)
            }
        };
        self.at += 1;
        Ok(read)
    }
    fn write_block(&mut self, block: &[u8]) -> Result<Wrote, DriveError> {
        self.put(Object::Block(block.to_vec()))
    }
    fn write_mark(&mut self) -> Result<Wrote, DriveError> {
        self.put(Object::Mark)
    }
    fn erase(&mut self) -> Result<(), DriveError> {
        self.verb()?;
        self.is_whole()?;
        self.cut();
        Ok(())
    }
    fn sync(&mut self) -> Result<crate::tier::Proof, DriveError> {
        self.verb()?;
        self.loss()?;
        self.is_whole()?;
        (self.under, self.proven) = (None, self.at);
        if self.honest {
            self.durable = self.objects.len();
        }
        Ok(crate::tier::Proof::Drive)
    }
    fn status(&mut self) -> Result<Status, DriveError> {
        Ok(Status {
            ready: true,
            protected: false,
            early_warning: false,
            remaining: None,
        })
    }
    fn complete_behind(&mut self) -> Result<bool, DriveError> {
        let behind = self.objects.get(self.at..).unwrap_or_default();
        let proof = |pair: &[Object]| match pair {
            [Object::Block(label), Object::Mark] => {
                Closing::decode(Worth::Proof, label, "TST001").is_some()
            }
            _ => false,
        };
        Ok(behind.windows(2).any(proof))
    }
}

/// Batches of three, three, one and three; the names that had a receipt when the power went.
fn write(tape: &mut Memory) -> (BTreeSet<AggregateId>, bool) {
    let (mut next, mut seq, mut receipts) = (FIRST, 0, BTreeSet::new());
    for count in [3, 3, 1, 3] {
        let mut files = Appender::new(tape, barcode(), next, (seq + 1, DAY));
        for _ in 0..count {
            seq += 1;
            // The second of the first batch is given up, so that something is written in its place.
            let given_up = seq == 2;
            let data = content(seq, 100 * seq as usize);
            if write_one(&mut files, seq, &data).is_err() {
                return (receipts, false);
            }
            if given_up {
                files.give_up();
            }
        }
        let Ok(Some((files, _))) = files.close() else {
            return (receipts, false);
        };
        next = behind(&files[files.len() - 1]);
        receipts.extend(files.iter().map(|file| file.name));
    }
    (receipts, true)
}

/// What is wrong with what is found on a tape, if anything.
fn wrong(tape: &mut Memory, receipts: &BTreeSet<AggregateId>) -> Option<String> {
    let found = match scan(tape, barcode(), None) {
        Ok(found) => found,
        Err(error) => return Some(error.to_string()),
    };
    let names: BTreeSet<AggregateId> = found.files.iter().map(|file| file.name).collect();
    if let Some(lost) = receipts.difference(&names).next() {
        return Some(format!("{lost} had a receipt"));
    }
    for file in &found.files {
        let mut data = vec![0; file.len as usize];
        let wanted = content(file.name.seq, file.len as usize);
        if part(tape, file, 0, &mut data).is_err() || data != wanted {
            return Some(format!("{} is found, with other bytes", file.name));
        }
    }
    None
}

/// All that is wrong after power losses at each verb, with each of many choices of what is kept.
fn faults(honest: bool) -> Vec<String> {
    let (mut faults, mut cases_in_all, mut damaged) = (Vec::new(), 0, 0);
    for verbs in 0.. {
        let mut tape = Memory::new(honest);
        tape.verbs = Some(verbs);
        let (receipts, through) = write(&mut tape);
        let unsure = tape.durable..tape.objects.len();
        // All, none, all but one, one alone, and some of them.
        let mut cases: Vec<Box<dyn Fn(usize) -> bool>> =
            vec![Box::new(|_| true), Box::new(|_| false)];
        for lost in unsure {
            cases.push(Box::new(move |at| at != lost));
            cases.push(Box::new(move |at| at == lost));
            cases.push(Box::new(move |at| (at * 2654435761 + lost * 40503) % 7 > 1));
        }
        cases_in_all += cases.len();
        for kept in cases {
            let mut after = tape.after(kept);
            if let Some(why) = wrong(&mut after, &receipts) {
                faults.push(format!("{verbs} verbs: {why}"));
                continue;
            }
            // It goes on behind what is there; but if a UTL1 was kept without what belongs to it, that is damage.
            let found = scan(&mut after, barcode(), None).expect("scans");
            if found.damage.is_some() {
                damaged += 1;
                continue;
            }
            let next = found.next;
            let more = append(&mut after, next, 50, &content(50, 900)).expect("goes on");
            let mut receipts = receipts.clone();
            receipts.insert(more.name);
            faults.extend(wrong(&mut after, &receipts));
        }
        if through {
            break;
        }
    }
    assert!(
        !honest || damaged * 50 < cases_in_all,
        "{damaged} of {cases_in_all}"
    );
    faults
}

#[test]
fn whatever_is_lost_that_was_not_synchronised_nothing_else_is() {
    assert_eq!(faults(true), Vec::<String>::new());
}

#[test]
fn where_synchronising_does_nothing_wrong_bytes_and_broken_receipts_are_seen() {
    let faults = faults(false);
    let seen = |what: &str| faults.iter().any(|fault| fault.contains(what));
    assert!(seen("is found, with other bytes"), "{faults:?}");
    assert!(seen("had a receipt"), "{faults:?}");
}

/// A batch behind one that is there, over a torn tail that was as long; a loss is told at the `nth` verb, and whoever
/// writes goes on with the next. What is wrong then; `None`: nothing was lost.
fn told(nth: usize, forgets: bool) -> Option<Vec<String>> {
    let mut tape = Memory::new(true);
    let first = append(&mut tape, FIRST, 1, &content(1, 900)).expect("is written");
    {
        let mut torn = Appender::new(&mut tape, barcode(), behind(&first), (2, DAY));
        for seq in 90..97 {
            write_one(&mut torn, seq, &content(seq, 700)).expect("is written");
        }
    }
    tape.sync()
        .expect("is on the medium, and counts for nothing");
    tape.rewind().expect("rewinds");
    (tape.loses, tape.forgets) = (Some(nth), forgets);
    let mut receipts = BTreeSet::from([first.name]);
    let mut next = behind(&first);
    for batch in [[2, 3, 4, 5], [6, 7, 8, 9]] {
        let mut files = Appender::new(&mut tape, barcode(), next, (2, DAY));
        for seq in batch {
            // One of each is given up whatever comes.
            if write_one(&mut files, seq, &content(seq, 700)).is_err() || seq % 4 == 3 {
                files.give_up();
            }
        }
        for _ in 0..batch.len() {
            match files.close() {
                Ok(Some((written, _))) => {
                    next = behind(&written[written.len() - 1]);
                    receipts.extend(written.iter().map(|file| file.name));
                }
                Ok(None) => break,
                Err(_) => files.give_up(),
            }
        }
    }
    let lost = tape.loses.is_none();
    let mut after = tape.after(|_| false);
    lost.then(|| wrong(&mut after, &receipts).into_iter().collect())
}

#[test]
fn what_a_drive_says_it_lost_has_no_receipt_whoever_goes_on() {
    let mut seen = Vec::new();
    for nth in 0.. {
        let Some(faults) = told(nth, false) else {
            assert!(nth > 80, "{nth}: each verb of two batches");
            break;
        };
        assert_eq!(faults, Vec::<String>::new(), "{nth}");
        seen.extend(told(nth, true).into_iter().flatten());
    }
    // Where a drive forgets it, that is seen.
    assert!(
        seen.iter().any(|why| why.contains("had a receipt")),
        "{seen:?}"
    );
}

#[test]
fn where_a_synchronisation_meets_the_end_of_the_tape_none_is_closed_and_all_go_elsewhere() {
    let mut seen = BTreeSet::new();
    for (nth, given_up) in (0..60).flat_map(|nth| [(nth, false), (nth, true)]) {
        let mut tape = Memory::new(true);
        (tape.loses, tape.ends) = (Some(nth), true);
        let mut files = Appender::new(&mut tape, barcode(), FIRST, (1, DAY));
        if (1..=3).any(|seq| write_one(&mut files, seq, &content(seq, 700)).is_err()) {
            continue;
        }
        if given_up {
            files.give_up();
        }
        let Err(VolumeError::Drive { step, source }) = files.close() else {
            continue;
        };
        assert!(matches!(source, DriveError::EndOfMedium), "{source}");
        // A label that found no room is another matter.
        if step.starts_with("writing") {
            continue;
        }
        files.give_up();
        let closed = files.close();
        assert!(matches!(closed, Ok(None)), "{nth}: {step}: {closed:?}");
        seen.insert(step);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
