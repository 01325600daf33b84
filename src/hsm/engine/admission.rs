//! Admission of stages: what a request needs in all is compared with what there is before a byte
//! moves. A dry run says what this decided, and the real run does what it says.
//!
//! What fits begins. What does not fit, but would if policy released what it may, begins and goes
//! on in parts as room is made. Everything else is refused with the numbers.

use super::ask::{Ask, Forecast};
use super::{EngineError, Shared};
use crate::catalog::{Class, FileState, Snapshot};
use crate::error::Failure;
use crate::hsm::backing::How;
use crate::hsm::recall::{Owner, quota_left};
use cairn_policies::{Trigger, Verb};
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// What stages need, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Need {
    /// In all.
    pub bytes: u64,
    /// By whose quota is charged.
    pub(super) owners: BTreeMap<Owner, u64>,
}

impl Need {
    /// One more file.
    pub(super) fn add(&mut self, uid: u32, gid: u32, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        for owner in [Owner::User(uid), Owner::Group(gid)] {
            let sum = self.owners.entry(owner).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
}

/// What there is for stages, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Have {
    /// Free on the backing, but for the reserve.
    free: u64,
    /// Promised to stages that were accepted before and have not begun.
    promised: u64,
    /// On disk, with copies elsewhere, and not pinned.
    releasable: u64,
    /// On disk, with copies elsewhere, and pinned by jobs alone.
    pinned: u64,
    /// Policy releases by itself when the disk fills up.
    by_itself: bool,
    /// What quotas leave, where there are any.
    quotas: BTreeMap<Owner, u64>,
}

impl Have {
    /// Room for one more request.
    pub(super) fn room(&self) -> u64 {
        self.free.saturating_sub(self.promised)
    }
}

/// What is decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// There is room for all of it.
    Fits,
    /// It goes on as releases make room; in words.
    InParts(String),
    /// It is not begun: why, in words.
    Refused(Failure, String),
}

/// The decision. A job can wait until others let go of what they pin; nobody else waits for that.
pub(super) fn judge(need: &Need, have: &Have, for_job: bool) -> Admission {
    let over = |(owner, left): (&Owner, &u64)| {
        let wanted = need.owners.get(owner).copied().unwrap_or(0);
        (wanted > *left).then(|| {
            format!("{wanted} bytes are needed, and the quota of {owner} leaves {left} bytes")
        })
    };
    if let Some(why) = have.quotas.iter().find_map(over) {
        return Admission::Refused(Failure::QuotaExceeded, why);
    }
    let (needed, room) = (need.bytes, have.room());
    if needed <= room {
        return Admission::Fits;
    }
    let mut numbers = format!(
        "{needed} bytes are needed on the backing filesystem, {} are free",
        have.free
    );
    if have.promised > 0 {
        numbers += &format!(" ({} of them promised to other stages)", have.promised);
    }
    numbers += &format!(", {} could be released", have.releasable);
    // What was promised may be more than is free: of what can be released, the rest is promised, too.
    let room = have.free.saturating_add(have.releasable);
    let room = room.saturating_sub(have.promised);
    // What jobs keep, and what comes back for stages that were let in, can go when they have ended.
    let later = room.saturating_add(have.pinned);
    let later = later.saturating_add(have.promised);
    if have.by_itself && needed <= room {
        Admission::InParts(format!(
            "{numbers}: it is done in parts, as policy makes room"
        ))
    } else if for_job && have.by_itself && needed <= later {
        let kept = have.pinned;
        numbers += &format!(", and jobs keep {kept}: it waits until some of them end");
        Admission::Refused(Failure::OverBudget, numbers)
    } else {
        Admission::Refused(Failure::NoSpace, numbers)
    }
}

impl Shared {
    /// What is decided about a stage of which `forecast` is known.
    pub(super) fn admit(
        &self,
        need: &Need,
        for_job: bool,
    ) -> Result<(Admission, u64), EngineError> {
        let have = self.have(need)?;
        Ok((judge(need, &have, for_job), have.room()))
    }

    fn have(&self, need: &Need) -> Result<Have, EngineError> {
        let snapshot = self.catalog.status(1)?;
        let root = self.backing.reopen(self.backing.root(), How::Read)?;
        let left = |owner: &Owner| Some((*owner, quota_left(root.as_fd(), *owner)?));
        let (on_disk, pinned) = match self.release_allowed() {
            Ok(()) => (on_disk(&snapshot), self.pinned_space()?),
            Err(_) => (0, (0, 0)),
        };
        Ok(Have {
            free: self.room_on_backing()?,
            promised: promised(&snapshot),
            releasable: on_disk.saturating_sub(pinned.0),
            pinned: pinned.1,
            by_itself: self.releases_by_itself(),
            quotas: need.owners.keys().filter_map(left).collect(),
        })
    }

    /// Room is made without anybody asking for it.
    pub(super) fn releases_by_itself(&self) -> bool {
        let held = self.policy.lock();
        held.policy.rules.iter().any(|rule| {
            rule.verb == Verb::Release
                && matches!(rule.trigger, Trigger::Watermark { .. } | Trigger::Every(_))
        })
    }

    /// Seconds that bytes may take to come back behind those that wait before them, at the speed of
    /// what was staged lately; `None` where nothing was.
    pub(super) fn stage_eta(&self, bytes: u64) -> Result<Option<u64>, EngineError> {
        let lately = self
            .catalog
            .requests(crate::catalog::RequestFilter::default(), LATELY)?;
        let (mut moved, mut nanos) = (0_u64, 0_u64);
        for request in lately.iter().filter(|r| r.class == Class::Stage) {
            if let (Some(begun), Some(over)) = (request.started, request.finished) {
                let span = over.nanos().saturating_sub(begun.nanos()).max(1);
                moved = moved.saturating_add(request.counts.done.bytes);
                nanos = nanos.saturating_add(span.unsigned_abs());
            }
        }
        if moved == 0 {
            return Ok(None);
        }
        let before = promised(&self.catalog.status(1)?);
        let all = u128::from(bytes.saturating_add(before)) * u128::from(nanos);
        let seconds = (all / u128::from(moved)).div_ceil(1_000_000_000);
        Ok(Some(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }
}

/// Requests that the speed of stages is taken from.
const LATELY: usize = 200;

/// Bytes of stages that are accepted and have not begun.
fn promised(snapshot: &Snapshot) -> u64 {
    let stages = snapshot.backlog.iter().filter(|b| b.class == Class::Stage);
    stages.map(|b| b.queued.bytes + b.waiting.bytes).sum()
}

/// Bytes on disk of archived files.
fn on_disk(snapshot: &Snapshot) -> u64 {
    let archived = snapshot
        .usage
        .iter()
        .filter(|u| u.state == FileState::Archived);
    archived.map(|u| u.blocks.saturating_mul(512)).sum()
}

impl Forecast {
    /// What is decided about a stage.
    pub(super) fn admitted(&mut self, ask: &Ask, (decision, room): (Admission, u64)) {
        debug_assert_eq!(ask.verb, crate::catalog::Verb::Stage);
        self.room = Some(room);
        self.admission = Some(decision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(bytes: u64) -> Need {
        let mut need = Need::default();
        need.add(1000, 100, bytes);
        need
    }

    #[test]
    fn what_fits_is_told_from_what_needs_releases_and_what_is_refused() {
        let mut have = Have {
            free: 100,
            promised: 40,
            releasable: 50,
            pinned: 30,
            by_itself: true,
            quotas: BTreeMap::new(),
        };
        assert_eq!(judge(&need(60), &have, false), Admission::Fits);
        let parts = judge(&need(61), &have, false);
        assert!(matches!(parts, Admission::InParts(_)), "{parts:?}");
        assert!(matches!(
            judge(&need(110), &have, false),
            Admission::InParts(_)
        ));
        let numbers = "111 bytes are needed on the backing filesystem, 100 are free (40 of them \
                       promised to other stages), 50 could be released";
        let refused = Admission::Refused(Failure::NoSpace, numbers.to_owned());
        assert_eq!(judge(&need(111), &have, false), refused);
        // A job waits for what other jobs keep, and for what comes back for them.
        let later = judge(&need(180), &have, true);
        let why = "180 bytes are needed on the backing filesystem, 100 are free (40 of them promised to \
                   other stages), 50 could be released, and jobs keep 30: it waits until some of them end";
        let told = Admission::Refused(Failure::OverBudget, why.to_owned());
        assert_eq!(later, told);
        let never = judge(&need(181), &have, true);
        assert!(
            matches!(never, Admission::Refused(Failure::NoSpace, _)),
            "{never:?}"
        );
        // More is promised than is free: what could be released is not promised twice.
        have.promised = 130;
        assert!(matches!(
            judge(&need(20), &have, false),
            Admission::InParts(_)
        ));
        let over = judge(&need(21), &have, false);
        assert!(matches!(over, Admission::Refused(Failure::NoSpace, _)));
        have.promised = 40;
        have.by_itself = false;
        assert!(matches!(
            judge(&need(61), &have, true),
            Admission::Refused(Failure::NoSpace, _)
        ));
    }

    #[test]
    fn a_quota_counts_the_whole_request() {
        let mut have = Have {
            free: 1000,
            ..Have::default()
        };
        have.quotas.insert(Owner::User(1000), 50);
        have.quotas.insert(Owner::User(7), 0);
        let mut two = need(30);
        assert_eq!(judge(&two, &have, false), Admission::Fits);
        two.add(1000, 100, 21);
        let why = "51 bytes are needed, and the quota of user 1000 leaves 50 bytes";
        let refused = Admission::Refused(Failure::QuotaExceeded, why.to_owned());
        assert_eq!(judge(&two, &have, false), refused);
    }
}
