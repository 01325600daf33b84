//! The nearest known word to a mistyped one, for hints ("did you mean ...?").

/// The word of `known` nearest to `word`, if any is near enough to be a slip of the fingers.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase();
    // A third of the letters may differ, but at least one and never all of them.
    let allowed = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), *k))
        .filter(|(distance, k)| *distance <= allowed && *distance < k.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// `; did you mean "x"?`, or a list of what is known if nothing is near.
#[must_use]
pub fn hint(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(k) => format!("; did you mean {k:?}?"),
        None => format!("; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let known = ["rate", "delay"];
        assert_eq!(nearest("rat", &known), Some("rate"));
        assert_eq!(nearest("dealy", &known), Some("delay"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
        assert!(hint("colour", &known).contains("rate, delay"));
    }
}
