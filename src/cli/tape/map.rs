//! A cartridge as a drawing in text: along the tape from left to right, its wraps from top to bottom.
//! A tape is written to and fro: on every other wrap what comes later lies further to the left.

use crate::config::units::shown::Bytes;
use crate::server::wire::TapeView;

/// Columns of the drawing.
const COLUMNS: usize = 72;
/// Rows at most; a row has as many wraps as it takes.
const ROWS: u32 = 52;

/// What lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Files that are needed.
    Live,
    /// Files that were deleted.
    Dead,
    /// Files that are bad.
    Bad,
}

/// A stretch of the tape, bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stretch {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) kind: Kind,
}

/// A stretch on one wrap, as shares of the tape's length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Piece {
    pub(super) wrap: u32,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) kind: Kind,
}

/// What lies on the tape, neighbours of one kind together.
pub(super) fn stretches(view: &TapeView) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for (n, file) in view.contents.iter().enumerate() {
        let next = view
            .contents
            .get(n + 1)
            .map_or(view.cartridge.used, |f| f.at);
        let kind = match (&file.bad, file.dead) {
            (Some(_), _) => Kind::Bad,
            (None, true) => Kind::Dead,
            (None, false) => Kind::Live,
        };
        // Positions are shares of a length: exact enough.
        let (from, to) = (file.at as f64, next.max(file.at) as f64);
        match all.last_mut() {
            Some(last) if last.kind == kind => last.to = to,
            _ => all.push(Stretch { from, to, kind }),
        }
    }
    all
}

/// The same, cut at the ends of the tape.
pub(super) fn pieces(view: &TapeView) -> Vec<Piece> {
    let wraps = view.wraps.max(1);
    let wrap_bytes = (view.cartridge.capacity.max(1) as f64) / f64::from(wraps);
    let mut pieces = Vec::new();
    for Stretch { from, to, kind } in stretches(view) {
        let (from, to) = (from / wrap_bytes, to / wrap_bytes);
        // Not negative, and at most the number of wraps.
        let first = (from.floor() as u32).min(wraps - 1);
        let last = (to.floor() as u32).min(wraps - 1);
        for wrap in first..=last {
            let begin = (from - f64::from(wrap)).clamp(0.0, 1.0);
            let end = (to - f64::from(wrap)).clamp(0.0, 1.0);
            if end <= begin {
                continue;
            }
            let (left, right) = match wrap.is_multiple_of(2) {
                true => (begin, end),
                false => (1.0 - end, 1.0 - begin),
            };
            pieces.push(Piece {
                wrap,
                left,
                right,
                kind,
            });
        }
    }
    pieces
}

/// Draws it.
pub(super) fn draw(view: &TapeView) -> Vec<String> {
    let wraps = view.wraps.max(1);
    let a_row = wraps.div_ceil(ROWS);
    let rows = wraps.div_ceil(a_row) as usize;
    // How much of each kind is in a cell.
    let mut cells = vec![[[0.0_f64; 3]; COLUMNS]; rows];
    for piece in pieces(view) {
        let Some(row) = cells.get_mut((piece.wrap / a_row) as usize) else {
            continue;
        };
        for (column, cell) in row.iter_mut().enumerate() {
            let width = 1.0 / COLUMNS as f64;
            let left = column as f64 * width;
            let share = piece.right.min(left + width) - piece.left.max(left);
            if share > 0.0 {
                cell[piece.kind as usize] += share;
            }
        }
    }
    let mut lines = Vec::with_capacity(rows + 3);
    for (number, row) in cells.iter().enumerate() {
        let first = number as u32 * a_row;
        let last = (first + a_row).min(wraps) - 1;
        let line: String = row.iter().map(sign).collect();
        lines.push(format!("{first:>3}-{last:<3} {line}"));
    }
    let each = Bytes(view.cartridge.capacity / u64::from(wraps));
    lines.push(format!(
        "wraps (of {each} each) from top to bottom, the tape from its beginning (left) to its end"
    ));
    lines.push("# live   - dead   ! bad   . free".to_owned());
    lines
}

fn sign(cell: &[f64; 3]) -> char {
    let [live, dead, bad] = *cell;
    if bad > 0.0 {
        '!'
    } else if live + dead <= 0.0 {
        '.'
    } else if live >= dead {
        '#'
    } else {
        '-'
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::server::wire::{TapeCartridge, TapeErrors, TapeFileView};

    /// A cartridge of 4 wraps of 100 bytes: 90 live, 60 dead, 30 bad, 20 live.
    pub(in crate::cli::tape) fn sample() -> TapeView {
        let lens = [
            (90, false, None),
            (60, true, None),
            (30, false, Some("x")),
            (20, false, None),
        ];
        let mut at = 0;
        let contents = lens.map(|(len, dead, bad)| {
            let file = TapeFileView {
                object: format!("e00000001-00000000000{at:x}"),
                block: at,
                blocks: 1,
                at,
                len,
                crc32c: "00000000".into(),
                dead,
                bad: bad.map(str::to_owned),
            };
            at += len;
            file
        });
        TapeView {
            tier: "cold <&>".into(),
            wraps: 4,
            cartridge: TapeCartridge {
                barcode: "BAA001L8".into(),
                generation: "LTO-8".into(),
                capacity: 400,
                used: at,
                files: 4,
                live: 140,
                dead: 60,
                bad: 1,
                slot: 1,
                pool: None,
                drive: None,
                away: None,
                state: Vec::new(),
                why: None,
                mounts: 1,
                freed: 0,
                errors: TapeErrors::default(),
            },
            contents: contents.to_vec(),
        }
    }

    #[test]
    fn a_tape_is_drawn_to_and_fro() {
        let lines = draw(&sample());
        let row = |n: usize| {
            lines[n]
                .split_whitespace()
                .nth(1)
                .expect("cells")
                .to_owned()
        };
        assert!(row(0).starts_with("#####") && row(0).ends_with("-----"));
        // The second wrap begins at the right: 50 dead, 30 bad, 20 live.
        let second = row(1);
        assert!(
            second.ends_with("-----") && second.starts_with("#####"),
            "{second}"
        );
        assert!(
            second[COLUMNS * 3 / 10..COLUMNS * 4 / 10].contains('!'),
            "{second}"
        );
        assert_eq!(row(2), ".".repeat(COLUMNS));
        assert_eq!(lines.len(), 4 + 2);
    }

    #[test]
    fn every_byte_is_in_one_piece() {
        let all: f64 = pieces(&sample()).iter().map(|p| p.right - p.left).sum();
        assert!((all - 2.0).abs() < 1e-9, "{all}");
        let mut empty = sample();
        empty.contents.clear();
        empty.cartridge.capacity = 0;
        assert!(pieces(&empty).is_empty());
    }
}
