//! Archive, release, recall, and all over again, with the real protocols on real filesystems.

use super::rig::PATIENCE;
use crate::error::Failure;
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, FileStat, How, SealKey};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::recall::{Asks, Done, RecallError, Recaller, Settings, StageAsk, User, Vouched};
use crate::hsm::rig::{Image, MemoryTier, Rig, noise};
use crate::hsm::version::{Settle, Trust};
use crate::id::{DataVersion, FileId, NodeHandle, TierId, Timestamp};
use crate::tier::Tier;
use parking_lot::Mutex;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Plain {
    tier: MemoryTier,
    done: Mutex<Vec<Done>>,
}

impl Asks for Plain {
    fn tier(&self, id: TierId) -> Option<Arc<dyn Tier>> {
        (id == MemoryTier::ID).then(|| Arc::new(self.tier.clone()) as Arc<dyn Tier>)
    }
    fn copies_of(&self, _: FileId, _: DataVersion) -> Vec<CopyHint> {
        Vec::new()
    }
    fn recalled(&self, done: &Done) {
        self.done.lock().push(done.clone());
    }
    fn touched(&self, _: &NodeHandle) {}
    fn copy_failed(&self, _: FileId, _: DataVersion, _: &CopyHint, why: &str) {
        panic!("every copy is good: {why}");
    }
    fn settle(&self, _: Settle) {}
    fn stage_requested(&self, _: &NodeHandle, _: Option<Vec<u8>>, _: User) -> Result<(), Failure> {
        Ok(())
    }
    fn may_be_lost(&self, _: &NodeHandle, _: bool) -> bool {
        false
    }
    fn vouch(
        &self,
        _: &NodeHandle,
        _: std::os::fd::BorrowedFd<'_>,
    ) -> Result<Vouched, RecallError> {
        Ok(Vouched::Whole)
    }
    fn adopted(&self, _: &crate::hsm::recall::Adopted) {}
    fn foreign(&self, _: &NodeHandle, _: &str) {}
    fn conflict(&self, _: &NodeHandle, _: &str) {}
    fn looks_lost(&self, _: &NodeHandle, _: Option<&Record>, _: &FileStat) -> bool {
        false
    }
    fn eta(&self, _: FileId) -> Option<Duration> {
        None
    }
    fn pins(&self, _: FileId) -> Vec<(String, Timestamp)> {
        Vec::new()
    }
}

/// Twice around: the second release relies on what the recall told the catalog.
fn around(root: &Path) {
    let rig = Rig::on(root);
    let backing = Backing::open(&rig.root, rig.backing.fs(), Some(SealKey([3; 32])));
    let asks = Arc::new(Plain {
        tier: rig.tier.clone(),
        done: Mutex::default(),
    });
    let recaller = Recaller::start(
        Arc::new(backing.expect("a backing")),
        Arc::clone(&asks) as Arc<dyn Asks>,
        Arc::new(IndexCache::new(1 << 20)),
        Settings::default(),
    );
    let recaller = recaller.expect("threads");
    let content = noise(3_300_000, 4);
    rig.write("f", &content);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(rig.path("f"))
        .expect("open");
    file.set_len(9 << 20).expect("a hole at the end");
    file.write_all_at(&content[..70_000], 5 << 20)
        .expect("written");
    drop(file);
    let whole = std::fs::read(rig.path("f")).expect("bytes");
    let before = std::fs::metadata(rig.path("f")).expect("stat");
    let extents = |rig: &Rig| rig.backing.extents(rig.open("f", How::Read).as_fd());
    let runs = extents(&rig).expect("extents");
    let mut seen = rig.archived("f");
    for round in 1..=2 {
        rig.release("f", Some((&seen, Trust::Sound)))
            .expect("released");
        assert!(rig.blocks("f") <= 8);
        let (tell, told) = crossbeam_channel::bounded(1);
        recaller.stage(StageAsk {
            node: rig.node("f"),
            user: 0,
            hint: None,
            place: None,
            done: Box::new(move |how| tell.send(how).expect("told")),
        });
        let done = told.recv_timeout(PATIENCE).expect("answered");
        seen = done.expect("staged").expect("was released").seen;
        assert_eq!(asks.done.lock().len(), round);
        assert!(std::fs::read(rig.path("f")).expect("bytes") == whole);
        assert_eq!(extents(&rig).expect("extents"), runs);
        let after = std::fs::metadata(rig.path("f")).expect("stat");
        let mtime = |m: &std::fs::Metadata| (m.mtime(), m.mtime_nsec());
        assert_eq!(mtime(&after), mtime(&before));
        let record = rig.record("f").expect("a record");
        let ctime = (record.user_ctime.sec, i64::from(record.user_ctime.nsec));
        assert_eq!(record.state, State::Resident);
        assert_eq!(ctime, (before.ctime(), before.ctime_nsec()), "the user's");
    }
}

#[test]
fn p4_twice_around_on_ext4() {
    if let Some(image) = Image::ext4("p4_twice_around_on_ext4") {
        around(image.path());
    }
}

#[test]
fn p4_twice_around_on_xfs() {
    if let Some(image) = Image::xfs("p4_twice_around_on_xfs") {
        around(image.path());
    }
}
