//! Lives of a filesystem: between two of them memory was lost, and with it what was not synced.
//!
//! A boot of the host is one bound, but a disk may die and come back within it. The mount's unique
//! number (Linux 6.8) is given at mount(2) and never again within a boot, so boot and number
//! together name the life. It is asked where the users' mount namespace sees the directory: a
//! namespace of Cairn's own has copies of mounts, with numbers of their own.
//!
//! Invariant: equal lives prove that nothing was lost between; unequal ones prove nothing.

use crate::catalog::BootId;
use crate::id::InstanceId;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::path::Path;

/// `STATX_MNT_ID_UNIQUE`.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The life of the filesystem at `outside`, the backing directory as the users' mount namespace
/// has it, in the host's boot `boot`. Where the kernel gives no unique number, no two are equal:
/// then every stop that was not clean makes all versions suspect (P1).
#[must_use]
pub fn life_of(outside: &Path, boot: &str) -> BootId {
    let mut bytes = boot_bytes(boot);
    match mount_number(outside) {
        Some(number) => {
            for (byte, with) in bytes.iter_mut().zip(number.to_le_bytes()) {
                *byte ^= with;
            }
            BootId(bytes)
        }
        None => BootId(InstanceId::random().0),
    }
}

fn mount_number(at: &Path) -> Option<u64> {
    let stat = statx(CWD, at, AtFlags::empty(), UNIQUE).ok()?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(UNIQUE);
    told.then_some(stat.stx_mnt_id)
}

fn boot_bytes(text: &str) -> [u8; 16] {
    // A boot id is a UUID; anything else still tells boots apart.
    text.parse::<InstanceId>().map_or_else(
        |_| {
            let mut bytes = [0; 16];
            for (at, b) in text.bytes().enumerate() {
                bytes[at % 16] ^= b.rotate_left((at / 16 % 8) as u32);
            }
            bytes
        },
        |id| id.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0f7d9a52-3a0e-4c53-9d7b-0a8a6f1d2c3b";

    #[test]
    fn a_life_is_one_boot_and_one_mount() {
        let dir = tempfile::tempdir().unwrap();
        let here = life_of(dir.path(), BOOT);
        if mount_number(dir.path()).is_none() {
            eprintln!(
                "SKIPPED a_life_is_one_boot_and_one_mount: the kernel has no unique numbers of mounts"
            );
            assert_ne!(here, life_of(dir.path(), BOOT), "not known: never the same");
            return;
        }
        assert_eq!(here, life_of(dir.path(), BOOT));
        assert_ne!(here, life_of(Path::new("/proc"), BOOT), "another mount");
        assert_ne!(
            here,
            life_of(dir.path(), "1f7d9a52-3a0e-4c53-9d7b-0a8a6f1d2c3b"),
            "another boot"
        );
        let nowhere = dir.path().join("nowhere");
        assert_ne!(
            life_of(&nowhere, BOOT),
            life_of(&nowhere, BOOT),
            "not known: never the same"
        );
    }
}
