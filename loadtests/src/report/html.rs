//! The report as one HTML page. The page fetches nothing, so it can be attached to an e-mail or an issue.

use std::fmt::Write as _;

use super::{
    Plot, Report, Summary,
    plot::{self, COLOURS},
    table::{micros, value},
};
use crate::goals::{Goal, Verdict};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = Page { text: String::new(), subjects: subjects(report) };
    page.add(format_args!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Singletrack under load</title><style>{STYLE}</style></head><body><main><h1>Singletrack under load</h1>"
    ));
    page.machine(report);
    if !report.goals.is_empty() {
        page.goals(&report.goals);
    }
    let mut scenarios: Vec<&str> = report.summaries.iter().map(|summary| summary.scenario.as_str()).collect();
    scenarios.dedup();
    page.contents(&scenarios);
    for scenario in scenarios {
        let part: Vec<_> = report.summaries.iter().filter(|summary| summary.scenario == scenario).collect();
        page.scenario(scenario, &part);
    }
    page.text.push_str("</main></body></html>\n");
    page.text
}

/// What would be markup is text.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn subjects(report: &Report) -> Vec<String> {
    let mut subjects: Vec<String> = Vec::new();
    for summary in &report.summaries {
        if !subjects.contains(&summary.subject) {
            subjects.push(summary.subject.clone());
        }
    }
    subjects
}

fn anchor(scenario: &str) -> String {
    scenario.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

struct Page {
    text: String,
    /// Each has one colour on the whole page.
    subjects: Vec<String>,
}

impl Page {
    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(part);
    }

    fn colour(&self, subject: &str) -> usize {
        self.subjects.iter().position(|known| known == subject).unwrap_or_default() % COLOURS
    }

    fn machine(&mut self, report: &Report) {
        let machine = &report.machine;
        let rounds =
            if report.rounds == 1 { "one round".to_owned() } else { format!("medians of {} rounds", report.rounds) };
        let size = if report.small { ", small: the figures mean nothing" } else { "" };
        let fsync: Vec<_> = machine
            .fsync
            .iter()
            .map(|fsync| format!("{} {} (p99 {})", fsync.name, micros(fsync.p50), micros(fsync.p99)))
            .collect();
        self.add(format_args!(
            "<p>{} CPUs, store {}, {rounds}{size}. A durable write of 4 KiB takes, {}.</p>",
            machine.cpus,
            escape(&machine.store),
            escape(&fsync.join(", "))
        ));
        let wrongs = report.wrongs();
        let checks: usize = report.summaries.iter().map(|summary| summary.checks.len()).sum();
        match wrongs.len() {
            0 => self.add(format_args!("<p class=\"good\">All {checks} checks of what happened hold.</p>")),
            count => self.add(format_args!("<p class=\"bad\">{count} of {checks} checks do not hold.</p>")),
        }
        if !wrongs.is_empty() {
            let items: String = wrongs.iter().map(|wrong| format!("<li>{}</li>", escape(wrong))).collect();
            self.add(format_args!("<ul class=\"bad\">{items}</ul>"));
        }
        if !report.missing.is_empty() {
            let missing = report.missing.iter();
            let items: String = missing
                .map(|missing| format!("<li><b>{}</b>: {}</li>", escape(&missing.peer), escape(&missing.why)))
                .collect();
            self.add(format_args!("<h2>Not measured</h2><ul>{items}</ul>"));
        }
    }

    fn goals(&mut self, goals: &[Goal]) {
        self.text.push_str(
            "<h2>Goals</h2><div class=\"wide\"><table><thead><tr><th><th>what<th>found<th>wanted<th></tr></thead>",
        );
        for Goal { id, what, found, wanted, verdict } in goals {
            let (class, verdict) = match verdict {
                Verdict::Met => ("good", "met".to_owned()),
                Verdict::NotMet => ("bad", "not met".to_owned()),
                Verdict::Unknown(why) => ("dim", why.clone()),
                Verdict::NotRun => ("dim", "not run".to_owned()),
            };
            self.add(format_args!(
                "<tr><td>{id}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"{class}\">{}</tr>",
                escape(what),
                escape(found),
                escape(wanted),
                escape(&verdict)
            ));
        }
        self.text.push_str("</table></div>");
    }

    fn contents(&mut self, scenarios: &[&str]) {
        let items: String = scenarios
            .iter()
            .map(|name| format!("<li><a href=\"#{}\">{}</a></li>", anchor(name), escape(name)))
            .collect();
        self.add(format_args!("<h2>Scenarios</h2><ul class=\"contents\">{items}</ul>"));
    }

    fn scenario(&mut self, name: &str, part: &[&Summary]) {
        self.add(format_args!("<section id=\"{}\"><h2>{}</h2>", anchor(name), escape(name)));
        self.figures(part);
        self.spreads(part);
        self.plots(part);
        self.text.push_str("</section>");
    }

    /// A row a figure, a column a subject.
    fn figures(&mut self, part: &[&Summary]) {
        self.text.push_str("<div class=\"wide\"><table><thead><tr><th>");
        for summary in part {
            let colour = self.colour(&summary.subject);
            let (subject, about) = (escape(&summary.subject), escape(&summary.about));
            self.add(format_args!("<th class=\"n\"><i class=\"key c{colour}\"></i>{subject}<small>{about}</small>"));
        }
        self.text.push_str("</tr></thead>");
        let mut names: Vec<&str> = Vec::new();
        for figure in part.iter().flat_map(|summary| &summary.figures) {
            if !names.contains(&figure.name.as_str()) {
                names.push(&figure.name);
            }
        }
        for name in names {
            self.add(format_args!("<tr><td>{}", escape(name)));
            for summary in part {
                match summary.figures.iter().find(|figure| figure.name == name) {
                    Some(figure) => {
                        let all = value(figure);
                        let (value, spread) = all.split_once("  ").unwrap_or((&all, ""));
                        let (value, spread) = (escape(value), escape(spread));
                        self.add(format_args!("<td class=\"n\">{value}<small>{spread}</small>"));
                    }
                    None => self.text.push_str("<td>"),
                }
            }
            self.text.push_str("</tr>");
        }
        self.text.push_str("</table></div>");
        let checks: Vec<_> = part.iter().flat_map(|summary| summary.checks.iter().map(|check| &check.what)).collect();
        if !checks.is_empty() {
            let mut checks: Vec<_> = checks.into_iter().map(|check| escape(check)).collect();
            checks.dedup();
            self.add(format_args!("<p class=\"dim\">Checked: {}.</p>", checks.join("; ")));
        }
    }

    /// A plot a distribution, a curve a subject.
    fn spreads(&mut self, part: &[&Summary]) {
        let mut names: Vec<&str> = Vec::new();
        for spread in part.iter().flat_map(|summary| &summary.spreads) {
            if !names.contains(&spread.name.as_str()) && spread.count > 1 {
                names.push(&spread.name);
            }
        }
        for name in names {
            let all: Vec<_> = part
                .iter()
                .filter_map(|summary| Some((*summary, summary.spread(name)?)))
                .filter(|(_, spread)| spread.count > 1)
                .collect();
            let coloured: Vec<_> =
                all.iter().map(|(summary, spread)| (self.colour(&summary.subject), *spread)).collect();
            let Some(drawn) = plot::curves(name, &coloured) else { continue };
            self.add(format_args!("<figure><figcaption>{}</figcaption>{drawn}<table>", escape(name)));
            self.text.push_str("<thead><tr><th><th class=\"n\">p50<th class=\"n\">p90<th class=\"n\">p99<th class=\"n\">max<th class=\"n\">of</tr></thead>");
            for (summary, spread) in all {
                let (colour, subject) = (self.colour(&summary.subject), escape(&summary.subject));
                let [p50, p90, p99, max] = [spread.p50, spread.p90, spread.p99, spread.max].map(micros);
                self.add(format_args!(
                    "<tr><td><i class=\"key c{colour}\"></i>{subject}<td class=\"n\">{p50}<td class=\"n\">{p90}<td class=\"n\">{p99}<td class=\"n\">{max}<td class=\"n\">{}</tr>",
                    spread.count
                ));
            }
            self.text.push_str("</table></figure>");
        }
    }

    fn plots(&mut self, part: &[&Summary]) {
        let mut waits: Vec<(usize, &[u64])> = Vec::new();
        for summary in part {
            let colour = self.colour(&summary.subject);
            for plot in &summary.plots {
                match plot {
                    Plot::Timeline { holds } => {
                        let title = format!("{}: who held the slot, by arrival", summary.subject);
                        if let Some(drawn) = plot::timeline(&title, colour, holds) {
                            self.add(format_args!(
                                "<figure><figcaption>{}</figcaption>{drawn}</figure>",
                                escape(&title)
                            ));
                        }
                    }
                    Plot::Waits { waits: all } => waits.push((colour, all)),
                }
            }
        }
        if let Some(drawn) = plot::waits("waits by arrival", &waits) {
            self.add(format_args!("<figure><figcaption>waits by arrival</figcaption>{drawn}</figure>"));
        }
    }
}
