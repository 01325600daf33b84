//! Mirrors a directory, until it is unmounted: `mirror [--no-passthrough] [--shared] BACKING MOUNT`.
//! For measurements and conformance suites; all data are taken to be on disk.

use cairn_fuse::{AlwaysResident, Mirror, MirrorConfig, Passthrough, mount};
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    // Before any thread exists.
    let mounter = match mount::prepare() {
        Ok(mounter) => Some(mounter),
        Err(error) => {
            eprintln!("no mounter: {error}");
            None
        }
    };
    let (options, places): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with("--"));
    let [backing, mountpoint] = places.as_slice() else {
        anyhow::bail!("usage: mirror [--no-passthrough] [--shared] BACKING MOUNT");
    };
    let mut config = MirrorConfig::new(
        PathBuf::from(backing),
        PathBuf::from(mountpoint),
        Arc::new(AlwaysResident),
    );
    config.mounter = mounter;
    for option in &options {
        match option.as_str() {
            "--no-passthrough" => config.passthrough = Passthrough::Off,
            "--shared" => config.shared = true,
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    let mirror = Mirror::start(config)?;
    println!("ready {:?}", mirror.facts());
    mirror.wait()?;
    Ok(())
}
