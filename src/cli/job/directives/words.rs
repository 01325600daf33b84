//! A line in words, quoted as in a shell; each byte knows whether it was quoted.

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Where it begins, in bytes of the line.
    pub(super) at: usize,
    /// Its bytes, and whether each was quoted.
    bytes: Vec<(u8, bool)>,
}

/// What is wrong at a byte of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Mistake {
    pub(super) fn new(at: usize, message: String) -> Self {
        Self {
            at,
            message,
            hint: None,
        }
    }
    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }
}

impl Word {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// As it is meant.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.iter().map(|(b, _)| *b).collect()
    }
    /// For messages and words of the language.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
    /// Begins with this byte, not quoted?
    pub(super) fn begins_bare(&self, byte: u8) -> bool {
        self.bytes.first() == Some(&(byte, false))
    }
    /// Has one of these, not quoted?
    pub(super) fn has_bare(&self, any: &[u8]) -> bool {
        self.bytes.iter().any(|(b, q)| !q && any.contains(b))
    }
    pub(super) fn without_first(&self) -> Self {
        Self {
            at: self.at,
            bytes: self.bytes.get(1..).unwrap_or_default().to_vec(),
        }
    }
    /// As a pattern: what was quoted, and a pattern would act on, is escaped.
    pub(super) fn pattern(&self) -> Vec<u8> {
        let one = |(byte, quoted): &(u8, bool)| {
            let acts = matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\');
            let escape = (acts && *quoted).then_some(b'\\');
            escape.into_iter().chain(std::iter::once(*byte))
        };
        self.bytes.iter().flat_map(one).collect()
    }
}

/// The words of a line.
pub(super) fn split(line: &[u8]) -> Result<Vec<Word>, Mistake> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        at += line[at..]
            .iter()
            .take_while(|b| b.is_ascii_whitespace())
            .count();
        if line.get(at).is_none_or(|b| *b == b'#') {
            return Ok(words);
        }
        let (word, end) = word(line, at)?;
        words.push(word);
        at = end;
    }
}

/// The word that begins at `begin`, and where it ends.
fn word(line: &[u8], begin: usize) -> Result<(Word, usize), Mistake> {
    let mut bytes = Vec::new();
    let mut at = begin;
    // The quote that is open, and where it was opened.
    let mut open: Option<(u8, usize)> = None;
    while let Some(byte) = line.get(at) {
        let quote = open.map(|(quote, _)| quote);
        match (byte, quote) {
            (b'\0', _) => return Err(Mistake::new(at, "a NUL byte".to_owned())),
            (b'\'' | b'"', None) => open = Some((*byte, at)),
            (byte, Some(quote)) if *byte == quote => open = None,
            (b'\\', None | Some(b'"')) => match line.get(at + 1) {
                // Within "..." a backslash escapes what would end it, and itself.
                Some(next) if quote.is_none() || matches!(next, b'"' | b'\\') => {
                    bytes.push((*next, true));
                    at += 1;
                }
                Some(_) => bytes.push((b'\\', true)),
                None => {
                    let message = "a backslash at the end of the line".to_owned();
                    let hint = "a directive is one line; write one for each path";
                    return Err(Mistake::new(at, message).hint(hint));
                }
            },
            (byte, None) if byte.is_ascii_whitespace() => break,
            (byte, quote) => bytes.push((*byte, quote.is_some())),
        }
        at += 1;
    }
    if let Some((quote, opened)) = open {
        let message = format!("{} is not closed", char::from(quote));
        return Err(Mistake::new(opened, message).hint("a directive is one line"));
    }
    Ok((Word { at: begin, bytes }, at))
}
