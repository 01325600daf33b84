//! What happens to files that users change at bad moments.

use crate::needs_mounts;
use crate::rig::{Instance, drop_caches, on_disk, tree, truncate};
use anyhow::{Result, ensure};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const LEN: usize = 200_000;

fn released(cairn: &Instance, name: &str) -> Result<Vec<u8>> {
    let data = tree::bytes(name.len() as u64 + 40, LEN);
    fs::write(cairn.at(name), &data)?;
    cairn.archive(name)?;
    cairn.release(name)?;
    ensure!(
        on_disk(&cairn.below(name))? <= 8192,
        "{name} was not released\n{}",
        cairn.log()
    );
    Ok(data)
}

#[test]
fn writing_into_a_released_file_recalls_it_first() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let mut data = released(&cairn, "f")?;
    let mut file = File::options().write(true).open(cairn.at("f"))?;
    file.seek(SeekFrom::Start(1000))?;
    file.write_all(b"new bytes")?;
    drop(file);
    data[1000..1009].copy_from_slice(b"new bytes");
    ensure!(fs::read(cairn.at("f"))? == data);
    // Changed since it was archived: a release must first make a new copy, or refuse.
    let _ = cairn.run([
        OsStr::new("release"),
        OsStr::new("--wait"),
        cairn.at("f").as_os_str(),
    ])?;
    cairn.cold()?;
    ensure!(
        fs::read(cairn.at("f"))? == data,
        "a release after a change lost the change"
    );
    cairn.down()
}

#[test]
fn appending_truncating_and_replacing_released_files() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = released(&cairn, "append")?;
    File::options()
        .append(true)
        .open(cairn.at("append"))?
        .write_all(b"tail")?;
    ensure!(fs::read(cairn.at("append"))? == [&data[..], b"tail"].concat());

    let data = released(&cairn, "shrink!")?;
    File::options()
        .write(true)
        .open(cairn.at("shrink!"))?
        .set_len(70_000)?;
    ensure!(fs::read(cairn.at("shrink!"))? == data[..70_000]);

    let data = released(&cairn, "grow")?;
    truncate(&cairn.at("grow"), LEN as u64 + 5000)?;
    ensure!(fs::read(cairn.at("grow"))? == [&data[..], &[0; 5000]].concat());

    released(&cairn, "zero")?;
    truncate(&cairn.at("zero"), 0)?;
    ensure!(fs::read(cairn.at("zero"))?.is_empty());

    released(&cairn, "overwritten")?;
    fs::write(cairn.at("overwritten"), b"short")?;
    ensure!(fs::read(cairn.at("overwritten"))? == b"short");
    cairn.cold()?;
    ensure!(fs::read(cairn.at("overwritten"))? == b"short");
    cairn.down()
}

#[test]
fn renamed_linked_and_unlinked_while_released() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = released(&cairn, "first")?;
    fs::rename(cairn.at("first"), cairn.at("second"))?;
    fs::hard_link(cairn.at("second"), cairn.at("third"))?;
    fs::remove_file(cairn.at("second"))?;
    ensure!(fs::read(cairn.at("third"))? == data);

    let data = released(&cairn, "doomed")?;
    let mut open = File::open(cairn.at("doomed"))?;
    fs::remove_file(cairn.at("doomed"))?;
    let mut got = Vec::new();
    open.read_to_end(&mut got)?;
    ensure!(got == data, "an unlinked but open released file read wrong");
    drop(open);
    cairn.down()
}

/// P1: a store through an old mapping after the archive is never lost.
#[test]
fn p1_a_store_through_an_old_mapping_is_not_lost() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(5, LEN);
    fs::write(cairn.at("m"), &data)?;
    let mut writer = Mapper::start(&cairn.at("m"))?;
    writer.store(b'A')?;
    let first = cairn.run([
        OsStr::new("archive"),
        OsStr::new("--wait"),
        cairn.at("m").as_os_str(),
    ])?;
    writer.store(b'B')?;
    writer.unmap()?;
    let second = cairn.run([
        OsStr::new("release"),
        OsStr::new("--wait"),
        cairn.at("m").as_os_str(),
    ])?;
    drop_caches()?;
    let now = fs::read(cairn.at("m"))?;
    ensure!(
        now[0] == b'B' && now[1..] == data[1..],
        "the second store was lost (archive said {}, release said {})",
        first.status,
        second.status
    );
    cairn.down()
}

/// A separate process that maps a file shared and stores into its first byte on demand.
struct Mapper {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Mapper {
    fn start(path: &std::path::Path) -> Result<Self> {
        use anyhow::Context;
        let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nf.close()\nprint('ok',flush=True)\n\
                      for l in sys.stdin:\n  m[0:1]=l[0].encode()\n  print('ok',flush=True)\n";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("python3 maps the file")?;
        let input = child.stdin.take().context("stdin")?;
        let output = std::io::BufReader::new(child.stdout.take().context("stdout")?);
        let mut mapper = Self {
            child,
            input,
            output,
        };
        mapper.answer()?;
        Ok(mapper)
    }

    fn answer(&mut self) -> Result<()> {
        use std::io::BufRead;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line == "ok\n", "the mapping process said {line:?}");
        Ok(())
    }

    fn store(&mut self, byte: u8) -> Result<()> {
        self.input.write_all(&[byte, b'\n'])?;
        self.answer()
    }

    fn unmap(mut self) -> Result<()> {
        drop(self.input);
        ensure!(self.child.wait()?.success());
        Ok(())
    }
}

#[test]
fn a_damaged_aggregate_gives_eio_for_those_bytes_alone() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(8, 5 << 20);
    fs::write(cairn.at("big"), &data)?;
    cairn.archive("big")?;
    cairn.release("big")?;
    let mut found = Vec::new();
    aggregates(&cairn.tier, &mut found)?;
    let mut flipped = 0;
    for path in &found {
        let text = fs::read(path)?;
        if let Some(at) = text
            .windows(64)
            .position(|w| w == &data[(2 << 20) + 500..(2 << 20) + 564])
        {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            File::options()
                .write(true)
                .open(path)?
                .write_all_at(&[!text[at]], at as u64)?;
            flipped += 1;
        }
    }
    ensure!(
        flipped == 1,
        "the bytes were found {flipped} times in the aggregates"
    );
    cairn.cold()?;
    let file = File::open(cairn.at("big"))?;
    let mut part = vec![0; 4096];
    file.read_exact_at(&mut part, 0)?;
    ensure!(part == data[..4096], "the good part reads wrong");
    let bad = file.read_exact_at(&mut part, (2 << 20) + 500);
    ensure!(
        bad.as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(libc::EIO)),
        "the bad part gave {bad:?}"
    );
    file.read_exact_at(&mut part, 4 << 20)?;
    ensure!(
        part == data[4 << 20..(4 << 20) + 4096],
        "bytes behind the bad part read wrong"
    );
    drop(file);
    cairn.down()
}

fn aggregates(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            aggregates(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "tar") {
            found.push(path);
        }
    }
    Ok(())
}
