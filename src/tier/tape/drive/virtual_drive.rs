//! A drive that is none: the verbs on a cartridge's image, in the time that the model says.
//!
//! Time is charged for loading (with the robot's move), locating and spacing (as a locate),
//! transfers at the native rate, rewinding, unloading, and a backhitch when a stream goes on after a
//! stop: every synchronisation stops the tape. Its host is the front area, which keeps up with any drive.

use super::{Drive, DriveError, DriveNumber, Read, Status, Tally, Wrote};
use crate::tier::Proof;
use crate::tier::clock::Clock;
use crate::tier::tape::clock::Pacer;
use crate::tier::tape::faults::TapeFaults;
use crate::tier::tape::image::{Access, Found, Image, ImageError, Place};
use crate::tier::tape::label::{Barcode, Closing, LABEL, Worth};
use crate::tier::tape::timing::Geometry;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;

/// What follows a closing label in an image: its length once more, and a tape mark.
const ENDED: [u8; 8] = [LABEL as u8, 0, 0, 0, 0, 0, 0, 0];

/// A cartridge in the mouth of a drive.
#[derive(Debug, Clone)]
pub struct Inserted {
    /// Its sticker.
    pub barcode: Barcode,
    /// Its image.
    pub image: PathBuf,
    /// How long and how full it can be.
    pub geometry: Geometry,
    /// Its tab says: not to be written.
    pub protected: bool,
}

/// Where the robot puts a cartridge, and takes it from.
pub type Mouth = Arc<Mutex<Option<Inserted>>>;

/// The virtual drive.
pub struct VirtualDrive {
    number: DriveNumber,
    mouth: Mouth,
    loaded: Option<Loaded>,
    pacer: Pacer,
    robot_move: f64,
    faults: TapeFaults,
    tally: Tally,
}

struct Loaded {
    cartridge: Inserted,
    image: Image,
    /// The tape stopped while data streamed.
    stopped: bool,
}

impl VirtualDrive {
    /// An empty drive. `robot_move` is what the robot takes for one move, seconds.
    #[must_use]
    pub fn new(
        number: DriveNumber,
        clock: Arc<dyn Clock>,
        robot_move: f64,
        faults: TapeFaults,
    ) -> Self {
        Self {
            number,
            mouth: Mouth::default(),
            loaded: None,
            pacer: Pacer::new(clock),
            robot_move,
            faults,
            tally: Tally::default(),
        }
    }

    /// Where the robot puts a cartridge before [`Drive::load`].
    #[must_use]
    pub fn mouth(&self) -> Mouth {
        Arc::clone(&self.mouth)
    }

    fn verb(&mut self, step: &'static str) -> Result<(), DriveError> {
        self.faults
            .verb(self.number)
            .map_err(|why| DriveError::Failed {
                drive: self.number,
                step,
                why: why.to_owned(),
            })
    }

    fn tape(&mut self, step: &'static str) -> Result<&mut Loaded, DriveError> {
        self.verb(step)?;
        let drive = self.number;
        self.loaded
            .as_mut()
            .ok_or(DriveError::Empty { drive, step })
    }

    /// Charges the way from `from` to where the head is now.
    fn moved(&mut self, from: Place) {
        let Some(tape) = &mut self.loaded else { return };
        if tape.image.place().object == from.object {
            return;
        }
        tape.stopped = false;
        let geometry = tape.cartridge.geometry;
        let to = geometry.spot(tape.image.place().bytes);
        self.tally.locates += 1;
        self.pacer
            .charge(geometry.locate(geometry.spot(from.bytes), to));
    }

    /// Charges a transfer of so many bytes.
    fn streamed(&mut self, bytes: usize) {
        let Some(tape) = &mut self.loaded else { return };
        let geometry = tape.cartridge.geometry;
        let mut seconds = geometry.transfer(bytes as u64);
        if std::mem::take(&mut tape.stopped) {
            self.tally.backhitches += 1;
            seconds += geometry.generation.parameters().backhitch;
        }
        self.pacer.charge(seconds);
    }
}

impl Loaded {
    fn writable(&self) -> Result<(), DriveError> {
        if self.cartridge.protected {
            Err(DriveError::Protected)
        } else {
            Ok(())
        }
    }

    fn capacity(&self, faults: &TapeFaults) -> u64 {
        let capacity = self.cartridge.geometry.capacity;
        faults
            .end(self.cartridge.barcode)
            .map_or(capacity, |end| end.min(capacity))
    }

    fn early_warning(&self, faults: &TapeFaults) -> bool {
        let capacity = self.capacity(faults);
        self.image.place().bytes >= capacity - capacity / 64
    }

    /// The torn end of the tape, if nothing complete lies behind it.
    fn torn(&self, why: &'static str) -> Result<(), DriveError> {
        if self.complete_behind()? {
            let object = self.image.place().object;
            return Err(DriveError::Damaged {
                object,
                why: why.to_owned(),
            });
        }
        Ok(())
    }

    /// Looks for the label that ends a file of this volume, whole, with its tape mark: one that is
    /// cut off within them is a torn tail's, and so are those that do not count by themselves.
    fn complete_behind(&self) -> Result<bool, DriveError> {
        let volume = self.cartridge.barcode.volume();
        let is_end = |end: &[u8]| {
            let (label, rest) = end.split_at(LABEL.min(end.len()));
            rest == ENDED && Closing::decode(Worth::Proof, label, volume).is_some()
        };
        self.image
            .occurs_behind(b"UTL1", LABEL + ENDED.len(), &is_end)
            .map_err(failed)
    }
}

fn failed(error: ImageError) -> DriveError {
    match error {
        ImageError::Io { step, source, .. } => DriveError::Medium { step, source },
        ImageError::Beyond { wanted, end, .. } => DriveError::Beyond { wanted, end },
        ImageError::Length { len, .. } => DriveError::Length {
            len,
            room: super::super::image::LONGEST as usize,
        },
        ImageError::Large { len, room, .. } => DriveError::Length {
            len: len as usize,
            room,
        },
        ImageError::Lies {
            expected, found, ..
        } => DriveError::Lies { expected, found },
        error @ ImageError::Broken { .. } => DriveError::Medium {
            step: "writing",
            source: std::io::Error::other(error.to_string()),
        },
        error @ ImageError::InUse { .. } => DriveError::Unloadable(error.to_string()),
    }
}

impl Drive for VirtualDrive {
    fn number(&self) -> DriveNumber {
        self.number
    }

    fn load(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "loading";
        self.verb(STEP)?;
        let Some(cartridge) = self.mouth.lock().clone() else {
            return Err(DriveError::Empty {
                drive: self.number,
                step: STEP,
            });
        };
        let access = if cartridge.protected {
            Access::Read
        } else {
            Access::Write
        };
        let image = Image::open(&cartridge.image, access)
            .map_err(|e| DriveError::Unloadable(e.to_string()))?;
        self.tally.mounts += 1;
        self.pacer.charge(cartridge.geometry.mount(self.robot_move));
        self.loaded = Some(Loaded {
            cartridge,
            image,
            stopped: false,
        });
        Ok(())
    }

    fn unload(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "unloading";
        // A dead drive's cartridge is taken out by hand.
        let verb = self.verb(STEP);
        let drive = self.number;
        let tape = self
            .loaded
            .take()
            .ok_or(DriveError::Empty { drive, step: STEP });
        verb?;
        let tape = tape?;
        let geometry = tape.cartridge.geometry;
        let spot = geometry.spot(tape.image.place().bytes);
        self.pacer.charge(geometry.unmount(spot, self.robot_move));
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        let tape = self.tape("rewinding")?;
        let geometry = tape.cartridge.geometry;
        let from = geometry.spot(tape.image.place().bytes);
        tape.stopped = false;
        tape.image.seek(0).map_err(failed)?;
        self.pacer.charge(geometry.rewind(from));
        Ok(())
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        let tape = self.tape("locating")?;
        let from = tape.image.place();
        let went = match tape.image.seek(object) {
            Err(ImageError::Beyond { wanted, end, .. }) => {
                let why = match tape.image.skip().map_err(failed)? {
                    Found::Torn(why) => tape.torn(why),
                    _ => Ok(()),
                };
                why.and(Err(DriveError::Beyond { wanted, end }))
            }
            other => other.map_err(failed),
        };
        self.moved(from);
        went
    }

    fn space_file(&mut self) -> Result<bool, DriveError> {
        let tape = self.tape("spacing")?;
        let from = tape.image.place();
        let found = loop {
            match tape.image.skip().map_err(failed)? {
                Found::Block(_) | Found::Bad(_) => {}
                Found::Mark => break Ok(true),
                Found::End => break Ok(false),
                Found::Torn(why) => break tape.torn(why).map(|()| false),
            }
        };
        self.moved(from);
        found
    }

    fn position(&mut self) -> Result<u64, DriveError> {
        Ok(self.tape("asking for the position")?.image.place().object)
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        let faults = self.faults.clone();
        let tape = self.tape("reading")?;
        let object = tape.image.place().object;
        let found = tape.image.read(buffer).map_err(failed)?;
        match found {
            Found::Block(_) if faults.is_bad(tape.cartridge.barcode, object) => {
                Err(DriveError::BadBlock { object })
            }
            Found::Block(len) => {
                let len = len as usize;
                self.tally.read += len as u64;
                self.streamed(len);
                Ok(Read::Block(len))
            }
            Found::Bad(_) => Err(DriveError::BadBlock { object }),
            Found::Mark => Ok(Read::Mark),
            Found::End => Ok(Read::End),
            Found::Torn(why) => tape.torn(why).map(|()| Read::End),
        }
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Wrote, DriveError> {
        const STEP: &str = "writing";
        let faults = self.faults.clone();
        let drive = self.number;
        let tape = self.tape(STEP)?;
        tape.writable()?;
        let after = tape.image.place().bytes.saturating_add(block.len() as u64);
        if after > tape.capacity(&faults) {
            return Err(DriveError::EndOfMedium);
        }
        if faults.is_unwritable(tape.cartridge.barcode) {
            return Err(DriveError::Medium {
                step: STEP,
                source: std::io::Error::from_raw_os_error(libc::EIO),
            });
        }
        if faults.goes_dark() {
            tape.image.tear(block, block.len() / 2).map_err(failed)?;
            let why = "the power is gone".to_owned();
            return Err(DriveError::Failed {
                drive,
                step: STEP,
                why,
            });
        }
        tape.image.write(block).map_err(failed)?;
        let early_warning = tape.early_warning(&faults);
        self.tally.written += block.len() as u64;
        self.streamed(block.len());
        Ok(Wrote { early_warning })
    }

    fn write_mark(&mut self) -> Result<Wrote, DriveError> {
        let faults = self.faults.clone();
        let tape = self.tape("writing a tape mark")?;
        tape.writable()?;
        tape.image.mark().map_err(failed)?;
        Ok(Wrote {
            early_warning: tape.early_warning(&faults),
        })
    }

    fn erase(&mut self) -> Result<(), DriveError> {
        let tape = self.tape("erasing")?;
        tape.writable()?;
        tape.image.truncate().map_err(failed)
    }

    fn sync(&mut self) -> Result<Proof, DriveError> {
        let faults = self.faults.clone();
        let tape = self.tape("synchronising")?;
        if faults.takes_lie(tape.cartridge.barcode) {
            tape.image.flip_unproven().map_err(failed)?;
        }
        tape.image.prove().map_err(failed)?;
        tape.stopped = true;
        Ok(Proof::ReadBack)
    }

    fn status(&mut self) -> Result<Status, DriveError> {
        self.verb("asking for the status")?;
        let Some(tape) = &self.loaded else {
            return Ok(Status {
                ready: false,
                protected: false,
                early_warning: false,
                remaining: None,
            });
        };
        let left = tape
            .capacity(&self.faults)
            .saturating_sub(tape.image.place().bytes);
        Ok(Status {
            ready: true,
            protected: tape.cartridge.protected,
            early_warning: tape.early_warning(&self.faults),
            remaining: Some(left),
        })
    }

    fn tally(&self) -> Tally {
        Tally {
            busy: self.pacer.charged(),
            ..self.tally
        }
    }

    fn know(&mut self, places: &[Place]) {
        if let Some(tape) = &mut self.loaded {
            tape.image.know(places);
        }
    }

    fn place(&self) -> Option<Place> {
        self.loaded.as_ref().map(|tape| tape.image.place())
    }

    fn complete_behind(&mut self) -> Result<bool, DriveError> {
        self.tape("searching")?.complete_behind()
    }
}
