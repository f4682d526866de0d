//! Reads the output of a deployment for a screen: one window of it, what a search finds, and all of it for a download.
//! Each request reads a bounded part, however long the output is. See decision 0093.

use std::{io, ops::Range, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Uri, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;

use super::{
    log::{LineNumber, LogRows, clock},
    log_text::{line_html, line_plain},
    words::escaped,
};
use crate::{
    http::{
        App,
        error::ErrorAnswer,
        params::{PathTarget, Query},
    },
    model::{Deployment, DeploymentId, Event, EventBody, ProjectName, Stream},
};

/// How many lines a window has.
pub const WINDOW_LINES: usize = 1_000;
/// How many bytes of output a window has, one event aside.
const WINDOW_BYTES: u64 = 512 << 10;
/// How many events one read of a window brings, and how many reads are made for it. Between lines there may be many reports
/// of progress.
const EVENTS_AT_ONCE: usize = 128;
const READS_LIMIT: usize = 64;

/// How much output one search looks through.
const SEARCH_BYTES: u64 = 4 << 20;
/// How many lines it shows.
const FOUND_LIMIT: usize = 200;
/// The longest text that can be searched for, in characters.
pub const FIND_LIMIT: usize = 200;

/// A window of output.
#[derive(Default)]
pub struct LogWindow {
    /// Its rows, as HTML.
    pub rows: String,
    /// How many lines it has.
    pub line_count: usize,
    /// The number of its first row, if there is output before it.
    pub earlier: Option<LineNumber>,
    /// The number of its last row, if there is output after it.
    pub later: Option<LineNumber>,
}

/// Some events in order, each with its lines that are within the window.
#[derive(Default)]
struct Shown {
    events: Vec<(Event, Range<usize>)>,
    line_count: usize,
    bytes: u64,
    /// The event before the first one; 0 where there is none.
    before: u64,
    /// Whether there are events beyond.
    goes_on: bool,
}

impl Shown {
    fn is_full(&self, lines: usize) -> bool {
        self.line_count >= lines || self.bytes >= WINDOW_BYTES
    }
}

/// How many rows an event makes.
fn row_count(event: &Event) -> usize {
    match &event.body {
        EventBody::Log { lines, .. } => lines.len(),
        EventBody::Phase { .. } | EventBody::Gap { .. } => 1,
        EventBody::Queue { .. }
        | EventBody::Status { .. }
        | EventBody::Progress { .. }
        | EventBody::Output { .. }
        | EventBody::Cancel { .. }
        | EventBody::Complete => 0,
    }
}

/// The last lines before this number.
async fn before(app: &App, id: DeploymentId, end: LineNumber, lines: usize) -> Result<Shown, ErrorAnswer> {
    let mut shown = Shown::default();
    // The event that the number stands in may have earlier lines.
    let mut from = if end.part == 0 { end.seq } else { end.seq + 1 };
    for _ in 0..READS_LIMIT {
        let read = app.queue.store().events_before(id, from, EVENTS_AT_ONCE).await?;
        let is_last = read.len() < EVENTS_AT_ONCE;
        for event in read {
            from = event.seq;
            let rows = row_count(&event);
            let rows = if event.seq == end.seq { rows.min(end.part) } else { rows };
            if rows == 0 {
                // Kept, so that its number is not taken for a gap.
                shown.events.push((event, 0..0));
                continue;
            }
            if shown.is_full(lines) {
                (shown.before, shown.goes_on) = (event.seq, true);
                shown.events.reverse();
                return Ok(shown);
            }
            let fit = rows.min(lines - shown.line_count);
            shown.line_count += fit;
            shown.bytes += event.body.log_bytes();
            shown.goes_on = fit < rows;
            shown.before = event.seq - 1;
            shown.events.push((event, rows - fit..rows));
            if shown.goes_on {
                shown.events.reverse();
                return Ok(shown);
            }
        }
        if is_last {
            shown.before = 0;
            shown.events.reverse();
            return Ok(shown);
        }
    }
    (shown.before, shown.goes_on) = (from.saturating_sub(1), true);
    shown.events.reverse();
    Ok(shown)
}

/// The first lines from this number on.
async fn from(app: &App, id: DeploymentId, begin: LineNumber, lines: usize) -> Result<Shown, ErrorAnswer> {
    let mut shown = Shown { before: begin.seq.saturating_sub(1), ..Shown::default() };
    let mut after = begin.seq.saturating_sub(1);
    for _ in 0..READS_LIMIT {
        let read = app.queue.store().events(id, after, EVENTS_AT_ONCE).await?;
        let is_last = read.len() < EVENTS_AT_ONCE;
        for event in read {
            after = event.seq;
            let rows = row_count(&event);
            let first = if event.seq == begin.seq { begin.part.min(rows) } else { 0 };
            if rows == first {
                shown.events.push((event, 0..0));
                continue;
            }
            if shown.is_full(lines) {
                shown.goes_on = true;
                return Ok(shown);
            }
            let fit = (rows - first).min(lines - shown.line_count);
            shown.line_count += fit;
            shown.bytes += event.body.log_bytes();
            shown.events.push((event, first..first + fit));
            if first + fit < rows {
                shown.goes_on = true;
                return Ok(shown);
            }
        }
        if is_last {
            return Ok(shown);
        }
    }
    shown.goes_on = true;
    Ok(shown)
}

/// Where a window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowPlace {
    /// At the end.
    End,
    /// It ends before this line.
    Before(LineNumber),
    /// It begins after this line.
    After(LineNumber),
    /// This line is in its middle.
    Around(LineNumber),
}

/// A window of a deployment's output.
///
/// # Errors
/// The store does not answer.
pub async fn window(app: &App, deployment: &Deployment, place: WindowPlace) -> Result<LogWindow, ErrorAnswer> {
    let (id, end) = (deployment.id, LineNumber::first_of(deployment.event_count + 1));
    let (earlier, later) = match place {
        WindowPlace::End => (before(app, id, end, WINDOW_LINES).await?, Shown::default()),
        WindowPlace::Before(line) => {
            let line = line.min(end);
            (before(app, id, line, WINDOW_LINES).await?, Shown { goes_on: line < end, ..Shown::default() })
        }
        WindowPlace::After(line) => {
            let next = LineNumber { part: line.part + 1, ..line };
            (Shown { goes_on: true, before: line.seq, ..Shown::default() }, from(app, id, next, WINDOW_LINES).await?)
        }
        WindowPlace::Around(line) => {
            let line = line.min(end);
            (before(app, id, line, WINDOW_LINES / 2).await?, from(app, id, line, WINDOW_LINES / 2).await?)
        }
    };
    let mut rows = LogRows::of_page(earlier.before);
    let (mut first, mut last): (Option<LineNumber>, Option<LineNumber>) = (None, None);
    for (event, lines) in earlier.events.iter().chain(&later.events) {
        rows.add(event, lines.clone());
        if lines.is_empty() {
            continue;
        }
        first = first.or(Some(LineNumber { seq: event.seq, part: lines.start }));
        last = Some(LineNumber { seq: event.seq, part: lines.end.saturating_sub(1) });
    }
    let line_count = rows.line_count();
    Ok(LogWindow {
        line_count,
        rows: rows.finish(),
        earlier: first.filter(|_| earlier.goes_on),
        later: last.filter(|_| later.goes_on),
    })
}

/// What a search found.
pub struct FoundLines {
    /// The lines, as HTML.
    pub rows: String,
    /// How many they are.
    pub line_count: usize,
    /// Where to go on, if not everything was looked through.
    pub goes_on: Option<LineNumber>,
}

/// Looks for a text in the output from a line on, in any case of its letters.
///
/// # Errors
/// The store does not answer.
pub async fn find(app: &App, deployment: &Deployment, text: &str, from: LineNumber) -> Result<FoundLines, ErrorAnswer> {
    let wanted = text.to_lowercase();
    let mut found = FoundLines { rows: String::new(), line_count: 0, goes_on: None };
    let (mut after, mut bytes) = (from.seq.saturating_sub(1).min(deployment.event_count), 0);
    loop {
        let page = app.watch.events(&deployment.project, deployment.id, after, Duration::ZERO).await?;
        for event in &page.events {
            let EventBody::Log { stream, lines, .. } = &event.body else { continue };
            let first = if event.seq == from.seq { from.part } else { 0 };
            for (part, line) in lines.iter().enumerate().skip(first) {
                bytes += line.len() as u64;
                let number = LineNumber { seq: event.seq, part };
                if found.line_count >= FOUND_LIMIT || bytes >= SEARCH_BYTES {
                    found.goes_on = Some(number);
                    return Ok(found);
                }
                if let Some(html) = found_in(line, &wanted) {
                    let at = clock(event.at);
                    let class = if *stream == Stream::Stderr { " err" } else { "" };
                    found.rows.push_str(&format!(
                        "<div class=\"l{class}\"><a class=\"n\" href=\"?line={number}#L{number}\">{number}</a>{at}<span>{html}</span></div>\n"
                    ));
                    found.line_count += 1;
                }
            }
        }
        after = page.last;
        if !page.goes_on {
            return Ok(found);
        }
    }
}

/// The line as HTML, if it has this text in it.
fn found_in(line: &str, wanted: &str) -> Option<String> {
    let plain = line_plain(line);
    let lower = plain.to_lowercase();
    let at = lower.find(wanted)?;
    // In some alphabets the small letters are longer or shorter; then the place is not known.
    let parts = (lower.len() == plain.len()).then(|| {
        let (before, rest) = plain.split_at_checked(at)?;
        let (it, after) = rest.split_at_checked(wanted.len())?;
        Some(format!("{}<mark>{}</mark>{}", line_html(before), escaped(it), line_html(after)))
    });
    parts.flatten().or_else(|| Some(line_html(line)))
}

/// All output, as a file.
pub async fn download(State(app): State<Arc<App>>, target: PathTarget, uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let PathTarget { project, id } = target;
    let deployment = app.watch.read(&project, id).await?.deployment;
    let name = match deployment.number {
        0 => format!("{project}-{id}.log"),
        number => format!("{project}-{number}.log"),
    };
    let reading = (app, project, id, Some(0));
    let body = Body::from_stream(stream::unfold(reading, |(app, project, id, after)| async move {
        let after = after?;
        match piece(&app, &project, id, after).await {
            Ok((bytes, next)) => Some((Ok(bytes), (app, project, id, next))),
            // The client sees that the file is cut off.
            Err(error) => {
                tracing::debug!(?error, "a download of output ended early");
                Some((Err(io::Error::other("the store does not answer")), (app, project, id, None)))
            }
        }
    }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A project's name is of plain letters, and so the header takes it.
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// The next piece of a download, and after which event to go on.
async fn piece(
    app: &App,
    project: &ProjectName,
    id: DeploymentId,
    after: u64,
) -> Result<(Bytes, Option<u64>), ErrorAnswer> {
    let page = app.watch.events(project, id, after, Duration::ZERO).await?;
    let mut text = String::new();
    for event in &page.events {
        match &event.body {
            EventBody::Log { lines, .. } => {
                for line in lines {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            EventBody::Gap { from, to } => {
                text.push_str(&format!("[singletrack: events {from} to {to} are no longer kept]\n"));
            }
            EventBody::Queue { .. }
            | EventBody::Status { .. }
            | EventBody::Phase { .. }
            | EventBody::Progress { .. }
            | EventBody::Output { .. }
            | EventBody::Cancel { .. }
            | EventBody::Complete => {}
        }
    }
    Ok((text.into(), Some(page.last).filter(|_| page.goes_on)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_marked_and_escaped() {
        let found = |line: &str, text: &str| found_in(line, &text.to_lowercase());
        assert_eq!(found("a <b>Error</b>", "eRROR").as_deref(), Some("a &#60;b&#62;<mark>Error</mark>&#60;/b&#62;"));
        assert_eq!(found("\u{1b}[31mer\u{1b}[0mror", "error").as_deref(), Some("<mark>error</mark>"));
        assert_eq!(found("İx İ", "x").as_deref(), Some("İx İ"), "its place is not known");
        assert_eq!(found("nothing", "error"), None);
    }
}
