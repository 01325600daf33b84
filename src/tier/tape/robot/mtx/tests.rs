//! Tests of the changer: what it prints, what it is told, and the program that is run.

use super::*;
use crate::tier::tape::timing::{Generation, Geometry};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// Two drives, one of which holds what nobody knows the slot of; a cleaning cartridge; stickers that cannot be read.
const LARGE: &str = "\
  Storage Changer /dev/sg3:2 Drives, 8 Slots ( 2 Import/Export )
Data Transfer Element 0:Full (Storage Element 5 Loaded):VolumeTag = ABC123L8                            
Data Transfer Element 1:Full (Unknown Storage Element Loaded)
      Storage Element 1:Full :VolumeTag=ABC124L8                            
      Storage Element 2:Full :VolumeTag=CLN001L1                            
      Storage Element 3:Empty
      Storage Element 4:Full 
      Storage Element 5:Empty:VolumeTag=
      Storage Element 6:Full :VolumeTag=ABC125L8                        :AlternateVolumeTag=SIDE02L8
      Storage Element 7 IMPORT/EXPORT:Empty
      Storage Element 8 IMPORT/EXPORT:Full :VolumeTag=ABC126L8                            
";

const SMALL: &str = "\
  Storage Changer /dev/sg1:1 Drives, 2 Slots ( 0 Import/Export )
Data Transfer Element 0:Empty
      Storage Element 1:Empty
      Storage Element 2:Full :VolumeTag=ABC001L9
";

const PORTED: &str = "\
  Storage Changer /dev/sg1:1 Drives, 2 Slots ( 1 Import/Export )
Data Transfer Element 0:Full (Storage Element 2 Loaded):VolumeTag = ABC123L8
      Storage Element 1:Empty
      Storage Element 2 IMPORT/EXPORT:Empty
";

fn barcode(text: &str) -> Barcode {
    text.parse().expect("barcode")
}

fn wanted(text: &str) -> Wanted {
    Wanted {
        barcode: barcode(text),
        geometry: Geometry::whole(Generation::Lto8),
        protected: false,
    }
}

#[test]
fn what_mtx_prints_is_read() {
    let large: Elements = LARGE.parse().expect("is read");
    let bays: Vec<(u32, bool, Option<u32>, &str)> = large
        .bays
        .iter()
        .map(|b| (b.number, b.full, b.home, b.sticker.as_str()))
        .collect();
    assert_eq!(bays, [(0, true, Some(5), "ABC123L8"), (1, true, None, "")]);
    let slots: Vec<(u32, bool, bool, &str)> = large
        .slots
        .iter()
        .map(|s| (s.number, s.port, s.full, s.sticker.as_str()))
        .collect();
    assert_eq!(
        slots,
        [
            (1, false, true, "ABC124L8"),
            (2, false, true, "CLN001L1"),
            (3, false, false, ""),
            (4, false, true, ""),
            (5, false, false, ""),
            (6, false, true, "ABC125L8"),
            (7, true, false, ""),
            (8, true, true, "ABC126L8"),
        ]
    );
    let small: Elements = SMALL.parse().expect("is read");
    assert_eq!((small.bays.len(), small.slots.len()), (1, 2));
}

#[test]
fn what_is_not_understood_is_no_inventory() {
    for text in [
        "",
        "mtx: Request Sense: Long Report=yes\n",
        "Data Transfer Element zero:Empty\n",
        "Data Transfer Element 0:Perhaps\n",
        "Data Transfer Element 0:Empty\nData Transfer Element 0:Empty\n",
        "Data Transfer Element 0:Empty\nStorage Element 1:Half\n",
        "Data Transfer Element 0:Empty\nStorage Element 1:Empty\nStorage Element 1:Empty\n",
        "Data Transfer Element 0\n",
    ] {
        let read: Result<Elements, String> = text.parse();
        assert!(read.is_err(), "{text:?}: {read:?}");
    }
}

/// Prints one status, notes what it is told, and does nothing.
struct Noting {
    status: &'static str,
    told: Mutex<Vec<String>>,
}

impl Mtx for Arc<Noting> {
    fn run(&self, arguments: &[String]) -> Result<String, RobotError> {
        if arguments != ["status"] {
            self.told.lock().push(arguments.join(" "));
        }
        Ok(self.status.to_owned())
    }
}

fn noting(status: &'static str) -> (MtxRobot<Arc<Noting>>, Arc<Noting>) {
    let noting = Arc::new(Noting {
        status,
        told: Mutex::default(),
    });
    (MtxRobot::new(Arc::clone(&noting)), noting)
}

#[test]
fn cartridges_go_home_and_are_never_put_where_one_is() {
    let (robot, noting) = noting(LARGE);
    robot.empty(DriveNumber(1)).expect("goes home");
    // Nobody knows whence: the first free slot, and no port.
    robot.empty(DriveNumber(2)).expect("goes somewhere");
    let occupied = robot.fill(DriveNumber(1), &wanted("ABC124L8"));
    assert_eq!(occupied, Err(RobotError::Occupied(DriveNumber(1))));
    assert_eq!(
        robot.empty(DriveNumber(3)),
        Err(RobotError::NoDrive(DriveNumber(3)))
    );
    assert_eq!(*noting.told.lock(), ["unload 5 0", "unload 3 1"]);
    noting.told.lock().clear();
    let cartridge = |sticker: &str| sticker.parse().expect("barcode");
    // Another one than was left there is not put in anew.
    let another = robot.reseat(DriveNumber(1), cartridge("ABC124L8"));
    assert!(matches!(another, Err(RobotError::Another { .. })));
    assert!(noting.told.lock().is_empty());
    robot
        .reseat(DriveNumber(1), cartridge("ABC123L8"))
        .expect("is put in anew");
    assert_eq!(*noting.told.lock(), ["unload 5 0", "load 5 0"]);
    // It came from a port, and does not go back there by itself.
    let (robot, noting) = self::noting(PORTED);
    robot.empty(DriveNumber(1)).expect("goes to a slot");
    assert_eq!(*noting.told.lock(), ["unload 1 0"]);
    let (robot, noting) = self::noting(SMALL);
    assert_eq!(
        robot.reseat(DriveNumber(1), cartridge("ABC123L8")),
        Err(RobotError::Gone)
    );
    robot.empty(DriveNumber(1)).expect("is empty");
    robot
        .fill(DriveNumber(1), &wanted("ABC001L9"))
        .expect("is loaded");
    assert_eq!(
        robot.fill(DriveNumber(1), &wanted("ABC002L9")),
        Err(RobotError::Gone)
    );
    assert_eq!(*noting.told.lock(), ["load 2 0"]);
}

#[test]
fn what_stands_where_is_told_with_what_nobody_can_read() {
    let (robot, noting) = noting(LARGE);
    let all = robot.inventory().expect("is asked");
    let barcodes: Vec<String> = all
        .iter()
        .filter_map(|s| s.barcode().map(|b| b.to_string()))
        .collect();
    assert_eq!(barcodes, ["ABC123L8", "ABC124L8", "ABC125L8", "ABC126L8"]);
    assert_eq!(all.iter().filter(|s| s.is_for_cleaning()).count(), 1);
    assert_eq!(all[0].drive, Some(DriveNumber(1)));
    assert!(
        robot.has(barcode("ABC126L8")).expect("known"),
        "in a port, too"
    );
    assert!(!robot.has(barcode("CLN001L8")).expect("known"));
    let place = robot.put_out(barcode("ABC124L8")).expect("is moved");
    assert_eq!(place.as_deref(), Some("import/export slot 7"));
    robot.take_in(barcode("ABC126L8")).expect("is moved");
    robot
        .take_in(barcode("ABC125L8"))
        .expect("stands in a slot already");
    assert_eq!(*noting.told.lock(), ["transfer 1 7", "transfer 8 3"]);
    let (robot, noting) = self::noting(SMALL);
    assert_eq!(
        robot.put_out(barcode("ABC001L9")),
        Ok(None),
        "there is no port"
    );
    assert!(noting.told.lock().is_empty());
}

/// Answers after it was let go.
struct Slow {
    works: AtomicBool,
    goes_on: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Mtx for Arc<Slow> {
    fn run(&self, arguments: &[String]) -> Result<String, RobotError> {
        if arguments != ["status"] {
            self.works.store(true, Ordering::Release);
            let _ = self.goes_on.lock().recv();
        }
        Ok(SMALL.to_owned())
    }
}

#[test]
fn who_only_asks_does_not_wait_for_a_move() {
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let slow = Arc::new(Slow {
        works: AtomicBool::new(false),
        goes_on: Mutex::new(goes_on),
    });
    let robot = Arc::new(MtxRobot::new(Arc::clone(&slow)));
    let moving = {
        let robot = Arc::clone(&robot);
        std::thread::spawn(move || robot.fill(DriveNumber(1), &wanted("ABC001L9")))
    };
    while !slow.works.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    // The arm is still at it.
    assert_eq!(robot.has(barcode("ABC001L9")), Ok(true));
    assert!(!moving.is_finished());
    go_on.send(()).expect("waits");
    moving.join().expect("ends").expect("is loaded");
    assert_eq!(robot.has(barcode("ABC001L9")), Ok(true), "in the drive");
}

/// A program in the place of `mtx`, which keeps what it has in a file beside it.
fn script(place: &Path, body: &str) -> Program {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let path = place.join("mtx");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o700).open(&path);
    let text = format!("#!/bin/sh\ncd '{}' || exit 9\n{body}\n", place.display());
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .expect("is written");
    Program::of(path, "/dev/sg7; exit 1".into(), Duration::from_secs(60))
}

const STATEFUL: &str = r#"
[ "$1" = -f ] && [ "$2" = '/dev/sg7; exit 1' ] || { echo "wrong device" >&2; exit 1; }
at=$(cat drive 2>/dev/null)
case "$3" in
status)
    if [ -n "$at" ]; then echo "Data Transfer Element 0:Full (Storage Element $at Loaded):VolumeTag = ABC001L8"
    else echo "Data Transfer Element 0:Empty"; fi
    for n in 1 2; do
        if [ "$n" = 1 ] && [ -z "$at" ]; then echo "      Storage Element 1:Full :VolumeTag=ABC001L8"
        else echo "      Storage Element $n:Empty"; fi
    done ;;
load) [ "$#" = 5 ] && echo "$4" > drive && echo "Loading media from Storage Element $4 into drive $5...done" ;;
unload) rm drive && echo "Unloading drive $5 into Storage Element $4...done" ;;
*) echo "mtx: illegal command" >&2; exit 1 ;;
esac
"#;

#[test]
fn the_program_is_run_with_its_arguments_as_they_are() {
    let place = TempDir::new().expect("temporary directory");
    let program = script(place.path(), STATEFUL);
    let robot = MtxRobot::new(program.clone());
    assert!(robot.has(barcode("ABC001L8")).expect("is asked"));
    robot
        .fill(DriveNumber(1), &wanted("ABC001L8"))
        .expect("is loaded");
    let drive = std::fs::read_to_string(place.path().join("drive"));
    assert_eq!(drive.expect("is written"), "1\n");
    let again = robot.fill(DriveNumber(1), &wanted("ABC001L8"));
    assert_eq!(again, Err(RobotError::Occupied(DriveNumber(1))));
    robot.empty(DriveNumber(1)).expect("is unloaded");
    assert!(!place.path().join("drive").exists());
    let error = program
        .run(&["dance".to_owned()])
        .expect_err("no such command");
    let said = error.to_string();
    assert!(
        said.contains("dance") && said.contains("mtx: illegal command"),
        "{said}"
    );
}

#[test]
fn a_program_that_is_stuck_or_talks_without_end_is_no_answer() {
    let place = TempDir::new().expect("temporary directory");
    script(place.path(), "exec sleep 1000");
    let (mtx, patience) = (place.path().join("mtx"), Duration::from_millis(300));
    let stuck = Program::of(mtx, "/dev/sg7".into(), patience);
    let error = stuck.run(&["status".to_owned()]).expect_err("is stuck");
    assert!(error.to_string().contains("not through"), "{error}");
    let place = TempDir::new().expect("temporary directory");
    let loud = script(
        place.path(),
        "yes 'mtx: it is all wrong' | head -c 9000000 >&2; exit 3",
    );
    let error = loud.run(&["status".to_owned()]).expect_err("fails");
    let said = error.to_string();
    assert!(
        said.contains("it is all wrong") && said.len() < 1000,
        "{}",
        said.len()
    );
    let gone = Program::of("/nonexistent/mtx".into(), "/dev/sg7".into(), Duration::ZERO);
    let error = gone.run(&["status".to_owned()]).expect_err("is not there");
    assert!(error.to_string().contains("cannot be run"), "{error}");
}
