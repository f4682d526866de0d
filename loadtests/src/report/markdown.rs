//! The report as Markdown tables, for the documentation.

use std::fmt::Write as _;

use super::{
    Report, Summary,
    table::{micros, value},
};
use crate::goals::{Goal, Verdict};

/// Goals first, then a table a scenario: a row a figure, a column a subject.
pub fn tables(report: &Report) -> String {
    let mut text = String::new();
    for fsync in &report.machine.fsync {
        add(
            &mut text,
            format_args!("fsync of 4 KiB {}: p50 {}, p99 {}  \n", fsync.name, micros(fsync.p50), micros(fsync.p99)),
        );
    }
    if !report.goals.is_empty() {
        text.push_str("\n| goal | what | found | wanted | |\n|---|---|---|---|---|\n");
    }
    for Goal { id, what, found, wanted, verdict } in &report.goals {
        let verdict = match verdict {
            Verdict::Met => "met",
            Verdict::NotMet => "**not met**",
            Verdict::Unknown(why) => why,
            Verdict::NotRun => "not run",
        };
        let cells = [*id, what, found, wanted, verdict].map(cell).join(" | ");
        add(&mut text, format_args!("| {cells} |\n"));
    }
    let mut scenarios: Vec<&str> = report.summaries.iter().map(|summary| summary.scenario.as_str()).collect();
    scenarios.dedup();
    for scenario in scenarios {
        let part: Vec<_> = report.summaries.iter().filter(|summary| summary.scenario == scenario).collect();
        scenario_table(&mut text, scenario, &part);
    }
    for missing in &report.missing {
        add(&mut text, format_args!("\nNot measured: {}: {}\n", missing.peer, missing.why));
    }
    text
}

fn scenario_table(text: &mut String, scenario: &str, part: &[&Summary]) {
    let heads: String = part.iter().map(|summary| format!(" {} |", cell(&summary.subject))).collect();
    let rule = "---|".repeat(part.len() + 1);
    add(text, format_args!("\n### {scenario}\n\n| |{heads}\n|{rule}\n"));
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for (column, summary) in part.iter().enumerate() {
        let figures = summary.figures.iter().map(|figure| (figure.name.as_str(), value(figure)));
        let spreads = summary.spreads.iter().map(|spread| {
            let [p50, p99, max] = [spread.p50, spread.p99, spread.max].map(micros);
            (spread.name.as_str(), format!("p50 {p50}, p99 {p99}, max {max}"))
        });
        for (index, (name, told)) in figures.chain(spreads).enumerate() {
            let at = rows.iter().position(|(known, cells)| *known == name && cells[column].is_empty());
            let at = at.unwrap_or_else(|| {
                let at = index.min(rows.len());
                rows.insert(at, (name, vec![String::new(); part.len()]));
                at
            });
            rows[at].1[column] = told;
        }
    }
    for (name, cells) in rows {
        let cells: Vec<_> = cells.iter().map(|told| cell(told)).collect();
        add(text, format_args!("| {} | {} |\n", cell(name), cells.join(" | ")));
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("  ", " ")
}

fn add(text: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Machine, Outcome};

    #[test]
    fn a_row_holds_the_same_figure_of_all() {
        let of = |subject: &str, figures: &[(&str, f64)]| {
            let mut outcome = Outcome::default();
            figures.iter().for_each(|(name, value)| outcome.figure(name, *value, ""));
            Summary::of("race", subject, "", vec![outcome])
        };
        let summaries = vec![of("ours", &[("total", 1.0), ("commits", 2.0)]), of("theirs", &[("total", 3.0)])];
        let machine = Machine { cpus: 2, store: String::new(), fsync: Vec::new() };
        let report = Report {
            machine,
            small: false,
            rounds: 1,
            missing: Vec::new(),
            failures: Vec::new(),
            goals: Vec::new(),
            summaries,
        };
        let told = tables(&report);
        assert!(
            told.contains("| | ours | theirs |\n|---|---|---|\n| total | 1.00 | 3.00 |\n| commits | 2.00 |  |\n"),
            "{told}"
        );
    }
}
