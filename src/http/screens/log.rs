//! Output as the rows of a screen: numbered, with times, silences and cuts between them, one section for each phase.
//! See decision 0093.
//!
//! A line's number is that of the event which brought it, and its place in that event: `12` is the first line of event 12,
//! `12.2` the second. So a number never changes, whatever is cut before it, and a page is found without counting.

use std::{fmt, fmt::Write as _, str::FromStr};

use jiff::Timestamp;

use super::{
    log_text::line_html,
    words::{self, escaped},
};
use crate::model::{Event, EventBody, PhaseState, Stream};

/// A silence of so many seconds is marked.
const SILENCE_SECONDS: u64 = 60;
/// How lines begin that our own programs put between those of a command.
const OWN_NOTE: &str = "[singletrack: ";

/// The number of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineNumber {
    /// The event.
    pub seq: u64,
    /// Its place in the event; 0 is the first.
    pub part: usize,
}

impl LineNumber {
    /// The first line of an event.
    pub fn first_of(seq: u64) -> Self {
        LineNumber { seq, part: 0 }
    }
}

impl fmt::Display for LineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => write!(f, "{}", self.seq),
            part => write!(f, "{}.{}", self.seq, part + 1),
        }
    }
}

/// A text that is no line's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLineNumber;

impl FromStr for LineNumber {
    type Err = InvalidLineNumber;

    fn from_str(text: &str) -> Result<Self, InvalidLineNumber> {
        let digits = |text: &str| {
            let is_number = text.len() <= 15 && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| is_number).ok_or(InvalidLineNumber)
        };
        match text.split_once('.') {
            None => Ok(LineNumber::first_of(digits(text)?)),
            Some((seq, part)) => {
                let part = usize::try_from(digits(part)?).map_err(|_| InvalidLineNumber)?;
                Ok(LineNumber { seq: digits(seq)?, part: part - 1 })
            }
        }
    }
}

/// Writes events as rows.
pub struct LogRows {
    html: String,
    /// Whether a section is open that this has begun.
    is_open: bool,
    /// Whether the rows go on in the section that is last on the screen.
    goes_on: bool,
    is_in_details: bool,
    last_at: Option<Timestamp>,
    last_seq: Option<u64>,
    line_count: usize,
}

impl LogRows {
    /// The rows of a page. `last_seq`: the last event that is kept before them; 0 at the beginning.
    pub fn of_page(last_seq: u64) -> Self {
        LogRows::new(false, None, Some(last_seq))
    }

    /// The rows that follow those on the screen, of which the last one is of `last_at`.
    pub fn that_follow(last_at: Option<Timestamp>, last_seq: u64) -> Self {
        LogRows::new(true, last_at, Some(last_seq))
    }

    fn new(goes_on: bool, last_at: Option<Timestamp>, last_seq: Option<u64>) -> Self {
        LogRows { html: String::new(), is_open: false, goes_on, is_in_details: false, last_at, last_seq, line_count: 0 }
    }

    /// How many lines were written.
    pub fn line_count(&self) -> usize {
        self.line_count
    }

    /// When the last row was recorded.
    pub fn last_at(&self) -> Option<Timestamp> {
        self.last_at
    }

    /// Adds an event, of which these lines are shown.
    pub fn add(&mut self, event: &Event, lines: std::ops::Range<usize>) {
        if let Some(last) = self.last_seq
            && event.seq > last + 1
        {
            self.gap(last + 1, event.seq - 1);
        }
        self.last_seq = Some(event.seq);
        match &event.body {
            EventBody::Phase { name, state, message } => self.phase(event, name, *state, message.as_deref()),
            EventBody::Log { stream, phase, lines: all } => {
                let end = lines.end.min(all.len());
                if lines.start >= end {
                    // It stands on another page, or on the screen already.
                    self.last_at = Some(event.at);
                    return;
                }
                self.begin_row(event, phase.as_deref());
                for (part, line) in all.iter().enumerate().take(end).skip(lines.start) {
                    self.line(LineNumber { seq: event.seq, part }, event.at, *stream, line);
                }
            }
            EventBody::Gap { from, to } => self.gap(*from, *to),
            EventBody::Queue { .. }
            | EventBody::Status { .. }
            | EventBody::Progress { .. }
            | EventBody::Output { .. }
            | EventBody::Cancel { .. }
            | EventBody::Complete => {}
        }
    }

    /// The rows as HTML.
    pub fn finish(mut self) -> String {
        self.close();
        self.html
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // A write to a text cannot fail.
        let _ = self.html.write_fmt(text);
    }

    fn close(&mut self) {
        if self.is_open {
            self.html.push_str(if self.is_in_details { "</details>\n" } else { "</section>\n" });
        }
        (self.is_open, self.is_in_details) = (false, false);
    }

    fn phase(&mut self, event: &Event, name: &str, state: PhaseState, message: Option<&str>) {
        let name = escaped(&words::plain(name));
        let message = message.map(|text| format!(" <span class=\"soft\">{}</span>", escaped(&words::plain(text))));
        let message = message.unwrap_or_default();
        let (seq, at) = (event.seq, clock(event.at));
        let (ended, class) = match state {
            PhaseState::Started | PhaseState::RollingBack => {
                self.close();
                let sign = if state == PhaseState::Started { "" } else { "↺ " };
                self.write(format_args!(
                    "<details class=\"part\" id=\"part-{seq}\" open><summary class=\"l ph\" id=\"L{seq}\"><span class=\"n\">{seq}</span>\
                     {at}<span>{sign}{name}{message}</span></summary>\n"
                ));
                (self.is_open, self.is_in_details, self.goes_on) = (true, true, false);
                self.last_at = Some(event.at);
                return;
            }
            PhaseState::Succeeded => ("succeeded", "ok"),
            PhaseState::Failed => ("failed", "bad"),
            PhaseState::Skipped => ("skipped", "off"),
            PhaseState::RolledBack => ("rolled back", "ok"),
            PhaseState::RollbackFailed => ("rollback failed", "bad"),
        };
        self.begin_row(event, None);
        self.write(format_args!(
            "<div class=\"l pe {class}\" id=\"L{seq}\"><span class=\"n\">{seq}</span>{at}<span>{name} {ended}{message}</span></div>\n"
        ));
        // What comes now is of no phase.
        self.close();
        if self.goes_on {
            self.html.push_str("<section class=\"part\"></section>\n");
        }
    }

    /// Makes ready for a row: a section for it, and the silence before it.
    fn begin_row(&mut self, event: &Event, phase: Option<&str>) {
        self.open(event.seq, phase);
        if let Some(last) = self.last_at {
            let silent = words::seconds_between(last, event.at);
            if silent >= SILENCE_SECONDS {
                self.write(format_args!(
                    "<div class=\"l quiet\"><span class=\"n\"></span><span class=\"t\"></span><span>{} nothing</span></div>\n",
                    words::span(silent)
                ));
            }
        }
        self.last_at = Some(event.at);
    }

    fn open(&mut self, seq: u64, phase: Option<&str>) {
        if self.is_open || self.goes_on {
            return;
        }
        match phase {
            Some(phase) => {
                // Its heading is on an earlier page.
                let name = escaped(&words::plain(phase));
                self.write(format_args!(
                    "<details class=\"part\" id=\"part-{seq}\" open><summary class=\"l ph\"><span class=\"n\"></span>\
                     <span class=\"t\"></span><span>{name} <span class=\"soft\">goes on</span></span></summary>\n"
                ));
                self.is_in_details = true;
            }
            None => self.html.push_str("<section class=\"part\">\n"),
        }
        self.is_open = true;
    }

    fn line(&mut self, number: LineNumber, at: Timestamp, stream: Stream, line: &str) {
        self.line_count += 1;
        let text = line_html(line);
        let class = match stream {
            _ if line.starts_with(OWN_NOTE) => " cut",
            Stream::Stderr => " err",
            Stream::Stdout => "",
        };
        // For whoever hears it, and does not see the edge.
        let heard = if class == " err" { "<span class=\"unseen\">stderr: </span>" } else { "" };
        let at = clock(at);
        self.write(format_args!(
            "<div class=\"l{class}\" id=\"L{number}\"><a class=\"n\" href=\"?line={number}#L{number}\">{number}</a>{at}<span>{heard}{text}</span></div>\n"
        ));
    }

    fn gap(&mut self, from: u64, to: u64) {
        self.open(from, None);
        let which = if from == to { format!("event {from} is") } else { format!("events {from} to {to} are") };
        self.write(format_args!(
            "<div class=\"l cut\" id=\"L{from}\"><span class=\"n\">{from}</span><span class=\"t\"></span><span>… {which} no longer kept</span></div>\n"
        ));
        self.last_at = None;
    }
}

/// A moment, to 100 ms, as HTML.
pub fn clock(at: Timestamp) -> String {
    let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
    let text = utc.strftime("%H:%M:%S");
    let tenth = at.subsec_millisecond() / 100;
    format!("<time class=\"t\" datetime=\"{at:.3}\">{text}.{tenth}</time>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("it is a time")
    }

    fn log(seq: u64, second: i64, lines: &[&str]) -> Event {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Event {
            seq,
            at: at(second),
            body: EventBody::Log { stream: Stream::Stderr, phase: Some("build".to_owned()), lines },
        }
    }

    fn phase(seq: u64, second: i64, state: PhaseState) -> Event {
        Event { seq, at: at(second), body: EventBody::Phase { name: "build".to_owned(), state, message: None } }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for text in ["1", "12", "12.2", "1140.17"] {
            assert_eq!(text.parse::<LineNumber>().expect("it is one").to_string(), text);
        }
        for text in ["", "0", "01", "-1", "1.0", "1.", ".1", "1.1.1", "x", "9999999999999999", "1.2x"] {
            assert_eq!(text.parse::<LineNumber>(), Err(InvalidLineNumber), "{text}");
        }
        let sorted = ["12", "12.2", "12.10", "13"].map(|text| text.parse::<LineNumber>().expect("it is one"));
        assert!(sorted.is_sorted());
    }

    #[test]
    fn phases_are_sections_and_silences_and_gaps_stand_between_the_lines() {
        let mut rows = LogRows::of_page(2);
        for event in
            [phase(3, 0, PhaseState::Started), log(4, 1, &["a", "b"]), log(5, 241, &["c"]), log(9, 242, &["d"])]
        {
            rows.add(&event, 0..usize::MAX);
        }
        rows.add(&phase(10, 250, PhaseState::Failed), 0..usize::MAX);
        rows.add(&log(11, 251, &["[singletrack: 58 lines came too fast and were cut here]"]), 0..usize::MAX);
        assert_eq!(rows.line_count(), 5);
        let html = rows.finish();
        let order = [
            "part-3",
            "L4\"",
            "L4.2\"",
            "4 min nothing",
            "L5\"",
            "events 6 to 8 are no longer kept",
            "L9\"",
            "build failed",
            "L11\"",
            "58 lines",
        ];
        let places: Vec<_> =
            order.iter().map(|text| html.find(text).unwrap_or_else(|| panic!("{text}: {html}"))).collect();
        assert!(places.is_sorted(), "{places:?}: {html}");
        assert_eq!(html.matches("<details").count(), html.matches("</details>").count());
        assert_eq!(html.matches("<section").count(), html.matches("</section>").count());
    }

    #[test]
    fn rows_that_follow_go_on_in_the_last_section_until_a_phase_begins_or_ends() {
        let mut rows = LogRows::that_follow(Some(at(0)), 3);
        rows.add(&log(4, 1, &["a"]), 0..usize::MAX);
        assert!(rows.finish().starts_with("<div class=\"l err\" id=\"L4\">"));
        let mut rows = LogRows::that_follow(Some(at(0)), 4);
        rows.add(&phase(5, 2, PhaseState::Succeeded), 0..usize::MAX);
        let html = rows.finish();
        assert!(
            html.starts_with("<div class=\"l pe ok\"") && html.ends_with("<section class=\"part\"></section>\n"),
            "{html}"
        );
    }
}
