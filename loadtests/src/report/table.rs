//! The report on a terminal.

use std::io::{self, Write};

use super::{Figure, Report, Spread, Summary};

/// Everything, scenario by scenario.
pub fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for fsync in &report.machine.fsync {
        writeln!(out, "fsync of 4 KiB, {}: p50 {}, p99 {}", fsync.name, micros(fsync.p50), micros(fsync.p99))?;
    }
    let mut last = "";
    for summary in &report.summaries {
        if summary.scenario != last {
            writeln!(out, "\n{}", summary.scenario)?;
            last = &summary.scenario;
        }
        writeln!(out, "  {} ({})", summary.subject, summary.about)?;
        lines(out, summary)?;
    }
    if !report.missing.is_empty() {
        writeln!(out)?;
    }
    for missing in &report.missing {
        writeln!(out, "missing: {}: {}", missing.peer, missing.why)?;
    }
    if !report.goals.is_empty() {
        crate::goals::print(out, &report.goals)?;
    }
    let wrongs = report.wrongs();
    let checks: usize = report.summaries.iter().map(|summary| summary.checks.len()).sum();
    writeln!(out, "\n{checks} checks, {} wrong", wrongs.len())?;
    wrongs.iter().try_for_each(|wrong| writeln!(out, "WRONG: {wrong}"))
}

fn lines(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    for figure in &summary.figures {
        writeln!(out, "    {:<40} {}", figure.name, value(figure))?;
    }
    for spread in &summary.spreads {
        let Spread { name, count, p50, p90, p99, p999, max, .. } = spread;
        let tail = format!("p99.9 {}, max {} of {count}", micros(*p999), micros(*max));
        writeln!(out, "    {name:<40} p50 {}, p90 {}, p99 {}, {tail}", micros(*p50), micros(*p90), micros(*p99))?;
    }
    for check in &summary.checks {
        match &check.wrong {
            None => writeln!(out, "    ok: {}", check.what)?,
            Some(wrong) => writeln!(out, "    WRONG: {}: {wrong}", check.what)?,
        }
    }
    Ok(())
}

/// A figure with its unit, and its spread where there is one.
pub fn value(figure: &Figure) -> String {
    let unit = figure.unit;
    let space = if unit.is_empty() || unit.starts_with('/') { "" } else { " " };
    let spread = match figure.high > figure.low {
        true => format!("  ({} to {})", number(figure.low), number(figure.high)),
        false => String::new(),
    };
    format!("{}{space}{unit}{spread}", number(figure.value))
}

/// Three digits, no more than there are.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{value:.digits$}");
    if value.abs() < 10_000.0 {
        return plain;
    }
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain.as_str()), |digits| ("-", digits));
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{sign}{}", groups.join(","))
}

/// Microseconds in the unit that suits them.
pub fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", number(micros as f64 / 1e3)),
        _ => format!("{} s", number(micros as f64 / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_groups() {
        let told: Vec<_> = [0.25, 2.5, 25.0, 250.4, 9_999.0, 36_512.3, 1_234_567.0].map(number).into();
        assert_eq!(told, ["0.250", "2.50", "25.0", "250", "9999", "36,512", "1,234,567"]);
        assert_eq!([999, 1_500, 2_000_000].map(micros), ["999 µs", "1.50 ms", "2.00 s"]);
    }
}
