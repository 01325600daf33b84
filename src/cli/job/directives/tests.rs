//! What scripts say, and what is made of it.

use super::*;
use proptest::prelude::*;

fn one(line: &str) -> Directive {
    let script = format!("#!/bin/bash\n{line}\nsrun x\n");
    let found = parse(script.as_bytes()).unwrap();
    assert_eq!(found.all.len(), 1, "{line}");
    found.all.into_iter().next().unwrap()
}

fn wrong(line: &str) -> Wrong {
    let script = format!("#!/bin/bash\n{line}\nsrun x\n");
    let mut wrong = parse(script.as_bytes()).unwrap_err();
    assert_eq!(wrong.len(), 1, "{line}");
    let one = wrong.remove(0);
    assert_eq!(one.line, 2, "{line}");
    one
}

fn source(line: &str) -> Source {
    match one(line).what {
        What::StageIn { source, .. } => source,
        What::StageOut { .. } => panic!("{line} stages out"),
    }
}

fn path(text: &str) -> Source {
    Source::Path(text.as_bytes().to_vec())
}

#[test]
fn the_three_sources_are_told_apart_and_quotes_make_names() {
    assert_eq!(source("#CAIRN stage_in /a/b"), path("/a/b"));
    assert_eq!(source("#CAIRN\tstage_in\t/a/b  # why"), path("/a/b"));
    assert_eq!(
        source("#CAIRN stage_in /a/*.h5"),
        Source::Glob(b"/a/*.h5".to_vec())
    );
    assert_eq!(
        source("#CAIRN stage_in @list"),
        Source::List(b"list".to_vec())
    );
    assert_eq!(source("#CAIRN stage_in '@list'"), path("@list"));
    assert_eq!(source("#CAIRN stage_in '/a b/*.h5'"), path("/a b/*.h5"));
    assert_eq!(source(r"#CAIRN stage_in /a\ b/\*"), path("/a b/*"));
    assert_eq!(
        source(r#"#CAIRN stage_in "/a \"b\" \n\\""#),
        path(r#"/a "b" \n\"#)
    );
    assert_eq!(source("#CAIRN stage_in /a#b"), path("/a#b"));
    assert_eq!(source("#CAIRN stage_in a=b"), path("a=b"));
    assert_eq!(
        source("#CAIRN stage_in '/[x]'/*"),
        Source::Glob(br"/\[x\]/*".to_vec())
    );
}

#[test]
fn options_and_optional_are_read() {
    let pinned = one("#CAIRN stage_in /a pin=12h");
    let pin = Some(Duration::from_secs(12 * 3600));
    assert!(matches!(pinned.what, What::StageIn { pin: p, .. } if p == pin));
    assert!(!pinned.optional);
    assert!(one("#CAIRN optional stage_in /a").optional);
    let out = one("#CAIRN optional stage_out '/a b' archive=cold");
    let what = What::StageOut {
        path: b"/a b".to_vec(),
        tier: "cold".to_owned(),
    };
    assert_eq!((out.optional, out.what), (true, what));
}

#[test]
fn directives_end_where_sbatch_ends_them() {
    let script = b"#!/bin/sh\r\n#CAIRN stage_in /a\r\n\r\n  \r\n  # more\r\n#CAIRN stage_in /b\r\n\
        date\r\n#CAIRN stage_in /c\r\n";
    let found = parse(script).unwrap();
    let lines: Vec<usize> = found.all.iter().map(|d| d.line).collect();
    assert_eq!(lines, [2, 6]);
    assert!(matches!(&found.all[0].what, What::StageIn { source, .. } if *source == path("/a")));
    assert_eq!(found.ignored.len(), 1);
    assert_eq!(found.ignored[0].line, 8);
}

#[test]
fn what_looks_like_a_directive_is_told_of() {
    for line in [
        "# CAIRN stage_in /a",
        "#cairn stage_in /a",
        "  #CAIRN stage_in /a",
    ] {
        let found = parse(line.as_bytes()).unwrap();
        assert_eq!((found.all.len(), found.ignored.len()), (0, 1), "{line}");
    }
    for line in ["#CAIRNS stage_in /a", "# cairn is nice", "#", "", "# CAIRN"] {
        let found = parse(line.as_bytes()).unwrap();
        assert_eq!(found, Directives::default(), "{line}");
    }
}

#[test]
fn mistakes_have_a_place_and_a_way_out() {
    let shown = |line: &str| {
        let w = wrong(line);
        let hint = w
            .hint
            .as_deref()
            .map_or(String::new(), |h| format!("\n  hint: {h}"));
        format!("{line}\n  {w}{hint}\n")
    };
    let lines = [
        "#CAIRN",
        "#CAIRN optional",
        "#CAIRN stagein /a",
        "#CAIRN fetch /a",
        "#CAIRN stage_in",
        "#CAIRN stage_in ''",
        "#CAIRN stage_in @",
        "#CAIRN stage_in 'a",
        "#CAIRN stage_in /ä/b pni=1d",
        "#CAIRN stage_in /a /b",
        "#CAIRN stage_in /a pin=1x",
        "#CAIRN stage_in /a pin=0s",
        "#CAIRN stage_in /a pin=31d",
        "#CAIRN stage_in /a pin=1d pin=2d",
        "#CAIRN stage_in ~/a",
        "#CAIRN stage_in $HOME/a",
        "#CAIRN stage_in /a \\",
        "#CAIRN stage_out /a",
        "#CAIRN stage_out /a archive=",
        "#CAIRN stage_out /a* archive=cold",
        "#CAIRN stage_out /a tier=cold",
    ];
    let all: String = lines.iter().map(|line| shown(line)).collect();
    insta::assert_snapshot!(all);
}

#[test]
fn all_mistakes_are_told_at_once_and_many_directives_are_refused() {
    let two = parse(b"#CAIRN stage_in\n#CAIRN x\n").unwrap_err();
    assert_eq!(two.iter().map(|w| w.line).collect::<Vec<_>>(), [1, 2]);
    let many = "#CAIRN stage_in /a\n".repeat(MOST + 1);
    let refused = parse(many.as_bytes()).unwrap_err();
    assert_eq!(refused[0].line, MOST + 1);
}

/// A name as a careful author would write it.
fn quoted(name: &[u8]) -> Vec<u8> {
    let mut text = b"'".to_vec();
    for byte in name {
        if *byte == b'\'' {
            text.extend(b"'\\''");
        } else {
            text.push(*byte);
        }
    }
    text.push(b'\'');
    text
}

proptest! {
    #[test]
    fn no_text_is_too_strange(script in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&script));
        let mut line = b"#CAIRN ".to_vec();
        line.extend(&script);
        if let Err(wrong) = parse(&line) {
            for one in wrong {
                prop_assert!(one.line >= 1 && one.column >= 1);
            }
        }
    }

    #[test]
    fn every_name_can_be_quoted(
        name in proptest::collection::vec(
            any::<u8>().prop_filter("no line", |b| !matches!(b, 0 | b'\n')), 1..40),
        crlf: bool,
    ) {
        let mut script = b"#!/bin/sh\n#CAIRN stage_in ".to_vec();
        script.extend(quoted(&name));
        script.extend(if crlf { &b" pin=1h\r\n"[..] } else { &b" pin=1h\n"[..] });
        let found = parse(&script).unwrap();
        let what = What::StageIn {
            source: Source::Path(name),
            pin: Some(Duration::from_secs(3600)),
        };
        prop_assert_eq!(&found.all[0].what, &what);
    }
}
