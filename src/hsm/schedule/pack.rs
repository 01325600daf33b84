//! Which waiting items go together to one worker.

use super::window::Window;
use super::{Item, Limits};
use std::collections::BTreeMap;

/// What lies in the same aggregate as `first`, whoever asked, by ascending offset: the medium is
/// brought there once. `left`: how many more a user may have in flight.
pub(super) fn recall(
    window: &Window,
    first: &Item,
    batch: usize,
    left: impl Fn(u32) -> usize,
) -> Vec<Item> {
    let Some(place) = first.place else {
        return vec![*first];
    };
    let beside = |i: &&Item| {
        i.action != first.action
            && i.tier == first.tier
            && i.place.is_some_and(|p| p.aggregate == place.aggregate)
    };
    let mut taken: BTreeMap<u32, usize> = BTreeMap::from([(first.uid, 1)]);
    let mut items = vec![*first];
    for item in window.iter().filter(beside) {
        if items.len() >= batch {
            break;
        }
        let of_user = taken.entry(item.uid).or_default();
        if *of_user < left(item.uid) {
            *of_user += 1;
            items.push(*item);
        }
    }
    items.sort_by_key(|i| (i.place, i.action));
    items
}

/// The oldest items of the user of `first`.
pub(super) fn release(window: &Window, first: &Item, batch: usize) -> Vec<Item> {
    let of_user = window
        .of_user(first.uid)
        .filter(|i| i.action != first.action);
    let of_tier = of_user.filter(|i| i.tier == first.tier);
    std::iter::once(first)
        .chain(of_tier)
        .take(batch.max(1))
        .copied()
        .collect()
}

/// Files for one aggregate: those of the same user and tier, from the same directory first, then
/// from others in the order of the directories' numbers, beginning behind this one's (directories
/// that were made together have neighbouring numbers). A large file is an aggregate of one.
pub(super) fn archive(window: &Window, first: &Item, limits: &Limits) -> Vec<Item> {
    let alone = |i: &Item| i.bytes > limits.pack_alone_over;
    if alone(first) {
        return vec![*first];
    }
    let mut near: Vec<&Item> = window
        .of_user(first.uid)
        .filter(|i| i.action != first.action && i.tier == first.tier && !alone(i))
        .collect();
    near.sort_by_key(|i| (i.near < first.near, i.near));
    let (mut items, mut bytes) = (vec![*first], first.bytes);
    for item in near {
        if items.len() >= limits.pack_members || bytes >= limits.pack_bytes {
            break;
        }
        if bytes.saturating_add(item.bytes) <= limits.pack_bytes {
            bytes += item.bytes;
            items.push(*item);
        }
    }
    items.sort_by_key(|i| (i.near, i.action));
    items
}
