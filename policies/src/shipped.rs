//! The policies that come with Cairn, as text.

/// The default: archive what has not changed for a while; release, oldest access first, above a
/// high watermark down to a low one.
pub const DEFAULT: &str = include_str!("../shipped/default.policy");

/// For `cairn demo`: archives and releases at once, whatever the usage. Its rules are `manual`,
/// named `all` and `large`.
pub const DEMO: &str = include_str!("../shipped/demo.policy");

#[cfg(test)]
mod tests {
    use crate::{Policy, Trigger};

    #[test]
    fn shipped_policies_are_read_without_a_doubt() {
        for (name, text) in [
            ("default.policy", super::DEFAULT),
            ("demo.policy", super::DEMO),
        ] {
            let policy = Policy::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(policy.warnings(), [], "{name}");
            assert_eq!(
                Policy::parse(name, &policy.to_string()).as_ref(),
                Ok(&policy)
            );
        }
    }

    #[test]
    fn both_marks_of_the_default_are_changed_in_one_place() {
        let text = super::DEFAULT
            .replace("let high = 85 %", "let high = 90 %")
            .replace("let low  = 75 %", "let low  = 60 %");
        let policy = Policy::parse("changed", &text).unwrap();
        let trigger = policy.rule("by-watermark").map(|rule| rule.trigger);
        let marks = trigger.map(|trigger| trigger.to_string());
        assert_eq!(marks.as_deref(), Some("above 90 % down to 60 %"));
        assert!(matches!(trigger, Some(Trigger::Watermark { .. })));
    }
}
