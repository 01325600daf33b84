//! The `st` driver, as st.c and st(4) say that it is, over a tape in memory.

use super::world::{Bay, Eof, Object, Rw, Shared, Tape, World};
use cairn::tier::tape::drive::st::device::{Access, Device, Operation, Options, State};
use std::io;

/// A device of a drive.
pub(super) struct FakeSt {
    world: Shared,
    bay: usize,
    /// How it is open here.
    open: Option<Access>,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl FakeSt {
    pub(super) fn new(world: Shared, bay: usize) -> Self {
        Self {
            world,
            bay,
            open: None,
        }
    }

    /// A call on an open device, while its drive lives.
    fn with<T>(
        &mut self,
        call: impl FnOnce(&mut Bay, &mut Tape, &super::world::Make, &mut u32) -> io::Result<T>,
    ) -> io::Result<T> {
        let world = &mut *self.world.lock();
        alive(world, self.bay)?;
        if self.open.is_none() {
            return Err(errno(libc::EBADF));
        }
        let World {
            tapes,
            bays,
            make,
            strays,
            ..
        } = world;
        let bay = &mut bays[self.bay];
        if std::mem::take(&mut bay.attention) {
            return Err(errno(libc::EIO));
        }
        let tape = bay.holds.filter(|_| bay.threaded);
        let tape = tape.ok_or_else(|| errno(libc::ENOMEDIUM))?;
        call(bay, &mut tapes[tape], make, strays)
    }
}

/// Counts a call down.
fn alive(world: &mut World, bay: usize) -> io::Result<()> {
    let bay = &mut world.bays[bay];
    if let Some(left) = &mut bay.dying {
        *left = left.saturating_sub(1);
        if *left == 0 {
            (bay.dying, bay.dead) = (None, Some(libc::ENXIO));
        }
    }
    bay.dead.map_or(Ok(()), |number| Err(errno(number)))
}

/// What a move or a close writes behind a write.
fn stray(bay: &mut Bay, tape: &mut Tape, strays: &mut u32) -> io::Result<()> {
    if bay.rw == Rw::Writing {
        if tape.bytes(bay.at) >= tape.capacity - tape.capacity / 64 {
            return Err(errno(libc::EIO));
        }
        tape.put(bay.at, Object::Mark);
        bay.at += 1;
        *strays += 1;
        bay.rw = Rw::Idle;
    }
    Ok(())
}

/// May so many bytes be passed?
fn passes(bay: &Bay, len: usize, most: usize) -> io::Result<()> {
    if bay.lost {
        return Err(errno(libc::EIO));
    }
    if bay.block != 0 {
        return Err(errno(libc::EINVAL));
    }
    if len > 8 << 20 {
        return Err(errno(libc::EINVAL));
    }
    if len > most {
        return Err(errno(libc::EBUSY));
    }
    Ok(())
}

impl Device for FakeSt {
    fn open(&mut self, access: Access) -> io::Result<()> {
        self.close();
        let world = &mut *self.world.lock();
        alive(world, self.bay)?;
        let bay = &mut world.bays[self.bay];
        if bay.open {
            return Err(errno(libc::EBUSY));
        }
        let tape = bay.holds.filter(|_| bay.threaded);
        if access == Access::Look {
            bay.not_ready = bay.not_ready.saturating_sub(1);
        } else {
            let tape = tape.ok_or_else(|| errno(libc::ENOMEDIUM))?;
            assert!(bay.not_ready == 0, "it would be waited for in the kernel");
            if access == Access::Write && world.tapes[tape].protected {
                return Err(errno(libc::EROFS));
            }
        }
        (bay.open, bay.rw) = (true, Rw::Idle);
        self.open = Some(access);
        Ok(())
    }

    fn close(&mut self) {
        if self.open.is_none() {
            return;
        }
        // Whatever the drive says: the descriptor is closed.
        let world = &mut *self.world.lock();
        let bay = &mut world.bays[self.bay];
        if let Some(tape) = bay.holds
            && bay.dead.is_none()
        {
            let _ = stray(bay, &mut world.tapes[tape], &mut world.strays);
        }
        bay.open = false;
        self.open = None;
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|bay, tape, make, _| {
            passes(bay, buffer.len(), make.passes)?;
            bay.rw = Rw::Reading;
            if bay.eof >= Eof::Eod1 {
                if bay.eof == Eof::Eod {
                    return Err(errno(libc::EIO));
                }
                bay.eof = match bay.eof {
                    Eof::Eod1 => Eof::Eod2,
                    _ => Eof::Eod,
                };
                return Ok(0);
            }
            match tape.objects.get(bay.at) {
                None if bay.eof == Eof::Fm => {
                    bay.eof = Eof::Eod;
                    Ok(0)
                }
                None => Err(errno(libc::EIO)),
                Some(Object::Mark) => {
                    (bay.at, bay.eof) = (bay.at + 1, Eof::Fm);
                    Ok(0)
                }
                Some(Object::Block(_)) if tape.bad.contains(&bay.at) => {
                    bay.at += usize::from(!make.stays);
                    Err(errno(libc::EIO))
                }
                Some(Object::Block(block)) => {
                    (bay.at, bay.eof) = (bay.at + 1, Eof::None);
                    let into = buffer.get_mut(..block.len());
                    into.ok_or_else(|| errno(libc::ENOMEM))?
                        .copy_from_slice(block);
                    Ok(block.len())
                }
            }
        })
    }

    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let unwritable = self.open != Some(Access::Write);
        let gate = self.world.lock().gate(self.bay);
        if let Some((tell, wait)) = gate {
            tell.send(()).expect("is told");
            wait.recv().expect("is let on");
        }
        self.world.lock().count_write(self.bay);
        self.with(|bay, tape, make, _| {
            passes(bay, block.len(), make.passes)?;
            if unwritable || tape.protected {
                return Err(errno(libc::EACCES));
            }
            if bay.eof == Eof::EomOk {
                bay.eof = Eof::Eod1;
                return Err(errno(libc::ENOSPC));
            }
            bay.rw = Rw::Writing;
            if tape.unwritable {
                return Err(errno(libc::EIO));
            }
            let after = tape.bytes(bay.at) + block.len() as u64;
            if after > tape.capacity {
                bay.eof = Eof::EomOk;
                return Err(errno(libc::ENOSPC));
            }
            tape.put(bay.at, Object::Block(block.to_vec()));
            bay.at += 1;
            bay.eof = match after >= tape.capacity - tape.capacity / 64 {
                true => Eof::EomOk,
                false => Eof::None,
            };
            Ok(block.len())
        })
    }

    fn operate(&mut self, operation: Operation) -> io::Result<()> {
        if operation == Operation::Load {
            let world = &mut *self.world.lock();
            let bay = &mut world.bays[self.bay];
            // One that was given back is threaded again only when it was put in anew.
            bay.threaded = bay.holds.is_some() && !bay.ejected;
            return match bay.threaded {
                true => Ok(()),
                false => Err(errno(libc::ENOMEDIUM)),
            };
        }
        if operation == Operation::Marks(0) && self.world.lock().flush_fails(self.bay) {
            return Err(errno(libc::EIO));
        }
        let unwritable = self.open != Some(Access::Write);
        self.with(|bay, tape, make, strays| {
            use Operation::{
                Clear, EndOfData, Erase, MarkAtOnce, Marks, Offline, Rewind, Seek, Set, Variable,
            };
            let known = matches!(operation, Rewind | Offline | Erase | Seek(_) | EndOfData);
            if bay.lost && !known {
                return Err(errno(libc::EIO));
            }
            if std::mem::take(&mut bay.lost) {
                // What it was doing is forgotten with where it was.
                bay.rw = Rw::Idle;
            }
            if matches!(operation, Rewind | Offline | Seek(_)) {
                stray(bay, tape, strays)?;
            }
            if !matches!(operation, Variable | Set(_) | Clear(_)) {
                bay.rw = Rw::Idle;
            }
            if matches!(operation, Marks(_) | MarkAtOnce | Erase) && (unwritable || tape.protected)
            {
                return Err(errno(libc::EACCES));
            }
            bay.operate(operation, tape, make)
        })
    }

    fn position(&mut self) -> io::Result<i64> {
        self.with(|bay, _, _, _| match bay.lost {
            true => Err(errno(libc::EIO)),
            false => Ok(bay.at as i64),
        })
    }

    fn state(&mut self) -> io::Result<State> {
        let world = &mut *self.world.lock();
        alive(world, self.bay)?;
        let bay = &world.bays[self.bay];
        let tape = bay.holds.filter(|_| bay.threaded);
        Ok(State {
            online: tape.is_some() && bay.not_ready == 0,
            empty: tape.is_none(),
            protected: tape.is_some_and(|tape| world.tapes[tape].protected),
            end_of_data: bay.eof >= Eof::Eod1,
            end_of_tape: bay.eof == Eof::EomOk,
        })
    }

    fn options(&mut self) -> io::Result<i32> {
        Ok(self.world.lock().bays[self.bay].options)
    }
}

impl Bay {
    fn operate(
        &mut self,
        operation: Operation,
        tape: &mut Tape,
        make: &super::world::Make,
    ) -> io::Result<()> {
        let end = tape.objects.len();
        let (at, eof) = match operation {
            Operation::Load => (self.at, self.eof),
            Operation::Rewind => (0, Eof::None),
            Operation::Offline if self.keeps => (0, Eof::None),
            Operation::Offline => {
                (self.threaded, self.ejected) = (false, true);
                (0, Eof::None)
            }
            Operation::Seek(object) => match usize::try_from(object) {
                Ok(object) if object <= end => (object, Eof::None),
                _ => {
                    (self.at, self.eof) = (end, Eof::None);
                    return Err(errno(libc::EIO));
                }
            },
            Operation::ForwardFile => {
                let behind = tape.objects.iter().skip(self.at);
                match behind.clone().position(|object| *object == Object::Mark) {
                    Some(way) => (self.at + way + 1, Eof::Fm),
                    None => {
                        (self.at, self.eof) = (end, Eof::Eod);
                        return Err(errno(libc::EIO));
                    }
                }
            }
            Operation::EndOfData => (end, Eof::Eod),
            Operation::Marks(count) => {
                for n in 0..usize::try_from(count).expect("a count") {
                    tape.put(self.at + n, Object::Mark);
                }
                tape.flush();
                (self.at + count as usize, Eof::None)
            }
            Operation::MarkAtOnce => {
                tape.put(self.at, Object::Mark);
                (self.at + 1, Eof::None)
            }
            Operation::Erase if make.erases => {
                tape.objects.truncate(self.at);
                tape.flush();
                (self.at, Eof::None)
            }
            Operation::Erase => return Err(errno(libc::EIO)),
            Operation::Variable => {
                self.block = 0;
                return Ok(());
            }
            Operation::Set(_) | Operation::Clear(_) if !make.root => {
                return Err(errno(libc::EPERM));
            }
            Operation::Set(Options(bits)) => {
                self.options |= bits;
                return Ok(());
            }
            Operation::Clear(Options(bits)) => {
                self.options &= !bits;
                return Ok(());
            }
        };
        (self.at, self.eof) = (at, eof);
        Ok(())
    }
}

impl Drop for FakeSt {
    fn drop(&mut self) {
        self.close();
    }
}
