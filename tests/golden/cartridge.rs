//! Cartridges of every layout that was ever written, as images: what is found on them, and what is not.
//!
//! `v1/cartridge.tap` was left by a library of layout 1: three aggregates and a namespace snapshot. `v2/cartridge.tap`
//! has one file, three that were written together, and one; `v2/cartridge-torn.tap` one, and of three that were written
//! together two that are whole, which count because their data are there, and half of the third. Of these two the program writes the same again;
//! `CAIRN_WRITE_GOLDEN=1` writes those that are *missing*.

use cairn::format::aggregate::{TRAILER_LEN, decode_trailer};
use cairn::id::{AggregateId, TierId};
use cairn::tier::tape::clock::Speed;
use cairn::tier::tape::drive::virtual_drive::{Inserted, VirtualDrive};
use cairn::tier::tape::drive::{Drive, DriveNumber};
use cairn::tier::tape::faults::TapeFaults;
use cairn::tier::tape::image::Image;
use cairn::tier::tape::label::{Barcode, Day, LAYOUT, Volume};
use cairn::tier::tape::timing::{Generation, Geometry};
use cairn::tier::tape::volume::{self, Appender, FIRST, Next, Scan, TapeFile, Window};
use cairn_mover::Crc32c;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const TIER: TierId = TierId(0x00c0_ffee);
const DAY: Day = Day {
    unix: 1_800_000_000,
};
const BLOCK: u32 = 512;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn geometry() -> Geometry {
    Geometry {
        generation: Generation::Lto8,
        capacity: 8 << 20,
    }
}

fn load(image: &Path, barcode: Barcode, faults: &TapeFaults) -> VirtualDrive {
    let clock = Speed::Max.clock();
    let mut drive = VirtualDrive::new(DriveNumber(1), clock, 0.0, faults.clone());
    *drive.mouth().lock() = Some(Inserted {
        barcode,
        image: image.to_owned(),
        geometry: geometry(),
        protected: false,
    });
    drive.load().unwrap();
    drive
}

fn name(seq: u64) -> AggregateId {
    AggregateId { epoch: 0x2a, seq }
}

fn content(seq: u64) -> Vec<u8> {
    let len = [1000, 1300, 0, 512, 700, 90][seq as usize];
    (0..len).map(|n| (n * 7 + seq * 31) as u8).collect()
}

fn volume_of(text: &str) -> Barcode {
    text.parse().unwrap()
}

/// Writes these together behind what is there.
fn write(
    drive: &mut VirtualDrive,
    next: Next,
    seqs: &[u64],
) -> Result<Vec<TapeFile>, volume::VolumeError> {
    let barcode = volume_of("CRN001L8");
    let mut files = Appender::new(drive, barcode, next, (seqs[0] + 1, DAY));
    for seq in seqs {
        files.begin(name(*seq), BLOCK)?;
        files.write(&content(*seq))?;
        files.end(Crc32c::of(&content(*seq)))?;
    }
    Ok(files.close()?.unwrap().0)
}

/// What this program writes; all of it, or until the power goes in the third of three.
fn written(torn: bool) -> (Vec<u8>, Vec<TapeFile>) {
    let place = TempDir::new().unwrap();
    let image = place.path().join("CRN001L8.tap");
    let (barcode, faults) = (volume_of("CRN001L8"), TapeFaults::default());
    drop(Image::create(&image).unwrap());
    let mut drive = load(&image, barcode, &faults);
    let label = Volume {
        layout: LAYOUT,
        name: "CRN001".into(),
        owner: TIER,
    };
    volume::initialise(&mut drive, &label).unwrap();
    let behind = |files: &[TapeFile]| {
        let last = files.last().unwrap();
        Next {
            object: last.end(),
            bytes: last.end_bytes(),
        }
    };
    let mut all = write(&mut drive, FIRST, &[0]).unwrap();
    if torn {
        // Three labels each before and behind, three blocks, and none; and in the third its data.
        faults.power_loss(3 + 3 + 3 + 3 + 3 + 3 + 1);
        write(&mut drive, behind(&all), &[1, 2, 3]).unwrap_err();
    } else {
        for seqs in [&[1, 2, 3][..], &[4]] {
            let next = behind(&all);
            all.extend(write(&mut drive, next, seqs).unwrap());
        }
    }
    drop(drive);
    (fs::read(&image).unwrap(), all)
}

/// A copy of a golden image, since one that is read is held for writing.
fn copied(file: &str) -> (TempDir, PathBuf) {
    let place = TempDir::new().unwrap();
    let image = place.path().join("image.tap");
    fs::copy(golden(file), &image).unwrap();
    (place, image)
}

fn scanned(image: &Path, barcode: Barcode, tier: TierId) -> (u32, Scan) {
    let mut drive = load(image, barcode, &TapeFaults::default());
    let label = volume::check(&mut drive, barcode, tier).unwrap();
    let found = volume::scan(&mut drive, barcode, None).unwrap();
    (label.layout, found)
}

fn read(image: &Path, barcode: Barcode, file: &TapeFile) -> Vec<u8> {
    let mut drive = load(image, barcode, &TapeFaults::default());
    let mut data = vec![0; file.len as usize];
    let at = (&mut Window::default(), geometry());
    volume::read(&mut drive, file, 0, &mut data, at).unwrap();
    data
}

#[test]
fn cartridges_of_layout_2_are_written_and_read_as_they_were() {
    for (file, torn) in [("v2/cartridge.tap", false), ("v2/cartridge-torn.tap", true)] {
        let (image, files) = written(torn);
        match fs::read(golden(file)) {
            Ok(bytes) => assert!(
                bytes == image,
                "{file} differs from what this program writes"
            ),
            Err(_) if std::env::var_os("CAIRN_WRITE_GOLDEN").is_some() => {
                fs::write(golden(file), image).unwrap();
            }
            Err(error) => panic!("{file}: {error}"),
        }
        let (_place, image) = copied(file);
        let barcode = volume_of("CRN001L8");
        let (layout, found) = scanned(&image, barcode, TIER);
        assert_eq!((layout, found.torn, found.damage), (2, torn, None));
        // Of those without a proof, the ones whose data are there.
        assert_eq!(found.files[..files.len()], files);
        let seqs: Vec<u64> = found.files.iter().map(|f| f.name.seq).collect();
        let all: &[u64] = if torn { &[0, 1, 2] } else { &[0, 1, 2, 3, 4] };
        assert_eq!(seqs, all);
        for file in &found.files {
            assert_eq!(read(&image, barcode, file), content(file.name.seq));
        }
    }
}

#[test]
fn a_cartridge_of_layout_1_is_read() {
    let (_place, image) = copied("v1/cartridge.tap");
    let barcode = volume_of("BJC001L8");
    let (layout, found) = scanned(&image, barcode, TierId(0x3197_431b));
    assert_eq!((layout, found.torn, found.damage), (1, false, None));
    let names: Vec<String> = found.files.iter().map(|f| f.name.to_string()).collect();
    let all = [
        "e00000001-000000000001",
        "e00000001-000000000002",
        "e00000001-000000000003",
        "e00000001-100000000004",
    ];
    assert_eq!(names, all);
    for file in &found.files {
        let data = read(&image, barcode, file);
        assert_eq!(Crc32c::of(&data), file.crc);
        let trailer = &data[data.len() - TRAILER_LEN as usize..];
        let trailer = decode_trailer(trailer, file.len).unwrap();
        assert_eq!(trailer.total_len, file.len);
    }
}

#[test]
fn the_example_script_takes_out_what_is_proven_and_nothing_else() {
    for (file, all) in [
        ("v1/cartridge.tap", 4),
        ("v2/cartridge.tap", 5),
        ("v2/cartridge-torn.tap", 1),
    ] {
        let out = TempDir::new().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tap_files.py");
        let ran = Command::new("python3")
            .arg(script)
            .args([&golden(file), out.path()])
            .status();
        match ran {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("the_example_script_...: not run, there is no python3 here");
                return;
            }
            ran => assert!(ran.unwrap().success()),
        }
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), all, "{file}");
        if file.starts_with("v2") {
            for seq in 0..all as u64 {
                let taken = fs::read(out.path().join(format!("{}.tar", name(seq)))).unwrap();
                assert!(taken == content(seq), "{file}: {seq}");
            }
        }
    }
}
