//! Programs that hang, are replaced, or speak of another place; and what is left of them when Cairn is killed.

use super::{Site, opened};
use crate::{MARK, name, store};
use cairn::tier::{ErrorKind, OpenHow, Tier, TierError, open};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn known(site: &Site, options: &str) -> std::sync::Arc<dyn Tier> {
    let how = OpenHow::known(MARK.owner, MARK.tier);
    open(&site.faulty("place", options), how).expect("opens")
}

#[test]
fn a_tier_that_is_known_opens_without_a_word_to_its_program() {
    let site = Site::new();
    store(
        &*opened(&site.faulty("place", "")).expect("opens"),
        name(1),
        b"kept",
    );
    site.strike("describe hang\nget hang\nstat hang\nlist hang\n");
    let before = site.calls();
    let tier = known(&site, "&timeout=1s");
    assert_eq!(tier.mark(), MARK);
    assert_eq!(tier.describe().kind.as_str(), "exec");
    assert_eq!(site.calls(), before, "it was asked");
    let error = tier.stat(name(1)).expect_err("it hangs");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    site.strike("");
    assert_eq!(tier.read(name(1), 0, 4).expect("back"), &b"kept"[..]);
}

/// What may take `wait=` to come from tape is an object; nobody waits for the mark so long, and the error says for what
/// it was waited, and what sets how long.
#[test]
fn a_time_limit_is_in_the_error_with_what_sets_it() {
    let site = Site::new();
    store(
        &*opened(&site.faulty("place", "")).expect("opens"),
        name(1),
        b"kept",
    );
    let tier = known(&site, "&timeout=1s&wait=2s");
    for (fault, what) in [
        (
            "get hang",
            "get was ended: it took and gave nothing for 2s (wait= of",
        ),
        (
            "stat hang",
            "stat was ended: it took and gave nothing for 1s (timeout= of",
        ),
    ] {
        site.strike(fault);
        let error = match fault {
            "get hang" => tier.read(name(1), 0, 4).map(drop),
            _ => tier.stat(name(1)).map(drop),
        };
        let error = error.expect_err(fault).to_string();
        assert!(error.contains(what), "{error}");
    }
    site.strike("get hang");
    let tier = known(&site, "&timeout=1s&wait=7d");
    let error = tier.list(None, 9).expect_err("its mark does not come");
    assert!(error.to_string().contains("for 1s (timeout= of"), "{error}");
    let put = |fault: &str| {
        site.strike(fault);
        let mut put = tier.put(name(2), 5)?;
        std::io::Write::write_all(&mut put, b"bytes").expect("taken");
        put.finish(cairn_mover::Crc32c::of(b"bytes")).map(drop)
    };
    for (fault, what) in [
        ("put hang-after", "put was ended"),
        ("commit hang", "commit was ended"),
    ] {
        let error = put(fault).expect_err(fault);
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn what_a_program_can_is_asked_anew_when_it_was_replaced() {
    let site = Site::new();
    let root = site.empty("place");
    let text = fs::read_to_string(site.path("quick")).expect("example");
    let counted = |text: &str| {
        let count = format!("echo \"$1\" >>'{}'\nset -u", site.path("asked").display());
        text.replacen("set -u", &count, 1)
    };
    site.install("mine", counted(&text).as_bytes());
    let tier = opened(&site.url("mine", &format!("opt.root={}", root.display()))).expect("opens");
    let data: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    store(&*tier, name(1), &data);
    assert_eq!(
        tier.read(name(1), 1000, 100).expect("ranges"),
        data[1000..1100]
    );
    let described = || {
        let asked = fs::read_to_string(site.path("asked")).expect("asked");
        asked.lines().filter(|verb| *verb == "describe").count()
    };
    assert_eq!(described(), 1, "once, as long as it is the same");
    // One that cannot begin where it is told to.
    let without = text
        .replace("ranges=yes commit=rename", "ranges=no commit=copy")
        .replace("tail -c \"+$(($2 + 1))\" --", "cat --");
    assert_ne!(without, text);
    site.install("next", counted(&without).as_bytes());
    fs::rename(site.path("next"), site.path("mine")).expect("replaced");
    assert_eq!(
        tier.read(name(1), 1000, 100).expect("no ranges"),
        data[1000..1100]
    );
    assert_eq!(described(), 2);
    assert!(
        tier.describe()
            .notes
            .iter()
            .any(|note| note.contains("no ranges"))
    );
    // Written over where it lies, it is another one, too.
    fs::write(site.path("mine"), counted(&text)).expect("written over");
    assert_eq!(
        tier.read(name(1), 1000, 100).expect("ranges"),
        data[1000..1100]
    );
    assert_eq!(described(), 3);
}

#[test]
fn wrong_bytes_count_against_an_object_only_at_its_own_place() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "")).expect("opens");
    store(&*tier, name(1), b"kept");
    assert!(tier.confirm().is_ok());
    let mark = site.path("place").join("cairn-tier.json");
    let text = fs::read_to_string(&mark).expect("mark");
    let other = cairn::id::InstanceId([4; 16]).to_string();
    fs::write(&mark, text.replace(&MARK.owner.to_string(), &other)).expect("another's");
    let error = tier.confirm().expect_err("another place");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // What another place cannot read is not said of ours.
    site.strike("get once-116");
    let error = tier.read(name(1), 0, 4).expect_err("another place");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    fs::write(&mark, text).expect("ours");
    // What is unreadable for a moment is not damaged.
    site.strike("get once-116");
    assert_eq!(&tier.read(name(1), 0, 4).expect("read again")[..], b"kept");
    site.strike("get object-116");
    let error = tier.read(name(1), 0, 4).expect_err("unreadable");
    assert!(matches!(error, TierError::Unreadable { .. }), "{error}");
    site.strike("");
    assert!(tier.confirm().is_ok());
}

/// Killed and reaped also when an assertion fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn holds_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for {what}");
}

/// Neither runs nor waits to be reaped. (One whose parent is gone is reaped by the system, in its own time.)
fn is_gone(pid: &str) -> bool {
    let stat = Path::new("/proc").join(pid).join("stat");
    let text = fs::read_to_string(stat).unwrap_or_default();
    text.is_empty() || text.contains(") Z 1 ")
}

#[test]
fn programs_end_with_a_cairn_that_is_killed() {
    let site = Site::new();
    let place = site.empty("place");
    // The second is deaf to the first word; neither looks at its pipes. They do not outlive the test.
    let script = "#!/bin/sh\ncd \"$CAIRN_TIER_ROOT\"\nstay='while [ -e \"$CAIRN_TIER_ROOT\" ]; do sleep 1; done'\n\
                  sh -c \"trap '' TERM; echo \\$\\$ >deaf; $stay\" &\n\
                  echo $$ >own; eval \"$stay\"\n";
    site.install("stubborn", script.as_bytes());
    let url = site.url("stubborn", &format!("opt.root={}", place.display()));
    let child = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .args(["tier", "test", &url.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cairn");
    let mut victim = Victim(child);
    let mut pids = Vec::new();
    for name in ["own", "deaf"] {
        let path = place.join(name);
        holds_until(name, || {
            fs::read(&path).is_ok_and(|text| text.ends_with(b"\n"))
        });
        pids.push(fs::read_to_string(&path).expect("number").trim().to_owned());
    }
    assert!(pids.iter().all(|pid| !is_gone(pid)), "{pids:?}");
    victim.0.kill().expect("killed");
    victim.0.wait().expect("reaped");
    for pid in &pids {
        holds_until("the programs' end", || is_gone(pid));
    }
}
