//! Plots as inline SVG: latency curves, the holders of a slot over time, and waits by arrival.

use std::fmt::Write as _;

use super::{Spread, table::micros};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;
/// How many subjects have a colour of their own; see the page's style.
pub const COLOURS: usize = 10;

/// A drawing that grows.
struct Svg {
    text: String,
    height: f64,
}

impl Svg {
    fn new(height: f64, title: &str) -> Svg {
        let title = super::html::escape(title);
        let text =
            format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#);
        Svg { text, height }
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(part);
    }

    fn label(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = super::html::escape(text);
        self.add(format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.add(format_args!(r#"<line class="grid" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    fn end(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }

    fn bottom(&self) -> f64 {
        self.height - BOTTOM
    }
}

/// Where a time stands on a logarithmic axis.
struct LogAxis {
    low: f64,
    high: f64,
}

impl LogAxis {
    /// From a power of ten below all of these to one above.
    fn over(values: impl Iterator<Item = u64> + Clone) -> Option<LogAxis> {
        let low = values.clone().min()?.max(1) as f64;
        let high = values.max()? as f64;
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        Some(LogAxis { low, high: if high > low { high } else { low + 1.0 } })
    }

    fn at(&self, value: u64) -> f64 {
        ((value.max(1) as f64).log10() - self.low) / (self.high - self.low)
    }

    /// Its powers of ten.
    fn steps(&self) -> impl Iterator<Item = u64> {
        (self.low as u32..=self.high as u32).map(|power| 10_u64.pow(power))
    }
}

/// One curve for each of them: how many of all times were how short.
pub fn curves(title: &str, all: &[(usize, &Spread)]) -> Option<String> {
    let values = all.iter().flat_map(|(_, spread)| spread.curve.iter().map(|(_, value)| *value));
    let axis = LogAxis::over(values)?;
    let most = all.iter().map(|(_, spread)| spread.count).max()?.max(10) as f64;
    // So many nines as there are times to tell them.
    let nines = most.log10().ceil().clamp(1.0, 5.0);
    let mut svg = Svg::new(HEIGHT, title);
    let (bottom, width) = (svg.bottom(), WIDTH - LEFT - RIGHT);
    let y = |value: u64| bottom - axis.at(value) * (bottom - TOP);
    let x = |quantile: f64| LEFT + (-(1.0 - quantile).log10()).clamp(0.0, nines) / nines * width;
    for step in axis.steps() {
        svg.line((LEFT, y(step)), (WIDTH - RIGHT, y(step)));
        svg.label(LEFT - 6.0, y(step) + 4.0, "end", &micros(step));
    }
    for (quantile, name) in [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")] {
        if x(quantile) < WIDTH - RIGHT {
            svg.line((x(quantile), TOP), (x(quantile), bottom));
            svg.label(x(quantile), bottom + 16.0, "middle", name);
        }
    }
    for (colour, spread) in all {
        let points: Vec<String> =
            spread.curve.iter().map(|(quantile, value)| format!("{:.1},{:.1}", x(*quantile), y(*value))).collect();
        svg.add(format_args!(r#"<polyline class="curve c{colour}" points="{}"/>"#, points.join(" ")));
    }
    svg.label(WIDTH - RIGHT, svg.height - 4.0, "end", "part of all that were this fast");
    Some(svg.end())
}

/// A row for each client, a bar for each hold.
pub fn timeline(title: &str, colour: usize, holds: &[(usize, u64, u64)]) -> Option<String> {
    let rows = holds.iter().map(|(client, ..)| *client).max()? + 1;
    let end = holds.iter().map(|(.., to)| *to).max()?.max(1) as f64;
    let row = (200.0 / rows as f64).clamp(2.0, 12.0);
    let mut svg = Svg::new(TOP + row * rows as f64 + BOTTOM, title);
    let (bottom, width) = (svg.bottom(), WIDTH - LEFT - RIGHT);
    let x = |at: f64| LEFT + at / end * width;
    for part in 0..=4 {
        let at = end * f64::from(part) / 4.0;
        svg.line((x(at), TOP), (x(at), bottom));
        let anchor = if part == 4 { "end" } else { "middle" };
        svg.label(x(at), bottom + 16.0, anchor, &micros(at as u64));
    }
    for (client, from, to) in holds {
        let (from, to) = (x(*from as f64), x(*to as f64));
        let (y, width, height) = (TOP + row * *client as f64, (to - from).max(1.0), (row - 0.5).max(1.5));
        svg.add(format_args!(
            r#"<rect class="bar c{colour}" x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
        ));
    }
    svg.label(LEFT - 6.0, TOP + 10.0, "end", "first");
    svg.label(LEFT - 6.0, bottom, "end", "last");
    Some(svg.end())
}

/// A point for each client, by arrival; all subjects in one.
pub fn waits(title: &str, all: &[(usize, &[u64])]) -> Option<String> {
    let count = all.iter().map(|(_, waits)| waits.len()).max().filter(|count| *count > 1)?;
    let most = all.iter().flat_map(|(_, waits)| waits.iter().copied()).max()?.max(1) as f64;
    let mut svg = Svg::new(HEIGHT, title);
    let (bottom, width) = (svg.bottom(), WIDTH - LEFT - RIGHT);
    let y = |value: f64| bottom - value / most * (bottom - TOP);
    let x = |at: usize| LEFT + at as f64 / (count - 1) as f64 * width;
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        svg.line((LEFT, y(value)), (WIDTH - RIGHT, y(value)));
        svg.label(LEFT - 6.0, y(value) + 4.0, "end", &micros(value as u64));
    }
    for (colour, waits) in all {
        for (at, wait) in waits.iter().enumerate() {
            let (x, y) = (x(at), y(*wait as f64));
            svg.add(format_args!(r#"<circle class="bar c{colour}" cx="{x:.1}" cy="{y:.1}" r="2.4"/>"#));
        }
    }
    svg.label(LEFT, bottom + 16.0, "start", "came first");
    svg.label(WIDTH - RIGHT, bottom + 16.0, "end", "came last");
    Some(svg.end())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::Times;

    #[test]
    fn each_plot_draws_what_there_is() {
        let times: Times = (1..1000).map(Duration::from_micros).collect();
        let drawn = curves("t", &[(0, &times.spread("x"))]).expect("there are times");
        assert!(drawn.contains("polyline") && drawn.contains("99 %") && drawn.contains("1.00 ms"), "{drawn}");
        let drawn = timeline("t", 1, &[(0, 0, 10), (1, 10, 20)]).expect("there are holds");
        assert_eq!(drawn.matches("<rect").count(), 2);
        let drawn = waits("a < b", &[(0, &[1, 2, 3])]).expect("there are waits");
        assert_eq!(drawn.matches("<circle").count(), 3);
        assert!(drawn.contains("a &lt; b"));
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(curves("t", &[(0, &Times::default().spread("x"))]), None);
        assert_eq!(timeline("t", 0, &[]), None);
        assert_eq!(waits("t", &[(0, &[])]), None);
    }
}
