//! The `[[projects.….freeze]]` tables: the windows in which a project is held.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};

use super::{reader::ConfigTable, require};
use crate::model::freeze::{Freeze, Point, Window, never_end};

/// The moment around which windows are looked at to find out whether they ever end. Windows that do not end at one time end
/// at no time.
const REFERENCE: Timestamp = Timestamp::constant(1_767_225_600, 0);
/// How many windows a project may have: every decision about its slot looks at all of them.
const LIMIT: usize = 50;
/// The longest reason, in characters.
const REASON_LIMIT: usize = 500;

/// Reads a project's windows.
pub(super) fn read(project: &mut ConfigTable<'_>) -> Arc<[Freeze]> {
    let span = project.span_of("freeze");
    let sections = project.sections("freeze");
    let count = sections.len();
    let freezes: Arc<[Freeze]> = sections.into_iter().filter_map(read_one).collect();
    if count > LIMIT {
        let message = format!("`{}` has more than {LIMIT} windows", project.path_of("freeze"));
        project.document.problem(span, message);
    } else if freezes.len() == count && never_end(&freezes, REFERENCE) {
        let message = format!(
            "the windows of `{}` leave no gap, so the project would be held for ever; to hold it for good, use `paused = true`",
            project.path_of("freeze")
        );
        project.document.problem(span, message);
    }
    freezes
}

fn read_one(mut section: ConfigTable<'_>) -> Option<Freeze> {
    let point = |text: &str| text.parse::<Point>().map_err(str::to_owned);
    let (from, to) = (section.parsed("from", point), section.parsed("to", point));
    for (key, value) in [("from", from), ("to", to)] {
        require(&section, key, value.is_none());
    }
    let has_zone = section.has("time_zone");
    let zone = section.parsed("time_zone", |name| {
        TimeZone::get(name).map_err(|_| "must be the name of a time zone, such as Europe/Berlin or UTC".to_owned())
    });
    let reason = section.parsed("reason", |text| match text.trim() {
        "" => Err("must not be empty".to_owned()),
        text if text.chars().count() > REASON_LIMIT => Err(format!("is longer than {REASON_LIMIT} characters")),
        text if text.chars().any(char::is_control) => Err("must be one line, without control characters".to_owned()),
        text => Ok(text.to_owned()),
    });
    let window = match (from, to) {
        (Some(from), Some(to)) => Window::between(from, to)
            .map_err(|why| section.document.problem(section.span.clone(), format!("`{}` {why}", section.path)))
            .ok(),
        (None, _) | (_, None) => None,
    };
    section.finish();
    let zone = if has_zone { zone? } else { TimeZone::UTC };
    Some(Freeze { window: window?, zone, reason })
}
