//! What the C library has no safe wrapper for: names of users and groups, local time, its memory.
#![allow(
    unsafe_code,
    reason = "getpwuid_r, getpwnam_r, getgrouplist, getgrgid_r, localtime_r and mallopt have no safe wrapper here"
)]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;

/// Largest answer of the name service that is taken, bytes: groups can have many members.
const MAX_ANSWER: usize = 1 << 20;

/// Calls `ask` with ever larger buffers until it has room; the string it returns must lie in the buffer.
fn with_buffer(ask: impl Fn(*mut c_char, usize) -> (c_int, *const c_char)) -> Option<String> {
    let mut buffer: Vec<c_char> = vec![0; 4096];
    loop {
        let (code, name) = ask(buffer.as_mut_ptr(), buffer.len());
        if code == libc::ERANGE && buffer.len() < MAX_ANSWER {
            buffer.resize(buffer.len() * 4, 0);
            continue;
        }
        if code != 0 || name.is_null() {
            return None;
        }
        // SAFETY: on success the name is a NUL-terminated string in `buffer`, which is alive and
        // is not written to any more.
        return Some(
            unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned(),
        );
    }
}

/// Has all threads share few heaps, one for four processors and two at least; `false`: it was not to be had. The C
/// library gives each of them one of its own, as many as eight for each processor, and what they leave unused in
/// it is of no use to the others: with twenty threads that was half of all memory. To be called before there are
/// threads.
pub(super) fn share_heaps() -> bool {
    #[cfg(target_env = "gnu")]
    {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let heaps = c_int::try_from(processors / 4).unwrap_or(c_int::MAX).max(2);
        // SAFETY: it takes two numbers, and changes nothing but where later allocations come from.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    false
}

/// The user's name.
pub(super) fn user_name(uid: u32) -> Option<String> {
    with_buffer(|buffer, length| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are to live memory of the sizes given; `found` is null or points to
        // `entry`, which then is initialised.
        unsafe {
            let code = libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer, length, &raw mut found);
            (
                code,
                if found.is_null() {
                    ptr::null()
                } else {
                    (*found).pw_name.cast_const()
                },
            )
        }
    })
}

/// A user's number.
pub(super) fn user_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let found = Cell::new(None);
    with_buffer(|buffer, length| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut result = ptr::null_mut();
        // SAFETY: as in `user_name`; `name` is NUL-terminated and alive.
        unsafe {
            let code = libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer,
                length,
                &raw mut result,
            );
            if result.is_null() {
                return (code, ptr::null());
            }
            found.set(Some((*result).pw_uid));
            (code, (*result).pw_name.cast_const())
        }
    })?;
    found.get()
}

/// What a user may do beside their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) gid: u32,
    /// All groups, `gid` among them.
    pub(super) groups: Vec<u32>,
}

/// Most groups that are asked for (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// A user's groups, as the system has them now; `None`: there is no such user.
pub(super) fn account(uid: u32) -> Option<Account> {
    let gid = Cell::new(None);
    let name = with_buffer(|buffer, length| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: as in `user_name`.
        unsafe {
            let code = libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer, length, &raw mut found);
            if found.is_null() {
                return (code, ptr::null());
            }
            gid.set(Some((*found).pw_gid));
            (code, (*found).pw_name.cast_const())
        }
    })?;
    let (name, gid) = (CString::new(name).ok()?, gid.get()?);
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = c_int::try_from(groups.len()).ok()?;
        // SAFETY: `groups` has room for `count` numbers; the name is NUL-terminated and alive.
        let got =
            unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let needed = usize::try_from(count).ok()?;
        if got >= 0 {
            groups.truncate(needed);
            return Some(Account { gid, groups });
        }
        if needed <= groups.len() || needed > MAX_GROUPS {
            return None;
        }
        groups.resize(needed, 0);
    }
}

/// The group's name.
pub(super) fn group_name(gid: u32) -> Option<String> {
    with_buffer(|buffer, length| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: as in `user_name`.
        unsafe {
            let code = libc::getgrgid_r(gid, entry.as_mut_ptr(), buffer, length, &raw mut found);
            (
                code,
                if found.is_null() {
                    ptr::null()
                } else {
                    (*found).gr_name.cast_const()
                },
            )
        }
    })
}

/// A moment in the local time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalTime {
    pub(super) year: i64,
    /// 0 to 11.
    pub(super) month: usize,
    pub(super) day: i32,
    pub(super) hour: i32,
    pub(super) minute: i32,
}

/// Seconds since 1970 as local time; `None` where the year has no number.
pub(super) fn local_time(seconds: i64) -> Option<LocalTime> {
    let mut broken_down = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to live memory; the result is initialised when not null.
    let tm = unsafe {
        if libc::localtime_r(&raw const seconds, broken_down.as_mut_ptr()).is_null() {
            return None;
        }
        broken_down.assume_init()
    };
    Some(LocalTime {
        year: i64::from(tm.tm_year) + 1900,
        month: usize::try_from(tm.tm_mon).ok()?,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_env = "gnu")]
    #[test]
    fn heaps_are_shared_where_the_c_library_has_many() {
        assert!(share_heaps());
    }

    #[test]
    fn root_has_its_name_and_nobody_at_all_has_none() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(3_999_999_999), None);
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_id("no such user"), None);
        assert!(account(0).is_some_and(|a| a.gid == 0 && a.groups.contains(&0)));
        assert_eq!(account(3_999_999_999), None);
    }

    #[test]
    fn local_time_is_within_a_day_of_utc() {
        let there = local_time(86_400 * 365).unwrap();
        assert!((1970..=1971).contains(&there.year), "{there:?}");
        assert_eq!(local_time(i64::MAX), None);
    }
}
