//! Progress on standard error: a bar under the lines on a terminal, lines alone in a log.

use std::{
    convert::Infallible,
    io::{IsTerminal, stderr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    clean::clean,
    held,
    print::{self, shown},
    silence::Silence,
    story::Story,
    words::{LineAhead, PlaceInLine, named, overtaken, size, span, what_holds, willed_by},
};
use crate::{
    client::follow::Update,
    clock::{BootInstant, Clock},
    model::{EventBody, PhaseState, ProjectName, Status, Stream},
    wire::{Event, EventData},
};

/// How often a log repeats the line about a wait, because CI systems end a job that prints nothing for minutes.
const REPEAT: Duration = Duration::from_secs(30);

/// The bar while the deployment waits: one line, cut at its end.
const WAITING: &str = "{spinner} {wide_msg}";
/// The bar while the deployment runs: for a terminal of the usual width, and for a narrow one.
const RUNNING: [&str; 2] = [
    "{spinner} [{bar:30}] {percent:>3} % {wide_msg} {elapsed}",
    "{spinner} [{bar:8}] {percent:>3} % {wide_msg} {elapsed}",
];
/// The bar during an upload, for the same two widths.
const UPLOADING: [&str; 2] = ["{spinner} [{bar:30}] {wide_msg} {elapsed}", "{spinner} [{bar:8}] {wide_msg} {elapsed}"];
/// Terminals with fewer columns are narrow.
const NARROW: usize = 60;

/// Where progress is shown.
pub struct Screen {
    bar: Option<ProgressBar>,
    clock: Arc<dyn Clock>,
    told: Mutex<LastTold>,
    silence: Mutex<Silence>,
    story: Mutex<Story>,
}

/// What was printed or shown last.
#[derive(Default)]
struct LastTold {
    wait: Option<(String, BootInstant)>,
    phase: Option<String>,
    /// The last message, and whether it came in the current phase. A message stays until the next message, also across
    /// phases.
    message: Option<String>,
    is_of_phase: bool,
    percent: u8,
    upload: Option<BootInstant>,
}

impl Screen {
    /// Shows a bar if standard error is a terminal that can move its cursor and this is no CI job. Otherwise prints
    /// lines.
    pub fn new(clock: Arc<dyn Clock>, in_ci: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let bar = (stderr().is_terminal() && !is_dumb && !in_ci).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style(WAITING));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let silence = Mutex::new(Silence::from(clock.boot()));
        Screen { bar, clock, told: Mutex::new(LastTold::default()), silence, story: Mutex::default() }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        self.over(|| print::progress(text));
    }

    /// Prints a line to a terminal in raw mode.
    pub fn line_in_raw_mode(&self, text: &str) {
        self.over(|| print::progress_in_raw_mode(text));
    }

    /// Whether a bar is shown. Then a person probably watches, so asking the server more often is worth it.
    pub fn is_live(&self) -> bool {
        self.bar.is_some()
    }

    /// Calls `print` while the bar is hidden.
    pub fn over<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Prints a warning: a line that the user should not miss.
    pub fn warning(&self, text: &str) {
        self.over(|| print::warning(text));
    }

    /// Shows in the bar what is awaited. Without a bar, does nothing.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_style(style(WAITING));
            bar.set_message(shown(text));
        }
    }

    /// Shows which deployment is ahead, or what holds the project.
    pub fn waiting(&self, project: &ProjectName, ahead: Option<&LineAhead>, place: &PlaceInLine) {
        let wall = self.clock.wall();
        let (text, short, news) = match (ahead, &place.hold) {
            (Some(ahead), _) => (ahead.wait_line(place, wall), ahead.short_wait_line(place, wall), ahead.news(place)),
            (None, Some(hold)) => {
                let line = held::wait_line(project, hold, place, wall);
                (line.clone(), line, held::news(hold, place))
            }
            // The slot is being handed on right now.
            (None, None) => return,
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boot();
        match (ahead, &place.hold) {
            (Some(ahead), _) => self.story_lock().waiting(ahead, now),
            (None, Some(hold)) => self.story_lock().held(hold, now),
            (None, None) => {}
        }
        let is_news = told.wait.as_ref().is_none_or(|(last, _)| *last != news);
        if let Some(bar) = &self.bar {
            bar.set_style(style(WAITING));
            bar.set_message(shown(&short));
            told.wait = Some((news, now));
        } else if is_news || told.wait.as_ref().is_some_and(|(_, at)| now.since(*at) >= REPEAT) {
            print::progress(&text);
            told.wait = Some((news, now));
        }
    }

    /// The wait for another deployment is over.
    pub fn waited(&self) {
        self.story_lock().waited(self.clock.boot());
    }

    /// What happened until now.
    pub fn story(&self) -> Story {
        self.story_lock().clone()
    }

    fn story_lock(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the progress of an upload, in bytes.
    pub fn upload(&self, sent: u64, total: u64) {
        let text = format!("uploading: {} of {}", size(sent), size(total));
        if let Some(bar) = &self.bar {
            bar.set_style(style(by_width(UPLOADING)));
            bar.set_length(total);
            bar.set_position(sent);
            bar.set_message(text);
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boot();
        match &told.upload {
            None => told.upload = Some(now),
            Some(at) if now.since(*at) >= REPEAT => {
                print::progress(&text);
                told.upload = Some(now);
            }
            Some(_) => {}
        }
    }

    /// Prints a line in a log after each minute without output, for as long as this future is polled. At a terminal the
    /// bar is enough, so nothing is printed.
    pub async fn break_silence(&self) -> Infallible {
        if self.bar.is_some() {
            return std::future::pending().await;
        }
        self.silence().heard(self.clock.boot());
        loop {
            let left = self.silence().left(self.clock.boot());
            tokio::time::sleep(left).await;
            let line = self.silence().line(self.clock.now());
            if let Some(line) = line {
                print::progress(&line);
            }
        }
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows an update from following a deployment.
    pub fn update(&self, project: &ProjectName, update: &Update) {
        match update {
            Update::Switched(text) => self.warning(text),
            Update::State { status: Status::Running, progress, message } => {
                self.progress(*progress, message.as_deref())
            }
            Update::State { .. } => {}
            Update::Event(Event { seq, at, data: EventData::Other(body) }) => {
                self.silence().heard(self.clock.boot());
                self.event(project, *seq, body, *at);
            }
            Update::Event(Event { data: EventData::Complete { .. }, .. }) => {}
        }
    }

    fn event(&self, project: &ProjectName, seq: u64, body: &EventBody, at: Timestamp) {
        match body {
            EventBody::Phase { name, state, message } => self.phase(name, *state, message.as_deref(), at),
            EventBody::Progress { progress, message, .. } => self.progress(*progress, message.as_deref()),
            EventBody::Output { name, value } => self.line(&format!("    output {name}={value}")),
            EventBody::Log { lines, stream, .. } => {
                let print = match stream {
                    Stream::Stdout => print::progress_output,
                    Stream::Stderr => print::progress_error_output,
                };
                self.over(|| lines.iter().for_each(|line| print(line)));
            }
            EventBody::Cancel { reason, by: party, .. } => {
                let by = body.told_of(project).map(|by| format!(", so that {} can take its place", named(&by)));
                let by = by.unwrap_or_else(|| party.as_ref().and_then(willed_by).unwrap_or_default());
                let reason = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
                self.line(&format!("the deployment is asked to stop{by}{reason}"));
            }
            EventBody::Gap { from, to } => self.line(&format!(
                "(output is no longer kept: events {from} to {to}; removed by the server's [retention], or beyond the limit of a \
                 deployment's output)"
            )),
            EventBody::Queue { .. } => {
                if let Some(by) = body.told_of(project) {
                    self.line(&overtaken(&by));
                }
                // As it entered, the deployment was told already.
                if let EventBody::Queue { hold: Some(hold), .. } = body
                    && seq > 2
                {
                    let what = what_holds(hold, self.clock.wall());
                    self.line(&format!("held: {project} is {what}; the deployment waits in line again"));
                }
            }
            EventBody::Status { status: Status::Running } => self.waited(),
            EventBody::Status { .. } | EventBody::Complete => {}
        }
    }

    fn phase(&self, name: &str, state: PhaseState, message: Option<&str>, at: Timestamp) {
        self.story_lock().phase(name, state, at);
        let took = match state {
            PhaseState::Started | PhaseState::RollingBack => {
                self.silence().phase_began(name, at);
                None
            }
            PhaseState::Succeeded | PhaseState::Failed | PhaseState::RolledBack | PhaseState::RollbackFailed => {
                self.silence().phase_ended(name, at)
            }
            PhaseState::Skipped => None,
        };
        // A phase of less than a second is shown without its duration.
        let took = took.filter(|took| took.as_secs() > 0).map(|took| format!(" in {}", span(took))).unwrap_or_default();
        let begins = matches!(state, PhaseState::Started | PhaseState::RollingBack);
        let style = match state {
            PhaseState::Started | PhaseState::RollingBack => print::HEADING,
            PhaseState::Succeeded => print::GOOD,
            PhaseState::Failed | PhaseState::RollbackFailed => print::BAD,
            PhaseState::Skipped | PhaseState::RolledBack => print::STOPPED,
        };
        let state = match state {
            PhaseState::Started => "",
            PhaseState::Succeeded => " succeeded",
            PhaseState::Failed => " failed",
            PhaseState::Skipped => " skipped",
            PhaseState::RollingBack => ": rolling back",
            PhaseState::RolledBack => " rolled back",
            PhaseState::RollbackFailed => ": the rollback failed",
        };
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        self.over(|| print::heading(begins, style, &format!("{name}{state}"), &format!("{took}{message}"), at));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.phase = Some(name.to_owned());
        told.is_of_phase = false;
        self.draw(&told);
    }

    fn progress(&self, percent: u8, message: Option<&str>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let message = message.map(clean).filter(|message| !message.is_empty());
        let new_message = message.filter(|message| told.message.as_ref() != Some(message));
        // A log gets a line for each 10 % and for each new message.
        let is_news = percent / 10 > told.percent / 10 || new_message.is_some();
        told.percent = percent;
        if self.bar.is_none() && is_news {
            print::progress(format!("    {percent:>3} % {}", new_message.as_deref().unwrap_or_default()).trim_end());
        }
        if new_message.is_some() {
            (told.message, told.is_of_phase) = (new_message, true);
        }
        self.draw(&told);
    }

    fn draw(&self, told: &LastTold) {
        let Some(bar) = &self.bar else { return };
        bar.set_style(style(by_width(RUNNING)));
        bar.set_length(100);
        bar.set_position(u64::from(told.percent));
        let parts = [told.phase.as_deref(), told.message.as_deref().filter(|_| told.is_of_phase)];
        bar.set_message(shown(&parts.into_iter().flatten().collect::<Vec<_>>().join(": ")));
    }

    /// Removes the bar, and ends the open section of a CI's log.
    pub fn clear(&self) {
        print::end_section(self.clock.wall());
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Removes the bar and prints the result as JSON.
    ///
    /// # Errors
    /// Standard output could not be written.
    pub fn json(&self, value: &Value) -> std::io::Result<()> {
        self.clear();
        // A value that was read from JSON can always be written as JSON.
        print::json(value)
    }
}

fn by_width(templates: [&'static str; 2]) -> &'static str {
    let [wide, narrow] = templates;
    if print::progress_columns().is_some_and(|columns| columns < NARROW) { narrow } else { wide }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants above.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
