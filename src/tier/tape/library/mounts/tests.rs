//! Who gets a drive, with real threads and virtual drives.

use super::*;
use crate::tier::tape::clock::Speed;
use crate::tier::tape::drive::virtual_drive::VirtualDrive;
use crate::tier::tape::faults::TapeFaults;
use crate::tier::tape::image::Image;
use crate::tier::tape::robot::{VirtualRobot, Wanted};
use crate::tier::tape::timing::{Generation, Geometry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tempfile::TempDir;

struct Room {
    place: TempDir,
    mounts: Arc<Mounts>,
}

impl Room {
    fn new(drives: u32) -> Self {
        let mut made: Vec<Box<dyn Drive>> = Vec::new();
        let mut mouths = BTreeMap::new();
        for number in (1..=drives).map(DriveNumber) {
            let clock = Speed::Max.clock();
            let drive = VirtualDrive::new(number, clock, 1.0, TapeFaults::default());
            mouths.insert(number, drive.mouth());
            made.push(Box::new(drive));
        }
        let place = TempDir::new().expect("temporary directory");
        let robot = VirtualRobot::new(mouths, place.path().to_owned());
        let mounts = Mounts::new(made, Box::new(robot));
        Self {
            place,
            mounts: Arc::new(mounts),
        }
    }

    fn cartridge(&self, number: u32) -> Wanted {
        let barcode: Barcode = format!("CRN{number:03}L8").parse().expect("barcode");
        let image = self.place.path().join(format!("{barcode}.tap"));
        if !image.exists() {
            drop(Image::create(&image).expect("is made"));
        }
        Wanted {
            barcode,
            geometry: Geometry::whole(Generation::Lto8),
            protected: false,
        }
    }

    fn holds(&self, drive: usize) -> Option<Barcode> {
        self.mounts.status()[drive].holds
    }

    /// Waits until so many stand in the line.
    fn until_waiting(&self, many: usize) {
        while self.mounts.floor.lock().line.len() < many {
            std::thread::yield_now();
        }
    }
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let room = Room::new(1);
    let held = room.mounts.mount(&room.cartridge(1), None).expect("mounts");
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // Two of them want what is in the drive already: no reason to go before others.
        for (n, number) in [2, 1, 3, 1, 4].into_iter().enumerate() {
            let (cartridge, room, order) = (room.cartridge(number), &room, &order);
            scope.spawn(move || {
                let mounted = room.mounts.mount(&cartridge, None).expect("mounts");
                order.lock().push(n);
                drop(mounted);
            });
            room.until_waiting(n + 1);
        }
        drop(held);
    });
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
}

#[test]
fn what_is_pinned_stays_and_is_used_where_it_is() {
    let room = Room::new(1);
    let mounts = &room.mounts;
    let pin = mounts
        .mount(&room.cartridge(1), None)
        .expect("mounts")
        .pin();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mounted = mounts.mount(&room.cartridge(2), None).expect("mounts");
            drop(mounted);
        });
        room.until_waiting(1);
        assert!(mounts.stuck().is_some(), "one gets nothing");
        for _ in 0..100 {
            drop(mounts.mount(&room.cartridge(1), None).expect("mounts"));
        }
        assert_eq!(room.holds(0), Some(room.cartridge(1).barcode));
        assert!(mounts.is_pinned(pin) && !other.is_finished());
        mounts.unpin(pin);
        other.join().expect("comes to its drive");
    });
    assert_eq!(room.holds(0), Some(room.cartridge(2).barcode));
    assert_eq!((mounts.stuck(), mounts.is_pinned(pin)), (None, false));
}

#[test]
fn a_pin_does_not_outlive_the_cartridge_s_leaving() {
    let room = Room::new(1);
    let pin = room
        .mounts
        .mount(&room.cartridge(1), None)
        .expect("mounts")
        .pin();
    let own = room.mounts.mount(&room.cartridge(1), None);
    own.expect("mounts").vacate();
    assert!(!room.mounts.is_pinned(pin));
    // Nothing hinders the next, and the old pin says nothing of the new one.
    let next = room.mounts.mount(&room.cartridge(2), None);
    let next = next.expect("mounts").pin();
    room.mounts.unpin(pin);
    assert!(room.mounts.is_pinned(next));
}

#[test]
fn writers_and_those_who_pin_all_go_on_when_pins_are_let_go_for_them() {
    let room = Room::new(2);
    let (writes, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let passes = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let done = || {
        writes.load(Ordering::Acquire) >= 50
            && passes.iter().all(|p| p.load(Ordering::Acquire) >= 20)
    };
    std::thread::scope(|scope| {
        for (n, passes) in (10..).zip(&passes) {
            let (room, stop) = (&room, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let own = room.mounts.mount(&room.cartridge(n), None);
                    let pin = own.expect("mounts").pin();
                    // Keeps it for as long as nobody is stuck, and some reads at least.
                    for _ in 0..1000 {
                        drop(room.mounts.mount(&room.cartridge(n), None));
                        if room.mounts.stuck().is_some() || stop.load(Ordering::Acquire) {
                            break;
                        }
                    }
                    passes.fetch_add(1, Ordering::AcqRel);
                    room.mounts.unpin(pin);
                }
            });
        }
        for n in 0..3 {
            let (room, stop, writes) = (&room, &stop, &writes);
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    drop(room.mounts.mount(&room.cartridge(n), None).expect("mounts"));
                    writes.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        while !done() {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn what_is_in_a_drive_when_it_is_retired_is_taken_out_whoever_comes_first() {
    let room = Room::new(2);
    let (mounts, cartridge) = (&room.mounts, room.cartridge(1));
    for _ in 0..500 {
        let mounted = mounts.mount(&cartridge, None).expect("mounts");
        let at = mounts.status().into_iter().find(|s| s.holds.is_some());
        let drive = at.expect("holds it").number;
        std::thread::scope(|scope| {
            scope.spawn(|| mounts.retire(drive, Some("retired".into())));
            drop(mounted);
        });
        let left: Vec<_> = mounts
            .status()
            .into_iter()
            .filter_map(|s| s.holds)
            .collect();
        assert_eq!(left, [], "in a drive that nobody uses");
        mounts.retire(drive, None);
    }
}

#[test]
fn who_wants_what_a_retired_drive_holds_gets_it_when_its_user_is_through() {
    let room = Room::new(2);
    let (mounts, cartridge) = (&room.mounts, room.cartridge(1));
    let mounted = mounts.mount(&cartridge, None).expect("mounts");
    let at = mounts.status().iter().position(|s| s.holds.is_some());
    let at = at.expect("holds it");
    mounts.retire(mounts.status()[at].number, Some("retired".into()));
    std::thread::scope(|scope| {
        let next = scope.spawn(|| mounts.mount(&cartridge, None).map(drop));
        while mounts.floor.lock().line.len() < 1 && !next.is_finished() {
            std::thread::yield_now();
        }
        drop(mounted);
        next.join().expect("ends").expect("is loaded elsewhere");
    });
    assert_eq!(room.holds(1 - at), Some(cartridge.barcode));
}
