//! The verbs, each one run of the program: what is handed to it, and what of its answer is believed.
//!
//! Invariant kept here: an answer is believed only if the program ended with success after it, and only if it
//! is exactly of the form that the protocol says. Bytes beyond those asked for are an error. What a program says of
//! itself is believed of that program alone, and not of another one that was put in its place.

use super::options::ExecOptions;
use super::protocol::{self, ANSWER, Facts, LINE, VERSION};
use super::run::{Bound, Failure, Limit, Program, Run};
use super::trust::Identity;
use cairn_mover::{Crc32c, Crc32cHasher};
use std::ffi::OsString;
use std::path::Path;

/// Where commands are looked for; no more of the server's own surroundings than this reaches a program.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is handed on of the server's environment, where it is set: programs look below it for their settings.
const HANDED: [&str; 3] = ["HOME", "TMPDIR", "TZ"];

/// What a program said of itself, and which one that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) of: Identity,
}

/// A program, spoken to by its verbs.
pub(super) struct Verbs {
    program: Program,
    limit: Limit,
    /// For a `get`.
    reading: Limit,
}

impl Verbs {
    pub(super) fn new(path: &Path, options: &ExecOptions) -> Self {
        let mut environment: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), PATH.into()),
            // What tools say is shown and searched: in one language.
            ("LC_ALL".into(), "C".into()),
            ("CAIRN_TIER_PROTOCOL".into(), VERSION.to_string().into()),
        ];
        let handed = HANDED.iter().filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some(((*name).into(), value))
        });
        environment.extend(handed);
        let given = options.variables();
        environment.extend(given.map(|(name, value)| (name.into(), value.into())));
        Self {
            program: Program {
                path: path.to_owned(),
                environment,
                most_stuck: options.concurrency,
                ..Program::default()
            },
            limit: Limit::of(options.timeout),
            reading: Limit {
                first: Bound {
                    time: options.wait.unwrap_or(options.timeout),
                    option: "wait=",
                },
                ..Limit::of(options.timeout)
            },
        }
    }

    /// The program's process, started for a verb that is fed.
    pub(super) fn put(&self, name: &str, hint: u64) -> Result<Putting, Failure> {
        let run = self
            .program
            .start(&["put", name, &hint.to_string()], true)?;
        Ok(Putting {
            run,
            limit: self.limit,
        })
    }

    /// Runs a verb whose answer does not count.
    pub(super) fn order(&self, arguments: &[&str]) -> Result<(), Failure> {
        let mut run = self.program.start(arguments, false)?;
        run.succeed(self.limit, &mut |_| true)
    }

    /// Runs a verb with a short answer.
    fn answer(&self, arguments: &[&str]) -> Result<Vec<u8>, Failure> {
        let mut run = self.program.start(arguments, false)?;
        let mut answer = Vec::new();
        run.succeed(self.limit, &mut |bytes| {
            answer.extend_from_slice(bytes);
            answer.len() <= ANSWER
        })?;
        if answer.len() > ANSWER {
            return Err(breach(
                &run,
                format!("its answer is longer than {ANSWER} bytes"),
            ));
        }
        Ok(answer)
    }

    /// Which program it is now.
    pub(super) fn identity(&self) -> Result<Identity, Failure> {
        self.program.identity()
    }

    /// How many runs of it do not end although they were killed.
    pub(super) fn stuck(&self) -> usize {
        self.program.stuck()
    }

    pub(super) fn describe(&self) -> Result<Known, Failure> {
        let of = self.identity()?;
        let answer = self.answer(&["describe"])?;
        self.still(&of)?;
        let facts = protocol::facts(&answer).map_err(|why| Failure::Breach {
            why,
            words: String::new(),
        })?;
        Ok(Known { facts, of })
    }

    /// It is the same program as before.
    fn still(&self, of: &Identity) -> Result<(), Failure> {
        if self.identity()? == *of {
            Ok(())
        } else {
            Err(Failure::Replaced)
        }
    }

    pub(super) fn commit(
        &self,
        from: &str,
        to: &str,
        len: u64,
        sum: Crc32c,
    ) -> Result<(), Failure> {
        let sum = format!("{:08x}", sum.0);
        self.order(&["commit", from, to, &len.to_string(), &sum])
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), Failure> {
        self.order(&["delete", name])
    }

    /// The object's length in bytes.
    pub(super) fn stat(&self, name: &str) -> Result<u64, Failure> {
        let answer = self.answer(&["stat", name])?;
        protocol::length(&answer).ok_or_else(|| Failure::Breach {
            why: format!("stat: {:?} is no length", shown(&answer)),
            words: String::new(),
        })
    }

    pub(super) fn space(&self) -> Result<(Option<u64>, Option<u64>), Failure> {
        let answer = self.answer(&["space"])?;
        protocol::space(&answer).ok_or_else(|| Failure::Breach {
            why: format!("space: {:?} is not FREE TOTAL", shown(&answer)),
            words: String::new(),
        })
    }

    /// Every name that begins with `prefix`, in any order.
    pub(super) fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let mut run = self.program.start(&["list", prefix], false)?;
        let mut line = Vec::new();
        let mut name = |line: &[u8]| {
            // What is no text is no name of ours.
            if let Ok(name) = std::str::from_utf8(line)
                && name.starts_with(prefix)
            {
                each(name);
            }
        };
        run.succeed(self.limit, &mut |bytes| {
            for piece in bytes.split_inclusive(|b| *b == b'\n') {
                let (text, ended) = match piece.strip_suffix(b"\n") {
                    Some(text) => (text, true),
                    None => (piece, false),
                };
                // Of a line that is too long only so much that it cannot be taken for another one.
                let room = (LINE + 1).saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
                if ended {
                    if line.len() <= LINE {
                        name(&line);
                    }
                    line.clear();
                }
            }
            true
        })?;
        if line.is_empty() {
            Ok(())
        } else {
            Err(breach(&run, "list: its last line has no end".to_owned()))
        }
    }

    /// The bytes of an object from `offset` on, `len` of them or as many as there are; says how many there
    /// were. What `sink` was given counts only if this succeeds.
    pub(super) fn get(
        &self,
        (name, known): (&str, &Known),
        offset: u64,
        len: u64,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, Failure> {
        let given = self.take((name, known.facts.ranges, self.reading), offset, len, sink)?;
        // Another one may begin elsewhere.
        self.still(&known.of)?;
        Ok(given)
    }

    /// As `get`, of what lies ready and is short: nobody waits for it as for what may come from tape.
    pub(super) fn get_ready(
        &self,
        (name, known): (&str, &Known),
        len: u64,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, Failure> {
        let given = self.take((name, known.facts.ranges, self.limit), 0, len, sink)?;
        self.still(&known.of)?;
        Ok(given)
    }

    fn take(
        &self,
        (name, ranges, limit): (&str, bool, Limit),
        offset: u64,
        len: u64,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, Failure> {
        // One that cannot begin where it is told gives all of it, and is stopped when there is enough.
        let (from, count) = if ranges {
            (offset, len)
        } else {
            (0, offset + len)
        };
        let arguments = ["get", name, &from.to_string(), &count.to_string()];
        let mut run = self.program.start(&arguments, false)?;
        let mut skip = offset - from;
        let (mut given, mut enough) = (0_u64, false);
        run.succeed(limit, &mut |bytes| {
            let passed = skip.min(bytes.len() as u64);
            skip -= passed;
            let rest = &bytes[usize::try_from(passed).unwrap_or(bytes.len())..];
            let wanted = usize::try_from(len - given).unwrap_or(usize::MAX);
            let taken = &rest[..rest.len().min(wanted)];
            if !taken.is_empty() {
                sink(taken);
                given += taken.len() as u64;
            }
            enough = rest.len() > wanted;
            !enough
        })?;
        if enough && ranges {
            return Err(breach(&run, format!("get: it gave more than {len} bytes")));
        }
        Ok(given)
    }

    /// Begins to read, and stops in the middle: does the program end when it is told to?
    pub(super) fn get_and_stop(&self, name: &str, len: u64) -> Result<bool, Failure> {
        let mut run = self
            .program
            .start(&["get", name, "0", &len.to_string()], false)?;
        run.succeed(self.reading, &mut |_| false)?;
        Ok(!run.was_deaf())
    }

    /// What `get` of a whole object of `len` bytes gives, as a checksum. It must give exactly so many, and end
    /// with success by itself.
    pub(super) fn read_back(&self, name: &str, len: u64) -> Result<Crc32c, Failure> {
        if len == 0 {
            let there = self.stat(name)?;
            return if there == 0 {
                Ok(Crc32c::of(b""))
            } else {
                Err(Failure::Breach {
                    why: format!("of nothing it made {there} bytes"),
                    words: String::new(),
                })
            };
        }
        let mut sum = Crc32cHasher::default();
        // From its start: that is what a program without ranges does, too, and it must not be stopped.
        let given = self.take((name, true, self.reading), 0, len, &mut |bytes| {
            sum.update(bytes)
        })?;
        if given < len {
            return Err(Failure::Less {
                given,
                wanted: len,
                words: String::new(),
            });
        }
        Ok(sum.sum())
    }
}

fn breach(run: &Run, why: String) -> Failure {
    let words = run.words();
    Failure::Breach { why, words }
}

fn shown(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).chars().take(80).collect()
}

/// A `put` under way.
pub(super) struct Putting {
    run: Run,
    limit: Limit,
}

impl Putting {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.run.feed(bytes, self.limit)
    }

    /// Says that these were all, and waits for its word that it has them.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        self.run.succeed(self.limit, &mut |_| true)
    }
}
