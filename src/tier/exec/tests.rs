//! URLs of programs, and listings that are kept between pages.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;

fn parse(text: &str) -> TierUrl {
    text.parse().expect(text)
}

#[test]
fn options_say_how_a_program_is_used() {
    let text = "exec:/usr/lib/cairn/hsi?timeout=20m&wait=4h&concurrency=8&prefix=near-&opt.root=/hpss/a%26b&opt.user-name=c";
    let url = parse(text);
    assert_eq!(url.to_string(), text);
    let TierUrl::Exec { program, options } = &url else {
        panic!("a program");
    };
    assert_eq!(program, Path::new("/usr/lib/cairn/hsi"));
    assert_eq!(options.wait, Some(Duration::from_secs(4 * 3600)));
    let variables: Vec<_> = options.variables().collect();
    assert_eq!(
        variables,
        [
            ("CAIRN_TIER_ROOT".to_owned(), "/hpss/a&b"),
            ("CAIRN_TIER_USER_NAME".to_owned(), "c")
        ]
    );
    assert_eq!(
        parse("exec:/p?concurrency=4&timeout=10m").to_string(),
        "exec:/p"
    );
    assert_eq!(url.path(), None);
    assert_eq!(url.needs(), Some(Path::new("/usr/lib/cairn/hsi")));
}

#[test]
fn places_of_one_program_are_told_apart_by_what_it_is_told() {
    let place = |text: &str| parse(text).place();
    assert_eq!(
        place("exec:/p"),
        place("exec:/p?timeout=1m&wait=1m&concurrency=1")
    );
    for other in ["exec:/q", "exec:/p?opt.root=/a", "exec:/p?prefix=a-"] {
        assert_ne!(place("exec:/p"), place(other), "{other}");
    }
}

#[test]
fn wrong_options_name_the_part_and_the_way_out() {
    for (option, says) in [
        ("timeout=0s", "100ms to 7d"),
        ("timeout=8d", "100ms to 7d"),
        ("wait=5", "unit"),
        ("concurrency=0", "1 to 256"),
        ("concurrency=many", "1 to 256"),
        ("prefix=near", "- at its end"),
        ("prefix=", "- at its end"),
        ("prefix=A-", "a-z"),
        ("prefix=../-", "a-z"),
        ("prefix=tmp-", "being written"),
        ("prefix=a-tmp-", "being written"),
        ("opt.=x", "a letter"),
        ("opt.Root=x", "a letter"),
        ("opt.protocol=2", "Cairn says that itself"),
        ("opt.a=%00", "zero"),
        ("opt.a=1&opt.a=2", "twice"),
        ("concurency=3", "did you mean \"concurrency\""),
    ] {
        let error = format!("exec:/p?{option}")
            .parse::<TierUrl>()
            .expect_err(option);
        assert!(error.to_string().contains(says), "{option}: {error}");
    }
}

proptest! {
    #[test]
    fn whatever_is_handed_on_prints_and_parses_back(
        given in prop::collection::btree_map("[a-z][a-z0-9-]{0,20}", "[^\0]{0,40}", 0..4),
        concurrency in 1_usize..=256,
        seconds in 1_u64..100_000,
    ) {
        prop_assume!(!given.contains_key("protocol"));
        let options = ExecOptions { given, concurrency, timeout: Duration::from_secs(seconds), ..ExecOptions::default() };
        let url = TierUrl::Exec { program: "/p".into(), options: Box::new(options) };
        prop_assert_eq!(url.to_string().parse(), Ok(url));
    }
}

/// A program that only lists, and counts how often.
fn lister(place: &TempDir) -> ExecTier {
    let path = place.path().join("program");
    let script = format!(
        "#!/bin/sh\ncd {}\ncase $1 in\n\
         describe) printf 'protocol=1\\nranges=yes\\ncommit=rename\\n' ;;\n\
         get) cat mark ;;\n\
         list) echo x >>calls; cat names ;;\n\
         stat) exit 111 ;;\nesac\n",
        place.path().display()
    );
    fs::write(&path, script).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    let mark = Mark {
        tier: TierId(7),
        owner: InstanceId([7; 16]),
    };
    let text = crate::tier::dir::mark::text(mark, "").expect("text");
    fs::write(place.path().join("mark"), text).expect("mark");
    let how = OpenHow::known(mark.owner, mark.tier);
    ExecTier::open(&path, &ExecOptions::default(), how).expect("opens")
}

#[test]
fn one_listing_serves_all_pages_until_something_changes() {
    let place = tempfile::tempdir().expect("temporary directory");
    let name = |seq| AggregateId { epoch: 1, seq };
    let mut names: Vec<String> = (1..=90)
        .rev()
        .map(|n| format!("{}.tar\n", name(n)))
        .collect();
    names.push("e00000001-000000000001.tar.gz\n\u{e4}\nnotes.txt\ncairn-tier.json\n".to_owned());
    names.push(format!("{}\n{}.tar\n", "e".repeat(9000), name(5)));
    fs::write(place.path().join("names"), names.concat()).expect("names");
    let tier = lister(&place);
    let calls = || fs::read(place.path().join("calls")).map_or(0, |c| c.len() / 2);
    let before = calls();
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = tier.list(after, 40).expect("page");
        let Some(last) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    assert_eq!(found, (1..=90).map(name).collect::<Vec<_>>());
    assert_eq!(calls() - before, 1);
    tier.list(None, 40).expect("page");
    tier.changed();
    let page = tier.list(Some(name(40)), 1).expect("page");
    assert_eq!((page, calls() - before), (vec![name(41)], 3));
    // A page from elsewhere is asked for anew.
    assert_eq!(tier.list(Some(name(7)), 1).expect("page"), [name(8)]);
    assert_eq!(calls() - before, 4);
}

#[test]
fn a_listing_that_breaks_off_is_none() {
    let place = tempfile::tempdir().expect("temporary directory");
    fs::write(
        place.path().join("names"),
        "e00000001-000000000001.tar\ne00000001-0000",
    )
    .expect("names");
    let tier = lister(&place);
    let error = tier.list(None, 9).expect_err("half a name");
    assert!(error.to_string().contains("has no end"), "{error}");
    // One without the mark is another place's.
    fs::write(place.path().join("names"), "").expect("names");
    let error = tier.list(None, 9).expect_err("no mark");
    assert!(error.to_string().contains("cairn-tier.json"), "{error}");
    fs::write(place.path().join("names"), "cairn-tier.json\n").expect("names");
    assert_eq!(tier.list(None, 9).expect("nothing there"), []);
}
