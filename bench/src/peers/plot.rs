//! The same figures as a picture: for each cell a bar for each arm, server CPU per request, the part in user mode darker.

use super::arms::Arm;
use super::results::{Measured, Results};
use std::fmt::Write as _;

/// Panels beside each other.
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 480;
/// Room for the names of the arms, and for the figures right of the bars.
const NAMES_WIDTH: usize = 100;
const FIGURES_WIDTH: usize = 70;
const ROW_HEIGHT: usize = 20;
const TITLE_HEIGHT: usize = 34;

/// Returns an SVG document.
pub(crate) fn svg(results: &Results) -> String {
    let rows = results.cells.iter().map(|cell| cell.arms().count()).max().unwrap_or(0);
    let panel_height = TITLE_HEIGHT + rows * ROW_HEIGHT + 16;
    let lines = results.cells.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS * PANEL_WIDTH, lines * panel_height + 40);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Server CPU per hit in microseconds: median, whiskers at the quartiles, user mode dark</text>\n"
    );
    for (number, measured) in results.cells.iter().enumerate() {
        let x = number % COLUMNS * PANEL_WIDTH;
        let y = number / COLUMNS * panel_height + 30;
        // Formatting into a string cannot fail, here and below.
        let _ = writeln!(text, "<g transform=\"translate({x} {y})\">\n{}</g>", panel(measured));
    }
    text.push_str("</svg>\n");
    text
}

fn panel(measured: &Measured) -> String {
    let cpu = |arm| measured.spread(arm, |sample| sample.cpu_us);
    let longest = measured.arms().filter_map(cpu).map(|spread| spread.upper_quartile).fold(0.0, f64::max);
    let room = (PANEL_WIDTH - NAMES_WIDTH - FIGURES_WIDTH) as f64;
    let scale = if longest > 0.0 { room / longest } else { 0.0 };
    let left = NAMES_WIDTH as f64;
    let mut text = format!("<text x=\"10\" y=\"22\" font-weight=\"bold\">{}</text>\n", measured.cell);
    for (row, arm) in measured.arms().enumerate() {
        let Some(spread) = cpu(arm) else { continue };
        let user = measured.spread(arm, |sample| sample.user_us).map_or(0.0, |spread| spread.median);
        let top = TITLE_HEIGHT + row * ROW_HEIGHT;
        let (middle, base) = (top + ROW_HEIGHT / 2 - 2, top + ROW_HEIGHT - 6);
        let (pale, dark) = colours(arm);
        let (low, high) = (left + spread.lower_quartile * scale, left + spread.upper_quartile * scale);
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{left}\" y=\"{top}\" width=\"{:.1}\" height=\"15\" fill=\"{pale}\"/>\n\
             <rect x=\"{left}\" y=\"{top}\" width=\"{:.1}\" height=\"15\" fill=\"{dark}\"/>\n\
             <path d=\"M{low:.1} {middle}H{high:.1}\" stroke=\"#333333\"/>\n\
             <text x=\"{:.1}\" y=\"{base}\">{:.1}</text>",
            NAMES_WIDTH - 6,
            arm.name(),
            spread.median * scale,
            user.min(spread.median) * scale,
            high + 6.0,
            spread.median,
        );
    }
    text
}

/// Returns the colours of a bar and of its part in user mode.
fn colours(arm: Arm) -> (&'static str, &'static str) {
    match arm {
        Arm::Floor => ("#c9c9c9", "#7a7a7a"),
        Arm::Aspis => ("#8fc7a4", "#1f7a45"),
        _ => ("#a9c1e0", "#3f67a0"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{results, sample};
    use super::*;

    #[test]
    fn each_arm_has_its_bar_within_the_panel() {
        let results = results("1KiB/64", vec![vec![sample(Arm::Aspis, 6.0), sample(Arm::Squid, 60.0)]]);
        let text = svg(&results);
        assert_eq!(text.matches("<rect").count(), 1 + 2 * 2);
        assert!(text.contains(">squid</text>") && text.contains("width=\"310.0\""), "{text}");
        assert_eq!(text.matches("<g ").count(), text.matches("</g>").count());
    }
}
