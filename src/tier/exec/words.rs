//! A program's last words: the end of its stderr, bounded, and harmless on a terminal or in a log.

/// So much of it is kept, bytes.
const KEPT: usize = 4 << 10;
/// So many lines of that are shown.
const LINES: usize = 5;
/// And so many characters.
const SHOWN: usize = 600;

/// The end of a stream of any length.
#[derive(Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * KEPT {
            self.0.drain(..self.0.len() - KEPT);
        }
    }

    /// Its last lines in one, without control characters; empty if there are none.
    pub(super) fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        let joined = lines[lines.len().saturating_sub(LINES)..].join("; ");
        let shown: Vec<char> = joined.chars().collect();
        shown[shown.len().saturating_sub(SHOWN)..]
            .iter()
            .flat_map(|c| {
                let escaped = c.is_control() || is_direction(*c);
                let plain = (!escaped).then_some(*c);
                plain
                    .into_iter()
                    .chain(c.escape_unicode().filter(move |_| escaped))
            })
            .collect()
    }
}

/// Characters that turn the direction of what follows: they make a log line read as another one.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_last_few_lines_and_harmless() {
        let mut tail = Tail::default();
        for n in 0..100_000 {
            tail.push(format!("line {n}\n").as_bytes());
        }
        assert!(tail.0.len() <= 2 * KEPT);
        assert_eq!(
            tail.words(),
            "line 99995; line 99996; line 99997; line 99998; line 99999"
        );
        let mut tail = Tail::default();
        tail.push(b"\x1b[2J\xff bad\rword\n\n");
        tail.push("\u{202e}txt".as_bytes());
        assert_eq!(
            tail.words(),
            "\\u{1b}[2J\u{fffd} bad\\u{d}word; \\u{202e}txt"
        );
        let mut tail = Tail::default();
        tail.push(&[b'x'; 3 * KEPT]);
        assert_eq!(tail.words().len(), SHOWN);
        assert_eq!(Tail::default().words(), "");
    }
}
