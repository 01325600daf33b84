//! Names of users and groups, as the system's name service knows them; else their numbers.

use super::sys;
use std::collections::HashMap;
use std::hash::Hash;

/// Names already asked for.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(crate) fn user(&mut self, uid: u32) -> &str {
        remembered(&mut self.users, uid, user)
    }
    pub(crate) fn group(&mut self, gid: u32) -> &str {
        let group = |gid: u32| sys::group_name(gid).unwrap_or_else(|| gid.to_string());
        remembered(&mut self.groups, gid, group)
    }
}

/// A user's name.
pub(crate) fn user(uid: u32) -> String {
    sys::user_name(uid).unwrap_or_else(|| uid.to_string())
}

fn remembered<K: Copy + Eq + Hash>(
    known: &mut HashMap<K, String>,
    key: K,
    ask: impl Fn(K) -> String,
) -> &str {
    known.entry(key).or_insert_with(|| ask(key))
}
