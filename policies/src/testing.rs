//! Files, runs and random policies for the tests of this crate; and a JSON writer, so that the
//! serialised plan is frozen here without a JSON package.

pub(crate) mod json;

use crate::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const NOW: Moment = Moment(1_000_000 * 1_000_000_000);

pub(crate) fn secs(secs: u64) -> Span {
    Span::from_secs(secs).unwrap()
}

/// An archived file of 1 MiB with one copy, last touched `age` seconds before [`NOW`].
pub(crate) fn file(node: u64, age: u64) -> FileFacts {
    let then = NOW.before(secs(age));
    FileFacts {
        node: NodeKey(node),
        path: format!("dir/file{node}").into_bytes(),
        size: ByteCount(1 << 20),
        blocks: ByteCount(1 << 20),
        uid: 1000,
        gid: 100,
        mtime: then,
        atime: then,
        ctime: then,
        state: FileState::Archived,
        flags: Flags::default(),
        nlink: 1,
        pinned_until: None,
        staged_at: None,
        copies: 1,
    }
}

/// A run of all due rules, none of which ran before, with `used` of 100 MiB in use.
pub(crate) fn run(used_mib: u64) -> RunInput {
    RunInput {
        now: NOW,
        usage: Usage {
            used: ByteCount(used_mib << 20),
            total: ByteCount(100 << 20),
        },
        select: Select::Due(BTreeMap::new()),
        release_allowed: Ok(()),
    }
}

pub(crate) fn named(names: &[&str], used_mib: u64) -> RunInput {
    RunInput {
        select: Select::Named(names.iter().map(|name| (*name).to_owned()).collect()),
        ..run(used_mib)
    }
}

#[track_caller]
pub(crate) fn policy(text: &str) -> Policy {
    Policy::parse("test.policy", text).unwrap_or_else(|error| panic!("{error}"))
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![
        0..5000_u64,
        Just(3600),
        Just(86_400),
        Just(Span::MAX.secs())
    ]
    .prop_map(secs)
}

fn size() -> impl Strategy<Value = ByteCount> {
    prop_oneof![0..5_u64, 60_000..70_000_u64, Just(1 << 20), any::<u64>()].prop_map(ByteCount)
}

fn compare() -> impl Strategy<Value = Compare> {
    prop::sample::select(vec![
        Compare::Less,
        Compare::AtMost,
        Compare::Equal,
        Compare::AtLeast,
        Compare::More,
    ])
}

fn time() -> impl Strategy<Value = TimeOf> {
    prop::sample::select(TimeOf::ALL.to_vec())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let texts = [
        "*",
        "**",
        "a*",
        "dir/**",
        "*.\"o\"",
        "[ab]?",
        "{x,dir}/*",
        "\\*",
        "é",
    ];
    prop::sample::select(texts.to_vec()).prop_map(|text| Pattern::new(text).unwrap())
}

fn leaf() -> impl Strategy<Value = Condition> {
    prop_oneof![
        pattern().prop_map(Condition::Path),
        pattern()
            .prop_filter("names have no slash", |p| !p.text().contains('/'))
            .prop_map(Condition::Name),
        (compare(), size()).prop_map(|(c, s)| Condition::Size(c, s)),
        (0..3_u32).prop_map(Condition::Owner),
        (0..3_u32).prop_map(Condition::Group),
        (compare(), 0..3_u64).prop_map(|(c, n)| Condition::Links(c, n)),
        (compare(), 0..3_u64).prop_map(|(c, n)| Condition::Copies(c, n)),
        prop::sample::subsequence(FileState::ALL.to_vec(), 1..=5)
            .prop_map(|states| Condition::State(StateSet::of(&states))),
        Just(Condition::Flagged(Flag::NoArchive)),
        Just(Condition::Flagged(Flag::NoRelease)),
        (time(), span()).prop_map(|(t, s)| Condition::NotFor(t, s)),
        (time(), span()).prop_map(|(t, s)| Condition::Within(t, s)),
        span().prop_map(Condition::Unchanged),
        Just(Condition::ANY_FILE),
    ]
}

/// Conditions as reading yields them.
pub(crate) fn condition() -> impl Strategy<Value = Condition> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::Any),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}

fn trigger(verb: Verb) -> BoxedStrategy<Trigger> {
    let marks = (0..9_999_u16, 1..10_000_u16).prop_map(|(low, more)| Trigger::Watermark {
        low: Percent::from_hundredths(low).unwrap(),
        high: Percent::from_hundredths((low + more).min(10_000)).unwrap(),
    });
    let others = prop_oneof![
        (1..100_000_u64).prop_map(|s| Trigger::Every(secs(s))),
        Just(Trigger::Manual),
        Just(Trigger::Never),
    ];
    match verb {
        Verb::Archive => others.boxed(),
        Verb::Release => prop_oneof![marks, others].boxed(),
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let orders = vec![Order::OldestAccess, Order::OldestChange, Order::Largest];
    let limits = (
        prop::option::of(1..6_u64),
        prop::option::of((1..5_000_000_u64).prop_map(ByteCount)),
    );
    prop::sample::select(Verb::ALL.to_vec())
        .prop_flat_map(move |verb| {
            let order = prop::sample::select(orders.clone());
            (
                Just(verb),
                condition(),
                trigger(verb),
                order,
                limits.clone(),
            )
        })
        .prop_map(|(verb, condition, trigger, order, (files, bytes))| Rule {
            verb,
            name: String::new(),
            condition,
            trigger,
            order,
            limits: Limits { files, bytes },
        })
}

/// Policies as reading yields them: classes `c0`, `c1`, ... of which each rule is a part of one,
/// and rules `r0`, `r1`, ...
pub(crate) fn any_policy() -> impl Strategy<Value = Policy> {
    let classes = prop::collection::vec(condition(), 0..3);
    let rules = prop::collection::vec((rule(), any::<prop::sample::Index>()), 0..4);
    (1..=3_u32, span(), classes, rules).prop_map(|(copies, keep_staged, classes, rules)| {
        let classes: Vec<Class> = classes
            .into_iter()
            .enumerate()
            .map(|(i, body)| Class {
                name: format!("c{i}"),
                condition: Arc::new(body),
            })
            .collect();
        let rules = rules.into_iter().enumerate().map(|(i, (mut rule, pick))| {
            rule.name = format!("r{i}");
            if !classes.is_empty() {
                let class = pick.get(&classes);
                let used = Condition::Class(class.name.clone(), Arc::clone(&class.condition));
                rule.condition = Condition::Any(vec![rule.condition, used]);
            }
            rule
        });
        Policy {
            settings: Settings {
                copies,
                keep_staged,
            },
            rules: rules.collect(),
            classes,
            origin: policy::Origin::default(),
        }
    })
}

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![
        (0..10_000_u64).prop_map(|s| NOW.before(secs(s))),
        (0..10_000_u64).prop_map(|s| NOW.after(secs(s))),
        any::<i64>().prop_map(Moment),
    ]
}

/// Any file with this number.
pub(crate) fn any_file(node: u64) -> impl Strategy<Value = FileFacts> {
    let paths = ["dir/a", "a", "x/b.o", "*", "é", "dir/deep/a"];
    (
        prop::sample::select(paths.to_vec()),
        (size(), size()),
        (0..3_u32, 0..3_u32, 0..3_u64, 0..4_u32),
        (moment(), moment(), moment()),
        prop::sample::select(FileState::ALL.to_vec()),
        (any::<bool>(), any::<bool>()),
        (prop::option::of(moment()), prop::option::of(moment())),
    )
        .prop_map(
            move |(path, sizes, ids, times, state, flags, kept)| FileFacts {
                node: NodeKey(node),
                path: path.as_bytes().to_vec(),
                size: sizes.0,
                blocks: sizes.1,
                uid: ids.0,
                gid: ids.1,
                nlink: ids.2,
                copies: ids.3,
                mtime: times.0,
                atime: times.1,
                ctime: times.2,
                state,
                flags: Flags {
                    noarchive: flags.0,
                    norelease: flags.1,
                },
                pinned_until: kept.0,
                staged_at: kept.1,
            },
        )
}

/// Files numbered from 0.
pub(crate) fn any_files() -> impl Strategy<Value = Vec<FileFacts>> {
    prop::collection::vec(any_file(0), 0..20).prop_map(|mut files| {
        for (node, file) in files.iter_mut().enumerate() {
            file.node = NodeKey(node as u64);
        }
        files
    })
}
