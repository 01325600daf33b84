//! A listing as a whole: written part by part with a bounded buffer, and read line by line.

use super::line;
use super::{Directory, End, Entry, Head, Line, PART, What};
use crate::id::{AggregateId, Timestamp};
use cairn_mover::{Crc32c, Crc32cHasher};
use std::io;

/// No line is longer: every extended attribute that an inode can have, escaped.
const LONGEST: usize = 64 << 20;

/// What became of a line that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Whole,
    /// It is there without extended attributes, since no reader would take it with them: a gap.
    Bare,
    /// It is not there, since no reader would take it: a gap.
    Not,
}

/// Why bytes are no listing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// A line that does not parse, or stands where it must not.
    #[error("line {line} of the listing in {snapshot}: {why}")]
    Line {
        /// The snapshot.
        snapshot: AggregateId,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// It ends without its end line.
    #[error("the listing in {snapshot} ends behind line {line}, without its end line")]
    Truncated {
        /// The snapshot.
        snapshot: AggregateId,
        /// Lines that are there.
        line: u64,
    },
}

/// Writes a listing.
#[derive(Debug)]
pub struct Writer {
    buffer: Vec<u8>,
    sum: Crc32cHasher,
    directories: u64,
    entries: u64,
    gaps: u64,
}

impl Writer {
    /// Begins one.
    #[must_use]
    pub fn new(head: Head) -> Self {
        let mut writer = Self {
            buffer: Vec::new(),
            sum: Crc32cHasher::default(),
            directories: 0,
            entries: 0,
            gaps: 0,
        };
        writer.add(&line::encode(&Line::Head(head)));
        writer
    }

    fn add(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.buffer.extend_from_slice(bytes);
    }

    /// Writes what a reader will take, and nothing else: users choose names and attributes.
    fn put(&mut self, mut line: Line) -> Put {
        if let Some(bytes) = readable(&line) {
            self.add(&bytes);
            return Put::Whole;
        }
        self.gaps += 1;
        let attributes = match &mut line {
            Line::Directory(directory) => Some(&mut directory.attributes),
            Line::Entry(Entry {
                what: What::Other(inode),
                ..
            }) => Some(&mut inode.attributes),
            Line::Entry(_) | Line::Head(_) | Line::End(_) => None,
        };
        if let Some(attributes) = attributes {
            attributes.xattrs.clear();
        }
        match readable(&line) {
            Some(bytes) => {
                self.add(&bytes);
                Put::Bare
            }
            None => Put::Not,
        }
    }

    /// A directory. What lies in it follows, unless it is not there.
    pub fn directory(&mut self, directory: Directory) -> Put {
        let put = self.put(Line::Directory(directory));
        self.directories += u64::from(put != Put::Not);
        put
    }

    /// A name in the directory that came last.
    pub fn entry(&mut self, entry: Entry) -> Put {
        let put = self.put(Line::Entry(entry));
        self.entries += u64::from(put != Put::Not);
        put
    }

    /// Something could not be looked at and is not listed.
    pub fn gap(&mut self) {
        self.gaps += 1;
    }

    /// Directories and names so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.directories, self.entries)
    }

    /// The next part, once there is enough for one. Call it after every directory or so.
    pub fn part(&mut self) -> Option<Vec<u8>> {
        (self.buffer.len() >= PART).then(|| std::mem::take(&mut self.buffer))
    }

    /// The last part.
    #[must_use]
    pub fn finish(mut self, ended: Timestamp) -> Vec<u8> {
        let end = End {
            directories: self.directories,
            entries: self.entries,
            gaps: self.gaps,
            ended,
            crc: Crc32c(0),
        };
        let end = sealed(self.sum, end);
        self.buffer
            .extend_from_slice(&line::encode(&Line::End(end)));
        self.buffer
    }
}

/// The bytes of a line that a reader takes for what it is.
fn readable(line: &Line) -> Option<Vec<u8>> {
    let bytes = line::encode(line);
    let inner = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    (inner.len() <= LONGEST && line::decode(inner).is_ok()).then_some(bytes)
}

/// The end line with the sum of everything before it and of itself with the sum 0.
fn sealed(mut before: Crc32cHasher, end: End) -> End {
    let open = End {
        crc: Crc32c(0),
        ..end
    };
    before.update(&line::encode(&Line::End(open)));
    End {
        crc: before.sum(),
        ..end
    }
}

/// What a reader hands on, with where its line begins in the listing.
pub trait Fold {
    /// What else can go wrong.
    type Error: From<ListingError>;
    /// The head.
    ///
    /// # Errors
    /// Ends the reading.
    fn head(&mut self, head: Head) -> Result<(), Self::Error>;
    /// A directory, whose line begins at `at` and has the number `line`.
    ///
    /// # Errors
    /// Ends the reading.
    fn directory(&mut self, at: u64, line: u64, directory: Directory) -> Result<(), Self::Error>;
    /// A name in it.
    ///
    /// # Errors
    /// Ends the reading.
    fn entry(&mut self, line: u64, entry: Entry) -> Result<(), Self::Error>;
}

/// Reads a listing from its bytes, in whatever pieces they come.
#[derive(Debug)]
pub struct Reader {
    snapshot: AggregateId,
    rest: Vec<u8>,
    /// Offset of `rest` in the listing.
    at: u64,
    lines: u64,
    sum: Crc32cHasher,
    directories: u64,
    entries: u64,
    end: Option<End>,
}

impl Reader {
    /// Of a snapshot's.
    #[must_use]
    pub fn new(snapshot: AggregateId) -> Self {
        Self {
            snapshot,
            rest: Vec::new(),
            at: 0,
            lines: 0,
            sum: Crc32cHasher::default(),
            directories: 0,
            entries: 0,
            end: None,
        }
    }

    /// Takes the next bytes and hands on the lines that they complete.
    ///
    /// # Errors
    /// [`ListingError::Line`], or what the fold says.
    pub fn feed<F: Fold>(&mut self, bytes: &[u8], fold: &mut F) -> Result<(), F::Error> {
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (first, behind) = bytes.split_at(end);
            bytes = &behind[1..];
            if self.rest.is_empty() {
                self.line(first, fold)?;
            } else {
                self.rest.extend_from_slice(first);
                let whole = std::mem::take(&mut self.rest);
                self.line(&whole, fold)?;
            }
        }
        if self.rest.len() + bytes.len() > LONGEST {
            return Err(self.wrong("it is longer than any line can be").into());
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn wrong(&self, why: impl Into<String>) -> ListingError {
        ListingError::Line {
            snapshot: self.snapshot,
            line: self.lines.max(1),
            why: why.into(),
        }
    }

    fn line<F: Fold>(&mut self, bytes: &[u8], fold: &mut F) -> Result<(), F::Error> {
        self.lines += 1;
        let at = self.at;
        self.at += bytes.len() as u64 + 1;
        if self.end.is_some() {
            return Err(self.wrong("something follows the end line").into());
        }
        let line = line::decode(bytes).map_err(|why| self.wrong(why))?;
        if !matches!(line, Line::End(_)) {
            self.sum.update(bytes);
            self.sum.update(b"\n");
        }
        match line {
            Line::Head(head) if self.lines == 1 && head.snapshot == self.snapshot => {
                fold.head(head)
            }
            _ if self.lines == 1 => Err(self.wrong("it is not this snapshot's head").into()),
            Line::Head(_) => Err(self.wrong("a second head").into()),
            Line::Directory(directory) => {
                self.directories += 1;
                fold.directory(at, self.lines, directory)
            }
            Line::Entry(_) if self.directories == 0 => {
                Err(self.wrong("a name before any directory").into())
            }
            Line::Entry(entry) => {
                self.entries += 1;
                fold.entry(self.lines, entry)
            }
            Line::End(end) => {
                if (end.directories, end.entries) != (self.directories, self.entries) {
                    return Err(self.wrong("it counts other lines than there are").into());
                }
                if end != sealed(self.sum.clone(), end) {
                    return Err(self.wrong("the lines up to it have another sum").into());
                }
                self.end = Some(end);
                Ok(())
            }
        }
    }

    /// Everything was fed: the end line.
    ///
    /// # Errors
    /// [`ListingError::Truncated`].
    pub fn finish(self) -> Result<End, ListingError> {
        match self.end {
            Some(end) if self.rest.is_empty() => Ok(end),
            _ => Err(ListingError::Truncated {
                snapshot: self.snapshot,
                line: self.lines,
            }),
        }
    }
}

/// Reads one line (without its newline) out of a listing that was read whole before.
///
/// # Errors
/// What is wrong with it.
pub fn one(bytes: &[u8]) -> Result<Line, io::Error> {
    line::decode(bytes).map_err(io::Error::other)
}
