//! What authors of programs run, `cairn tier test`: a good program passes, each mistake is found by the case made
//! for it, and what was at the place before stays.

use super::{Site, opened};
use crate::{name, store};
use cairn::tier::trial::Trial;
use cairn::tier::{ErrorKind, TierUrl};
use std::fs;

/// Cases that failed, of how many.
fn tried(url: &TierUrl) -> (Vec<String>, usize) {
    let trial = Trial::at(url).expect("an area");
    let (mut failed, mut count) = (Vec::new(), 0);
    trial.run(&mut |outcome| {
        count += 1;
        if let Err(why) = outcome.result {
            failed.push(format!("{}: {why}", outcome.case));
        }
    });
    trial.clear().expect("cleared");
    (failed, count)
}

#[test]
fn good_places_of_every_kind_pass_and_are_left_as_they_were() {
    let site = Site::new();
    let root = site.empty("place");
    fs::write(root.join("notes.txt"), b"kept").expect("file");
    let dir: TierUrl = format!("dir:{}", root.display()).parse().expect("URL");
    let tape = format!("tape:{}?capacity=24MiB&cartridges=4", root.display());
    let mut places = vec![dir, tape.parse().expect("URL")];
    if super::has_time_for("good_places_of_every_kind_pass_and_are_left_as_they_were (exec)") {
        places.push(site.plain("place"));
    }
    for url in places {
        let (failed, count) = tried(&url);
        assert_eq!(failed, [""; 0], "{url}");
        assert!(count > 25, "{url}: {count} cases");
        assert_eq!(super::names(&root), ["notes.txt"], "{url}");
    }
}

#[test]
fn a_place_that_is_a_tier_is_not_tried() {
    let site = Site::new();
    let url = site.plain("place");
    let tier = opened(&url).expect("opens");
    store(&*tier, name(1), b"kept");
    let dir = format!("dir:{}", site.path("place").display());
    for url in [url, dir.parse().expect("URL")] {
        let refused = Trial::at(&url).expect_err("a tier");
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        assert!(
            refused.to_string().contains(&crate::MARK.owner.to_string()),
            "{refused}"
        );
    }
    let missing = format!("dir:{}", site.path("missing").display());
    let missing = Trial::at(&missing.parse().expect("URL")).expect_err("not there");
    assert_eq!(missing.kind(), ErrorKind::Unavailable, "{missing}");
    assert_eq!(tier.read(name(1), 0, 4).expect("kept"), &b"kept"[..]);
}

/// The example with a mistake: what stands there, and what its author wrote instead.
fn mistaken(site: &Site, mistake: &[(&str, &str)]) -> TierUrl {
    let mut text = fs::read_to_string(site.path("quick")).expect("example");
    for (right, wrong) in mistake {
        assert!(text.contains(right), "{right}");
        text = text.replace(right, wrong);
    }
    site.install("mistaken", text.as_bytes());
    let root = site.empty("place");
    site.url("mistaken", &format!("opt.root={}", root.display()))
}

#[test]
fn each_mistake_is_found_by_the_case_made_for_it() {
    for (mistake, case) in [
        (
            vec![
                (r#"there "$2" && fail $exists "$2 is there""#, ":"),
                ("ln --", "cp -f --"),
            ],
            "a_commit_replaces_nothing",
        ),
        (
            // Looks, and only then moves.
            vec![(
                r#"err=$(ln -- "$root/$1" "$root/$2" 2>&1)"#,
                r#"err=$(sleep 0.3; mv -f -- "$root/$1" "$root/$2" 2>&1)"#,
            )],
            "of_two_commits_of_one_name_at_once_one_is_done",
        ),
        (
            vec![("missing=111", "missing=1")],
            "what_is_not_there_is_111",
        ),
        (
            vec![(r#"fail $unknown "unknown verb $verb""#, "exit 0")],
            "a_verb_that_nobody_knows_is_118",
        ),
        (
            vec![("$(($2 + 1))", "$2")],
            "every_byte_comes_back_at_the_borders_of_ranges",
        ),
        (
            vec![(
                r#"head -c "$3""#,
                r#"{ [ "$3" -ne 65536 ] || exit 1; head -c "$3"; }"#,
            )],
            "a_length_beyond_the_end_gives_what_is_there",
        ),
        (
            vec![("ls -1 --", "ls -1 -- \"$root\" &&  ls -1 --")],
            "a_listing_shows_each_object",
        ),
        (
            vec![(r#"rm -f -- "$root/$1""#, ":")],
            "a_put_and_a_commit_make_an_object",
        ),
        (
            // Leaves more behind than it was told to write.
            vec![(
                r#"err=$(cat 2>&1 >"$root/$1""#,
                r#"err=$(cat 2>&1 >"$root/$1" && cp "$root/$1" "$root/${1%%tmp-*}half""#,
            )],
            "a_put_whose_cairn_dies_is_no_object",
        ),
        (
            vec![
                ("set -u", "set -u; trap '' TERM"),
                (
                    r#"head -c "$3""#,
                    r#"head -c "$3"; [ "$3" -lt 8000000 ] || sleep 8"#,
                ),
            ],
            "a_get_ends_when_it_is_told_to",
        ),
    ] {
        let site = Site::new();
        let url = mistaken(&site, &mistake);
        let (failed, _) = tried_authors(&url);
        assert!(
            failed.iter().any(|f| f.starts_with(case)),
            "{mistake:?} is not found by {case}, only by {failed:#?}"
        );
    }
}

/// The author's own cases alone.
fn tried_authors(url: &TierUrl) -> (Vec<String>, usize) {
    let trial = Trial::at(url).expect("an area");
    let (mut failed, mut count) = (Vec::new(), 0);
    trial.run_own(&mut |outcome| {
        count += 1;
        if let Err(why) = outcome.result {
            failed.push(format!("{}: {why}", outcome.case));
        }
    });
    (failed, count)
}
