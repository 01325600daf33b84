//! P3, seen from the tier: copies are proven, the catalog is told, the blocks go.

use super::Next;
use super::catalog::Filed;
use super::state::{AGGREGATES, INODES, Release, bit};

pub(super) fn steps(next: &mut Next<'_>) {
    match next.from.release {
        Release::Idle => (0..INODES).for_each(|at| proves(next, at)),
        Release::Proven(at) => notes(next, at),
        Release::Noted(at) => next.of("the release punches file", at + 1, |s| {
            s.inodes[at].stub = true;
            s.inodes[at].data = None;
            s.release = Release::Idle;
        }),
    }
}

/// The record is its own, the sum fits, and the catalog's copy is on the tier.
fn proves(next: &mut Next<'_>, at: usize) {
    let (from, file) = (next.from, next.from.inodes[at]);
    let (Some(key), true) = (file.record, from.left.releases > 0) else {
        return;
    };
    let bytes = super::state::bytes_of(key);
    let is_it =
        file.linked && !file.foreign && !file.open && !file.stub && file.data == Some(bytes);
    let known = from.catalog.rows[at].is_some_and(|(_, k)| k == key);
    let copy = |a: usize| from.catalog.copies[key] & bit(a) != 0 && from.objects[a].there;
    if is_it && known && (0..AGGREGATES).any(copy) {
        next.of("a release proves the copies of file", at + 1, |s| {
            s.left.releases -= 1;
            s.release = Release::Proven(at);
        });
    }
}

fn notes(next: &mut Next<'_>, at: usize) {
    next.of(
        "the catalog is told that a release punches file",
        at + 1,
        |s| {
            s.release = Release::Idle;
            let key = s.inodes[at].record;
            match s.catalog.rows[at] {
                Some((_, k)) if Some(k) == key && s.inodes[at].linked && !s.inodes[at].open => {
                    s.catalog.rows[at] = Some((Filed::Released, k));
                    s.release = Release::Noted(at);
                }
                _ => {}
            }
        },
    );
}
