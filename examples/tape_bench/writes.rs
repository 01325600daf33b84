//! What writing costs: objects one after the other, and several behind one synchronisation, on a virtual drive that writes
//! an image and counts the model's seconds.

use anyhow::Context;
use cairn::id::{AggregateId, TierId};
use cairn::tier::tape::clock::Speed;
use cairn::tier::tape::drive::virtual_drive::{Inserted, VirtualDrive};
use cairn::tier::tape::drive::{Drive, DriveNumber};
use cairn::tier::tape::faults::TapeFaults;
use cairn::tier::tape::image::Image;
use cairn::tier::tape::label::{Day, LAYOUT, Volume};
use cairn::tier::tape::timing::{Generation, Geometry};
use cairn::tier::tape::volume::{Appender, FIRST, Next, initialise};
use cairn_mover::Crc32c;

const MIB: usize = 1 << 20;
/// Length of an object, MiB; how many.
const OBJECTS: [(usize, u64); 3] = [(1, 128), (64, 32), (256, 8)];
const TOGETHER: [u64; 4] = [1, 4, 8, 16];

/// Model seconds for so many objects of that length, so many together.
fn seconds(mib: usize, count: u64, together: u64) -> anyhow::Result<f64> {
    let place = tempfile::tempdir()?;
    let image = place.path().join("TST001L8.tap");
    drop(Image::create(&image)?);
    let barcode = "TST001L8".parse()?;
    let mut drive = VirtualDrive::new(
        DriveNumber(1),
        Speed::Max.clock(),
        0.0,
        TapeFaults::default(),
    );
    *drive.mouth().lock() = Some(Inserted {
        barcode,
        image,
        geometry: Geometry::whole(Generation::Lto8),
        protected: false,
    });
    drive.load()?;
    let label = Volume {
        layout: LAYOUT,
        name: barcode.volume().to_owned(),
        owner: TierId(1),
    };
    initialise(&mut drive, &label)?;
    let begun = drive.tally().busy;
    let data = vec![7; mib * MIB];
    let sum = Crc32c::of(&data);
    let mut next = FIRST;
    for first in (0..count).step_by(together as usize) {
        let mut files = Appender::new(&mut drive, barcode, next, (first + 1, Day { unix: 0 }));
        for seq in first..count.min(first + together) {
            files.begin(AggregateId { epoch: 1, seq }, 256 << 10)?;
            files.write(&data)?;
            files.end(sum)?;
        }
        let (files, _) = files.close()?.context("some were written")?;
        let last = files.last().context("some were written")?;
        next = Next {
            object: last.end(),
            bytes: last.end_bytes(),
        };
    }
    Ok((drive.tally().busy - begun).as_secs_f64())
}

/// Prints the table.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("| objects | together | model seconds | MB/s | one by one = 1 |");
    println!("|---|---|---|---|---|");
    for (mib, count) in OBJECTS {
        let mut alone = None;
        for together in TOGETHER.into_iter().filter(|n| *n <= count) {
            let took = seconds(mib, count, together)?;
            let alone = *alone.get_or_insert(took);
            let rate = (mib * MIB) as f64 * count as f64 / took / 1e6;
            println!(
                "| {count} of {mib} MiB | {together} | {took:.0} | {rate:.1} | {:.2} |",
                took / alone
            );
        }
    }
    Ok(())
}
