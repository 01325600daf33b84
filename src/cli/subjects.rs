//! The files a command is about: named as arguments, or listed in a file.

use super::CliError;
use clap::Args;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Longest path taken from a list, bytes. The kernel takes none longer than 4096 at once.
const MAX_PATH: u64 = 4096;

/// Paths as arguments or from a list.
#[derive(Debug, Clone, Args)]
pub(crate) struct Subjects {
    /// Files and directories; a directory stands for everything below it.
    #[arg(value_name = "PATH", required_unless_present = "files_from")]
    pub(super) paths: Vec<OsString>,
    /// Also take paths from FILE, one a line (- for standard input).
    #[arg(long, value_name = "FILE")]
    pub(super) files_from: Option<PathBuf>,
    /// Paths in --files-from end in a NUL byte, not a newline (find -print0).
    #[arg(short = '0', long = "null", requires = "files_from")]
    pub(super) null: bool,
}

/// Reads paths one by one; what went wrong is found in `failed` afterwards.
pub(crate) struct Paths {
    named: std::vec::IntoIter<OsString>,
    list: Option<Box<dyn BufRead>>,
    end: u8,
    /// Why the list could not be read to its end.
    pub(crate) failed: Option<io::Error>,
}

impl Subjects {
    /// All of them, as exact bytes.
    pub(crate) fn paths(&self) -> Result<Paths, CliError> {
        let list: Option<Box<dyn BufRead>> = match &self.files_from {
            None => None,
            Some(path) if path == Path::new("-") => Some(Box::new(BufReader::new(io::stdin()))),
            Some(path) => {
                let file = File::open(path)
                    .map_err(|e| CliError::system(format!("open {}", path.display()), &e))?;
                Some(Box::new(BufReader::new(file)))
            }
        };
        let end = if self.null { 0 } else { b'\n' };
        Ok(Paths {
            named: self.paths.clone().into_iter(),
            list,
            end,
            failed: None,
        })
    }
}

impl Iterator for Paths {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(path) = self.named.next() {
            return Some(path.into_vec());
        }
        let list = self.list.as_mut()?;
        loop {
            match read_one(list, self.end) {
                Ok(Some(path)) if path.is_empty() => {}
                Ok(Some(path)) => return Some(path),
                Ok(None) => return None,
                Err(error) => {
                    self.failed = Some(error);
                    self.list = None;
                    return None;
                }
            }
        }
    }
}

fn read_one(list: &mut dyn BufRead, end: u8) -> io::Result<Option<Vec<u8>>> {
    let mut path = Vec::new();
    let read = io::Read::take(&mut *list, MAX_PATH + 1).read_until(end, &mut path)?;
    if read == 0 {
        return Ok(None);
    }
    if path.last() == Some(&end) {
        path.pop();
    } else if path.len() as u64 > MAX_PATH {
        let why = format!("a path in the list is longer than {MAX_PATH} bytes (is -0 missing?)");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &'static [u8], end: u8) -> (Vec<Vec<u8>>, bool) {
        let list: Box<dyn BufRead> = Box::new(list);
        let mut paths = Paths {
            named: vec![].into_iter(),
            list: Some(list),
            end,
            failed: None,
        };
        let all = paths.by_ref().collect();
        (all, paths.failed.is_some())
    }

    #[test]
    fn lists_keep_exact_bytes_and_skip_empty_lines() {
        assert_eq!(
            read(b"a\n\n\xff b\nlast", b'\n').0,
            [&b"a"[..], b"\xff b", b"last"]
        );
        assert_eq!(read(b"a\nb\0c", 0).0, [&b"a\nb"[..], b"c"]);
        assert_eq!(read(b"", 0).0.len(), 0);
    }

    #[test]
    fn a_list_without_ends_is_refused_not_swallowed() {
        static LONG: [u8; 5000] = [b'x'; 5000];
        assert_eq!(read(&LONG, b'\n'), (vec![], true));
    }
}
