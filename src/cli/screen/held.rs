//! Words about a deployment that waits behind nobody, because its project is held.

use jiff::Timestamp;

use super::words::{PlaceInLine, overtaken, start, what_holds};
use crate::model::{Hold, ProjectName};

/// The line of a deployment that waits behind nobody, because its project is held.
pub fn wait_line(project: &ProjectName, hold: &Hold, place: &PlaceInLine, now: Timestamp) -> String {
    let position = match place.position {
        Some(1) => "; you are next".to_owned(),
        Some(position) if position > 1 => format!("; you are number {position} in line"),
        Some(_) | None => String::new(),
    };
    let fate = match &place.overtaker {
        Some(by) => Some(overtaken(by)),
        // The line says already that no end is set.
        None if place.expected.is_none() && hold.until.is_none() => None,
        None => start(place.expected, place.unknown.as_deref()),
    };
    let fate = fate.map(|fate| format!(", {fate}")).unwrap_or_default();
    format!("held: {project} is {}{position}{fate}", what_holds(hold, now))
}

/// The parts of that line that count as news.
pub fn news(hold: &Hold, place: &PlaceInLine) -> String {
    format!("{hold} {:?} {:?}", place.position, place.overtaker)
}
