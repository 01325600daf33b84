//! Medians, percentiles, and Markdown tables.

/// A Markdown table that is printed row by row.
pub(crate) struct Table;

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        println!("| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
        Self
    }

    pub(crate) fn row(&self, cells: &[String]) {
        println!("| {} |", cells.join(" | "));
    }
}

/// The value that `share` of the others are below, 0 of none.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(0.0)
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

/// Median and range, with so many digits behind the point.
pub(crate) fn spread(values: &mut [f64], digits: usize) -> String {
    let (low, high) = (percentile(values, 0.0), percentile(values, 1.0));
    format!(
        "{:.digits$} ({low:.digits$}..{high:.digits$})",
        median(values)
    )
}
