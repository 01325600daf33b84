//! A cartridge as a picture: the drawing of [`super::map`] as SVG. Plain text, no script, no font and
//! nothing else from outside.

use super::map::{Kind, pieces};
use crate::config::units::shown::{Bytes, counted};
use crate::server::wire::TapeView;
use std::fmt::Write;

const LEFT: f64 = 60.0;
const TOP: f64 = 76.0;
const WIDTH: f64 = 860.0;
/// Height of all wraps together.
const HEIGHT: f64 = 416.0;
const STYLE: &str = "text{font-family:system-ui,sans-serif;font-size:12px;fill:#333}\
     .name{font-size:20px;font-weight:600;fill:#111}.small{font-size:11px;fill:#666}\
     .live{fill:#2f7d5b}.dead{fill:#c9a227}.bad{fill:#c0392b}.free{fill:#e9ebe8}";

/// Draws it.
pub(super) fn draw(view: &TapeView) -> String {
    let cartridge = &view.cartridge;
    let (wide, high) = (LEFT + WIDTH + 20.0, TOP + HEIGHT + 74.0);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" \
         viewBox=\"0 0 {wide} {high}\" role=\"img\">\n<title>Cartridge {name}</title>\n<style>{STYLE}</style>\n\
         <rect width=\"{wide}\" height=\"{high}\" fill=\"#fff\"/>\n",
        name = escaped(&cartridge.barcode)
    );
    let said = format!(
        "{} · {} · {} of {} used · {} · mounted {}",
        cartridge.generation,
        view.tier,
        Bytes(cartridge.used),
        Bytes(cartridge.capacity),
        counted(cartridge.files, "file"),
        counted(cartridge.mounts, "time"),
    );
    text(&mut out, (LEFT, 34.0), "name", &cartridge.barcode);
    text(&mut out, (LEFT, 56.0), "", &said);
    let _ = writeln!(
        out,
        "<rect class=\"free\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"3\"/>"
    );
    let row = HEIGHT / f64::from(view.wraps.max(1));
    for piece in pieces(view) {
        let x = LEFT + piece.left * WIDTH;
        let y = TOP + f64::from(piece.wrap) * row;
        let width = ((piece.right - piece.left) * WIDTH).max(0.3);
        let class = class(piece.kind);
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{row:.2}\"/>"
        );
    }
    axis(&mut out, view.wraps.max(1));
    legend(&mut out, view);
    out.push_str("</svg>\n");
    out
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Live => "live",
        Kind::Dead => "dead",
        Kind::Bad => "bad",
    }
}

/// The numbers of wraps at the left, the ends of the tape below.
fn axis(out: &mut String, wraps: u32) {
    let step = wraps.div_ceil(8).max(1);
    let row = HEIGHT / f64::from(wraps);
    for wrap in (0..wraps).step_by(step as usize) {
        let y = TOP + f64::from(wrap) * row + row.max(8.0);
        let label = format!("wrap {wrap}");
        text(out, (6.0, y), "small", &label);
    }
    let below = TOP + HEIGHT + 16.0;
    text(out, (LEFT, below), "small", "beginning of the tape");
    text(
        out,
        (LEFT + WIDTH - 78.0, below),
        "small",
        "end of the tape",
    );
}

fn legend(out: &mut String, view: &TapeView) {
    let cartridge = &view.cartridge;
    let bad: u64 = view
        .contents
        .iter()
        .filter(|f| f.bad.is_some())
        .map(|f| f.len)
        .sum();
    let free = cartridge.capacity.saturating_sub(cartridge.used);
    let kinds = [
        ("live", "needed", cartridge.live),
        ("dead", "deleted", cartridge.dead),
        ("bad", "bad", bad),
        ("free", "free", free),
    ];
    let y = TOP + HEIGHT + 40.0;
    for (n, (class, name, bytes)) in kinds.into_iter().enumerate() {
        let x = LEFT + n as f64 * 190.0;
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" rx=\"2\"/>"
        );
        let label = format!("{name}: {}", Bytes(bytes));
        text(out, (x + 20.0, y + 12.0), "", &label);
    }
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, said: &str) {
    let said = escaped(said);
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{said}</text>"
    );
}

/// Text as XML has it; what XML cannot hold is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tape::map::tests::sample;

    /// Every element is closed, in order, and no text holds what only markup may.
    fn is_well_formed(text: &str) -> bool {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            if rest[..at].contains('>') {
                return false;
            }
            let Some(end) = rest[at..].find('>') else {
                return false;
            };
            let tag = &rest[at + 1..at + end];
            rest = &rest[at + end + 1..];
            if tag.starts_with('?') || tag.ends_with('/') {
                continue;
            }
            match tag.strip_prefix('/') {
                Some(name) if open.pop() == Some(name) => {}
                Some(_) => return false,
                None => open.push(tag.split(' ').next().unwrap_or(tag)),
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_picture_is_well_formed_and_has_every_kind_and_a_legend() {
        let picture = draw(&sample());
        assert!(is_well_formed(&picture), "{picture}");
        for class in ["live", "dead", "bad", "free"] {
            let rects = picture.matches(&format!("<rect class=\"{class}\"")).count();
            assert!(
                rects >= 2 || class == "free" && rects == 2,
                "{class}: {rects}"
            );
        }
        assert!(picture.contains("cold &lt;&amp;&gt;"), "escaped");
        assert!(!is_well_formed("<a><b></a></b>") && !is_well_formed("<a>"));
    }
}
