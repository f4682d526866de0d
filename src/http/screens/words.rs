//! How screens word and mark what they show: text that others wrote, states, times and links.

use askama::filters::{Html, escape};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    clean::clean,
    model::{Deployment, Outcome, ProjectName, State, mention::short},
    wire::Liveness,
};

/// The longest text of a line, in characters.
const LINE_LIMIT: usize = 160;

/// Text that others wrote, without control characters and marks that turn the direction of text; at most a line long.
/// Templates escape it.
pub fn plain(text: &str) -> String {
    shortened(&clean(text), LINE_LIMIT)
}

/// The same, of any length.
pub fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The text, as HTML.
pub fn escaped(text: &str) -> String {
    escape(text, Html).map(|it| it.to_string()).unwrap_or_default()
}

/// A moment, as HTML: in UTC; the script makes local time of it.
pub fn moment(at: Timestamp) -> String {
    time_element(at, "at", &text_of(at))
}

/// The same, to the second.
pub fn clock(at: Timestamp) -> String {
    time_element(at, "clock", &text_of(at))
}

/// A moment, as the time that has passed since then: the script counts it.
pub fn since(at: Timestamp, now: Timestamp) -> String {
    time_element(at, "since", &span(seconds_between(at, now)))
}

fn time_element(at: Timestamp, kind: &str, text: &str) -> String {
    format!("<time datetime=\"{at:.0}\" data-as=\"{kind}\">{text}</time>")
}

/// A moment in UTC, as text.
pub fn text_of(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The whole seconds from one moment to another; 0 if the clocks disagree.
pub fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_second() - from.as_second()).unwrap_or(0)
}

/// `42 s`, `3 min 12 s`, `2 h 5 min`, `3 d`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..600 if !seconds.is_multiple_of(60) => format!("{minutes} min {} s", seconds % 60),
        60..3_600 => format!("{minutes} min"),
        3_600..36_000 if !minutes.is_multiple_of(60) => format!("{hours} h {} min", minutes % 60),
        3_600..172_800 => format!("{hours} h"),
        _ => format!("{days} d"),
    }
}

/// A state's word, and the class that gives it its shape and colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The word.
    pub word: String,
    /// `run`, `ok`, `bad`, `wait` or `off`.
    pub class: &'static str,
}

impl Tag {
    /// A tag.
    pub fn new(word: impl Into<String>, class: &'static str) -> Self {
        Tag { word: word.into(), class }
    }

    /// The state of a deployment. Only one that runs is called running, and its phase stands with it.
    pub fn of(deployment: &Deployment, liveness: Liveness) -> Self {
        match &deployment.state {
            State::Waiting(_) => Tag::new("waiting", "wait"),
            State::Reserved | State::Ready => Tag::new("called up", "wait"),
            State::Running(_) => match (liveness, &deployment.phase) {
                (Liveness::Silent, _) => Tag::new("running, worker silent", "bad"),
                (Liveness::Lost, _) => Tag::new("worker lost", "bad"),
                (Liveness::Alive, _) if deployment.cancel.is_some() => Tag::new("running, being cancelled", "wait"),
                (Liveness::Alive, Some(phase)) => Tag::new(format!("running: {}", shortened(&clean(phase), 40)), "run"),
                (Liveness::Alive, None) => Tag::new("running", "run"),
            },
            State::Finished { outcome, .. } => match outcome {
                Outcome::Succeeded => Tag::new("succeeded", "ok"),
                Outcome::Failed { phase: Some(phase), .. } => {
                    Tag::new(format!("failed in {}", shortened(&clean(phase), 40)), "bad")
                }
                Outcome::Failed { phase: None, .. } => Tag::new("failed", "bad"),
                Outcome::Cancelled { cause: crate::model::CancelCause::Superseded { .. }, .. } => {
                    Tag::new("superseded", "off")
                }
                Outcome::Cancelled { .. } => Tag::new("cancelled", "off"),
            },
        }
    }
}

/// A project's path.
pub fn project_path(project: &ProjectName) -> String {
    format!("/projects/{project}")
}

/// A deployment's path: by its number where it has one.
pub fn deployment_path(deployment: &Deployment) -> String {
    let Deployment { project, number, id, .. } = deployment;
    match number {
        0 => format!("/projects/{project}/deployments/{id}"),
        number => format!("/projects/{project}/deployments/{number}"),
    }
}

/// `#17 alice`, or the known part of that.
pub fn label(deployment: &Deployment) -> String {
    let actor = deployment.spec.actor.as_deref().map(plain).unwrap_or_default();
    match deployment.number {
        0 => actor,
        number => format!("#{number} {actor}").trim_end().to_owned(),
    }
}

/// `main@3f2a91c`, or the known part of that.
pub fn source(deployment: &Deployment) -> String {
    let spec = &deployment.spec;
    match (spec.ref_name.as_deref().map(plain), spec.commit.as_deref().map(|commit| plain(short(commit)))) {
        (Some(name), Some(commit)) => format!("{name}@{commit}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => String::new(),
    }
}

/// `main@3f2a91c · “Faster search”`, or the known part of that.
pub fn what(deployment: &Deployment) -> String {
    let message = deployment.spec.message.as_deref().map(plain).filter(|text| !text.is_empty());
    let parts = [Some(source(deployment)).filter(|text| !text.is_empty()), message.map(|text| format!("“{text}”"))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// An address that may be linked to: of the web, and nothing that a browser would run.
pub fn link(url: &str) -> Option<String> {
    let is_web = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme));
    (is_web && !url.chars().any(char::is_control)).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short_and_exact_enough() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (192, "3 min 12 s"),
            (660, "11 min"),
            (3_600, "1 h"),
            (7_500, "2 h 5 min"),
            (40_000, "11 h"),
            (200_000, "2 d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn nothing_that_a_browser_would_run_is_linked_to() {
        for url in ["javascript:alert(1)", "data:text/html,x", " https://x", "//x", "https://x\ny", "ftp://x"] {
            assert_eq!(link(url), None, "{url}");
        }
        assert_eq!(link("https://ci.example/1"), Some("https://ci.example/1".to_owned()));
    }

    #[test]
    fn text_of_others_stays_a_line_and_is_escaped() {
        assert_eq!(plain("a\u{202e}b\u{1b}[31mc\nd"), "abc d");
        assert_eq!(plain(&"x".repeat(1_000)).chars().count(), LINE_LIMIT + 1);
        assert!(!escaped("<script>\"'&").contains(['<', '>', '"', '\'']));
    }
}
