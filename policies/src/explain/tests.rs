//! Tests of explanations.

use crate::testing::*;
use crate::*;
use proptest::prelude::*;

const SITE: &str = "
    class scratch = path \"tmp/**\"
    rule archive cold when unchanged for 1 h and not class scratch every 10 min
    rule release home when owner 7 never
    rule release by-watermark
        when size >= 64 KiB and not accessed for 1 h
        above 85 % down to 75 %";

#[test]
fn explanations_read_like_answers() {
    let mut shown = String::new();
    let mut show = |change: &dyn Fn(&mut FileFacts)| {
        let mut file = file(1, 1200);
        change(&mut file);
        shown += &format!("{}\n\n", explain(&policy(SITE), &run(60), &file));
    };
    show(&|_| {});
    show(&|file| file.state = FileState::New);
    show(&|file| {
        file.state = FileState::Dirty;
        file.ctime = NOW.before(secs(9000));
        file.mtime = file.ctime;
    });
    show(&|file| {
        file.state = FileState::New;
        file.path = b"tmp/\xff\n".to_vec();
        file.ctime = NOW.before(secs(9000));
        file.mtime = file.ctime;
    });
    show(&|file| file.uid = 7);
    show(&|file| {
        file.atime = NOW.before(secs(90_000));
        file.pinned_until = Some(NOW.after(secs(5000)));
    });
    show(&|file| file.atime = NOW.before(secs(90_000)));
    show(&|file| file.size = ByteCount(100));
    show(&|file| file.state = FileState::Released);
    show(&|file| file.state = FileState::Lost);
    show(&|file| file.atime = NOW.after(secs(60)));
    insta::assert_snapshot!(shown);
}

proptest! {
    /// What is promised for a moment comes true at that moment, and not a nanosecond earlier.
    #[test]
    fn the_moment_of_change_is_exact(policy in any_policy(), file in any_file(0)) {
        let now = explain(&policy, &run(50), &file);
        for (i, verb) in now.verbs.iter().enumerate() {
            let Some(from) = verb.taken_from else { continue };
            for (moment, expected) in [(from, true), (Moment(from.0 - 1), false)] {
                let then = explain(&policy, &RunInput { now: moment, ..run(50) }, &file);
                let taken = matches!(then.verbs[i].verdict, Verdict::Taken { .. });
                prop_assert_eq!(taken, expected);
            }
        }
    }

    #[test]
    fn what_is_planned_is_explained_as_taken(policy in any_policy(), file in any_file(0)) {
        let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        let input = named(&names, 100);
        let plan = plan(&policy, &input, [file.clone()]);
        let explanation = explain(&policy, &input, &file);
        let _ = explanation.to_string();
        for part in plan.rules.iter().filter(|part| !part.files.is_empty()) {
            let verb = explanation.verbs.iter().find(|verb| verb.verb == part.verb).unwrap();
            let by_it = matches!(&verb.verdict, Verdict::Taken { waits: None, rule, .. }
                if rule.ends_with(&format!("/{}", part.rule)));
            prop_assert!(by_it, "{explanation}");
        }
        for verb in &explanation.verbs {
            for refusal in &verb.refusals {
                prop_assert!(!refusal.missing.is_empty(), "{}", refusal.rule);
            }
        }
    }
}
