//! `pause` and `resume`: hold a project, and let it go on.

use clap::Args;
use jiff::{
    Span, Timestamp, Zoned,
    civil::{Date, Time},
    tz::TimeZone,
};

use super::{
    ConnectArgs,
    exit::{Exit, Failure, about_project},
    parse::parse_project,
    screen::{
        clean::clean,
        words::{name_and_who, what_holds},
    },
    session::Session,
};
use crate::{
    client::calls::Patience,
    config::parse_duration,
    model::{HoldKind, ProjectName, freeze::Point},
    wire::{PauseAnswer, PauseOutcome, PauseRequest, ResumeRequest},
};

/// `pause`.
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// The project
    #[arg(value_name = "PROJECT", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    pub project: ProjectName,
    /// The reason; everybody who is held is told
    #[arg(long, short)]
    pub reason: String,
    /// When the pause ends: 18:00, 2h, 'Mon 08:00', '2026-12-24 18:00', or with a time zone 2026-12-24T18:00:00+01:00; else in the
    /// time zone of this machine [default: when somebody resumes]
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `resume`.
#[derive(Args, Debug)]
pub struct ResumeArgs {
    /// The project
    #[arg(value_name = "PROJECT", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    pub project: ProjectName,
    /// The reason; it is recorded
    #[arg(long, short)]
    pub reason: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Pauses a project.
///
/// # Errors
/// The time is none, the server refuses, or there is no answer.
pub async fn pause(args: &PauseArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let (zone, now) = (TimeZone::system(), session.clock.wall());
    let until = args.until.as_deref().map(|text| end(text, &zone, now)).transpose();
    let until = until.map_err(|why| {
        Failure::new(Exit::Usage, format!("--until {}: {why}", clean(&args.until.clone().unwrap_or_default())))
    })?;
    let (connection, project) = (&session.connection, &args.project);
    let body = PauseRequest { reason: args.reason.clone(), until, actor: session.actor() };
    let answer = connection.pause(project, &body).await.map_err(|fault| about_project(connection, project, fault))?;
    session.answer(&answer, &lines(&answer, &zone, now))?;
    Ok(Exit::Done)
}

/// Ends the pause of a project.
///
/// # Errors
/// The server refuses, or there is no answer.
pub async fn resume(args: &ResumeArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let (connection, project) = (&session.connection, &args.project);
    let body = ResumeRequest { reason: args.reason.clone() };
    let answer = connection.resume(project, &body).await.map_err(|fault| about_project(connection, project, fault))?;
    session.answer(&answer, &lines(&answer, &TimeZone::system(), session.clock.wall()))?;
    Ok(Exit::Done)
}

fn lines(answer: &PauseAnswer, zone: &TimeZone, now: Timestamp) -> Vec<String> {
    let project = &answer.project;
    let before = answer.before.as_ref().map(|before| what_holds(before, now)).unwrap_or_default();
    let mut lines = match (answer.outcome, &answer.hold) {
        (PauseOutcome::Paused, Some(hold)) => vec![format!("{project} is {}", what_holds(hold, now))],
        (PauseOutcome::Changed, Some(hold)) => {
            vec![format!("{project} is {}", what_holds(hold, now)), format!("  it was {before}")]
        }
        (PauseOutcome::Paused | PauseOutcome::Changed, None) => vec![format!("{project} is paused")],
        (PauseOutcome::Resumed, None) => vec![format!("{project} goes on; it was {before}")],
        (PauseOutcome::Resumed, Some(hold)) => vec![
            format!("the pause of {project} is over; it was {before}"),
            format!("{project} is still held: it is {}", what_holds(hold, now)),
        ],
        (PauseOutcome::Unchanged, None) => vec![format!("{project} was not paused")],
        (PauseOutcome::Unchanged, Some(hold)) => {
            vec![format!("{project} was not paused by anybody, but it is {}", what_holds(hold, now))]
        }
    };
    let until = answer.hold.as_ref().filter(|hold| hold.kind == HoldKind::Pause).and_then(|hold| hold.until);
    lines.extend(until.map(|until| format!("  the pause ends at {}", local(until, zone))));
    let deployments = [
        (&answer.running, "runs, and goes on"),
        (&answer.taken_back, "had the slot, had not started, and waits again"),
        (&answer.called_up, "is called up"),
    ];
    let told = deployments.into_iter().filter_map(|(one, what)| Some((one.as_ref()?, what)));
    lines.extend(told.map(|(one, what)| format!("  {} {what}", name_and_who(one))));
    if answer.line_length > 0 {
        lines.push(format!("  {} in line", answer.line_length));
    }
    lines
}

/// `2026-12-24 18:00 CET (Europe/Berlin)`.
fn local(at: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let name = zone.iana_name().map(|name| format!(" ({name})")).unwrap_or_default();
    format!("{}{name}", at.strftime("%a %Y-%m-%d %H:%M %Z"))
}

/// The instant that a user names.
fn end(text: &str, zone: &TimeZone, now: Timestamp) -> Result<Timestamp, String> {
    let wrong =
        || "it is a time such as 18:00, 2h, 'Mon 08:00', '2026-12-24 18:00' or 2026-12-24T18:00:00+01:00".to_owned();
    let text = text.trim();
    let here = now.to_zoned(zone.clone());
    if let Ok(at) = text.parse::<Timestamp>() {
        return later(at, now);
    }
    if let Ok(after) = parse_duration(text) {
        return now.checked_add(after).map_err(|_| wrong());
    }
    if let Some(time) = time_of_day(text) {
        return next(&here, |date| Some(date.to_datetime(time))).ok_or_else(wrong);
    }
    let instant = match text.parse::<Point>().map_err(|_| wrong())? {
        Point::Day(at) => at.to_zoned(zone.clone()).ok().map(|at| at.timestamp()),
        Point::Week(point) => next(&here, |date| (date.weekday() == point.day).then(|| date.to_datetime(point.time))),
        Point::Year(point) => next(&here, |date| {
            ((date.month(), date.day()) == (point.month, point.day)).then(|| date.to_datetime(point.time))
        }),
    };
    instant.ok_or_else(wrong).and_then(|at| later(at, now))
}

fn later(at: Timestamp, now: Timestamp) -> Result<Timestamp, String> {
    if at > now { Ok(at) } else { Err(format!("that was at {at:.0}, and it is {now:.0}")) }
}

fn time_of_day(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let is_number = |text: &str| (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let (hour, minute) = (Some(hour).filter(|it| is_number(it))?, Some(minute).filter(|it| is_number(it))?);
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

/// The first such time of a day from today on that is not over, within four years and a day.
fn next(here: &Zoned, of_day: impl Fn(Date) -> Option<jiff::civil::DateTime>) -> Option<Timestamp> {
    let days = (0..=1462).filter_map(|days| here.date().checked_add(Span::new().days(days)).ok());
    let instants = days.filter_map(of_day).filter_map(|at| at.to_zoned(here.time_zone().clone()).ok());
    instants.map(|at| at.timestamp()).find(|at| *at > here.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_time_of_day_a_duration_a_weekday_a_date_or_an_instant() {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        // A Wednesday, 10:00 in Berlin.
        let now: Timestamp = "2026-01-14T09:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("18:00", "2026-01-14T17:00:00Z"),
            ("9:30", "2026-01-15T08:30:00Z"),
            ("2h", "2026-01-14T11:00:00Z"),
            ("90m", "2026-01-14T10:30:00Z"),
            ("Mon 08:00", "2026-01-19T07:00:00Z"),
            ("wed 09:00", "2026-01-21T08:00:00Z"),
            ("2026-07-01 08:00", "2026-07-01T06:00:00Z"),
            ("07-01 08:00", "2026-07-01T06:00:00Z"),
            ("2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z"),
        ] {
            let expected: Timestamp = expected.parse().expect("a time");
            assert_eq!(end(text, &zone, now), Ok(expected), "{text}");
        }
        for text in ["", "soon", "25:00", "2026-01-14 09:59", "2026-01-14T08:00:00Z", "Fri", "12:3x"] {
            assert!(end(text, &zone, now).is_err(), "{text}");
        }
    }
}
