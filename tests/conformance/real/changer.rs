//! The `mtx` program over slots and drives in memory, and the library's hardware made of both.

use super::st::FakeSt;
use super::world::{Eof, Rw, Shared, World};
use cairn::tier::clock::VirtualClock;
use cairn::tier::tape::drive::st::StDrive;
use cairn::tier::tape::drive::{Drive, DriveNumber};
use cairn::tier::tape::hardware::Hardware;
use cairn::tier::tape::robot::mtx::{Mtx, MtxRobot};
use cairn::tier::tape::robot::{Robot, RobotError};
use std::sync::Arc;

/// See the module.
pub(super) struct FakeMtx(pub(super) Shared);

impl Mtx for FakeMtx {
    fn run(&self, arguments: &[String]) -> Result<String, RobotError> {
        let world = &mut *self.0.lock();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let done = match words[..] {
            ["status"] if world.mute.is_none() => return Ok(status(world)),
            ["status"] => Err(world.mute.clone().expect("mute")),
            _ if world.jammed.is_some() => Err(world.jammed.clone().expect("jammed")),
            ["load", slot, drive] => load(world, number(slot), number(drive)),
            ["unload", slot, drive] => unload(world, number(slot), number(drive)),
            ["transfer", from, to] => transfer(world, number(from), number(to)),
            _ => Err(format!("illegal arguments {words:?}")),
        };
        let done = done.map_err(|why| RobotError::Failed {
            step: arguments.join(" "),
            why,
        });
        if done.is_ok() {
            world.moves.push(arguments.join(" "));
        }
        done.map(|()| "...done".to_owned())
    }
}

/// As `mtx status` prints it.
fn status(world: &World) -> String {
    use std::fmt::Write as _;
    let ports = world.slots.iter().filter(|slot| slot.port).count();
    let mut text = format!(
        "  Storage Changer /dev/sg9:{} Drives, {} Slots ( {ports} Import/Export )\n",
        world.bays.len(),
        world.slots.len(),
    );
    for (n, bay) in world.bays.iter().enumerate() {
        let state = match (bay.holds, bay.home) {
            (None, _) => "Empty".to_owned(),
            (Some(tape), home) => {
                let from = match home {
                    Some(home) => format!("Storage Element {} Loaded", home + 1),
                    None => "Unknown Storage Element Loaded".to_owned(),
                };
                let sticker = &world.tapes[tape].sticker;
                format!("Full ({from}):VolumeTag = {sticker:<32}")
            }
        };
        writeln!(text, "Data Transfer Element {n}:{state}").expect("a string");
    }
    for (n, slot) in world.slots.iter().enumerate() {
        let port = if slot.port { " IMPORT/EXPORT" } else { "" };
        let state = match slot.holds {
            None => "Empty".to_owned(),
            Some(tape) => format!("Full :VolumeTag={:<32}", world.tapes[tape].sticker),
        };
        writeln!(text, "      Storage Element {}{port}:{state}", n + 1).expect("a string");
    }
    text
}

fn load(world: &mut World, slot: usize, drive: usize) -> Result<(), String> {
    let make = world.make;
    let bay = &mut world.bays[drive];
    if bay.holds.is_some() {
        return Err(format!("Drive {drive} Full"));
    }
    let tape = world.slots[slot - 1].holds.take();
    bay.holds = Some(tape.ok_or("Source Element Address is Empty")?);
    bay.home = Some(slot - 1);
    (bay.threaded, bay.ejected) = (!make.waits_for_load, false);
    bay.not_ready = make.not_ready;
    (bay.at, bay.eof, bay.rw, bay.lost) = (0, Eof::None, Rw::Idle, false);
    Ok(())
}

fn unload(world: &mut World, slot: usize, drive: usize) -> Result<(), String> {
    let bay = &mut world.bays[drive];
    if bay.threaded {
        return Err("Medium removal prevented: the drive has it".to_owned());
    }
    let to = &mut world.slots[slot - 1];
    if to.holds.is_some() {
        return Err(format!("Storage Element {slot} is Already Full"));
    }
    to.holds = Some(bay.holds.take().ok_or("Data Transfer Element is Empty")?);
    Ok(())
}

fn transfer(world: &mut World, from: usize, to: usize) -> Result<(), String> {
    if world.slots[to - 1].holds.is_some() {
        return Err(format!("Storage Element {to} is Already Full"));
    }
    let tape = world.slots[from - 1].holds.take();
    world.slots[to - 1].holds = Some(tape.ok_or("Source Element Address is Empty")?);
    Ok(())
}

/// Drives and changer of a world.
pub(super) struct Fake {
    pub(super) world: Shared,
    /// The drives, as the configuration has them in order.
    pub(super) order: Vec<usize>,
}

impl Hardware for Fake {
    fn drives(&self) -> Vec<Box<dyn Drive>> {
        let drive = |(number, bay): (u32, &usize)| {
            let device = FakeSt::new(Arc::clone(&self.world), *bay);
            let clock = Arc::new(VirtualClock::default());
            Box::new(StDrive::new(DriveNumber(number), device, clock)) as Box<dyn Drive>
        };
        (1..).zip(&self.order).map(drive).collect()
    }

    fn robot(&self) -> Box<dyn Robot> {
        Box::new(MtxRobot::new(FakeMtx(Arc::clone(&self.world))))
    }
}
