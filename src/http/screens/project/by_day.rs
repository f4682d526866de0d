//! Waits and durations by day: half of them within so long, and nine in ten.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use crate::{
    http::{
        App,
        error::ErrorAnswer,
        scan::{ListFilter, Scan},
        screens::{rendered, words::span},
    },
    model::{Deployment, ProjectName, Status},
};

/// How many days are shown.
const DAYS: i64 = 14;
/// How many deployments are read at once.
const READ_AT_ONCE: usize = 100;
/// The size of a drawing, the height of its axis, and where its columns begin.
const WIDTH: u64 = 360;
const HEIGHT: u64 = 112;
const AXIS: u64 = 92;
const TOP: u64 = 10;
const LEFT: u64 = 46;
const COLUMN: u64 = (WIDTH - LEFT) / 14;

/// A project's charts, as HTML.
///
/// # Errors
/// The store does not answer.
pub async fn html(app: &App, project: &ProjectName) -> Result<Arc<str>, ErrorAnswer> {
    app.day_charts.of(project).get_or_try_init(|| read(app, project)).await.cloned()
}

/// What was measured of the deployments that started on one day, in seconds.
#[derive(Default)]
struct Day {
    waits: Vec<u64>,
    runs: Vec<u64>,
}

#[derive(Template)]
#[template(path = "project_by_day.html")]
struct DaysView {
    charts: [Chart; 2],
    rows: Vec<DayRow>,
    is_cut: bool,
    width: u64,
    height: u64,
    axis: u64,
    from: String,
    to: String,
}

struct Chart {
    title: &'static str,
    told: String,
    columns: Vec<DayColumn>,
    top: String,
    middle: String,
    middle_y: u64,
    top_y: u64,
}

struct DayColumn {
    x: u64,
    width: u64,
    half_y: u64,
    half_height: u64,
    most_y: u64,
    most_height: u64,
    hint: String,
}

struct DayRow {
    day: String,
    count: usize,
    wait_half: String,
    wait_most: String,
    run_half: String,
    run_most: String,
}

async fn read(app: &App, project: &ProjectName) -> Result<Arc<str>, ErrorAnswer> {
    let now = app.now();
    let today = day_of(now);
    let first = today.checked_sub(jiff::Span::new().days(DAYS - 1)).unwrap_or(today);
    let since = first.to_zoned(TimeZone::UTC).map_or(now, |zoned| zoned.timestamp());
    // One that waited long started later than it came.
    let came = since.checked_sub(SignedDuration::from_hours(24)).unwrap_or(since);
    let mut scan = Scan::of(app, project, ListFilter::since(came));
    let (mut days, mut next) = (BTreeMap::<Date, Day>::new(), None);
    let is_cut = loop {
        let found = scan.next(next, READ_AT_ONCE).await?;
        for deployment in &found.deployments {
            note(&mut days, first, deployment);
        }
        if found.deployments.len() < READ_AT_ONCE {
            break found.goes_on.is_some();
        }
        if scan.is_spent() {
            break true;
        }
        next = found.deployments.last().map(|last| last.ticket);
    };
    rendered(&view(&days, first, is_cut)).map(Into::into)
}

fn day_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn note(days: &mut BTreeMap<Date, Day>, first: Date, deployment: &Deployment) {
    let Some(started) = deployment.started_at.filter(|at| day_of(*at) >= first) else { return };
    let seconds = |from: Timestamp, to: Timestamp| u64::try_from(to.as_second() - from.as_second()).unwrap_or(0);
    let day = days.entry(day_of(started)).or_default();
    day.waits.push(seconds(deployment.created_at, started));
    if let Some(ended) = deployment.ended_at().filter(|_| deployment.status() == Status::Succeeded) {
        day.runs.push(seconds(started, ended));
    }
}

fn view(days: &BTreeMap<Date, Day>, first: Date, is_cut: bool) -> DaysView {
    let all: Vec<_> = first.series(jiff::Span::new().days(1)).take(usize::try_from(DAYS).unwrap_or(0)).collect();
    let empty = Day::default();
    let of = |day: &Date| days.get(day).unwrap_or(&empty);
    let name = |day: &Date| day.strftime("%-d %b").to_string();
    let told = |values: &[u64], at| part(values, at).map_or_else(|| "–".to_owned(), span);
    let row = |day: &Date| {
        let Day { waits, runs } = of(day);
        DayRow {
            day: name(day),
            count: waits.len(),
            wait_half: told(waits, 50),
            wait_most: told(waits, 90),
            run_half: told(runs, 50),
            run_most: told(runs, 90),
        }
    };
    let named = |pick: fn(&Day) -> &Vec<u64>| all.iter().map(|day| (name(day), pick(of(day)).clone())).collect();
    DaysView {
        charts: [
            chart("Durations", "of the successes took", named(|day| &day.runs)),
            chart("Waits", "of those that started waited", named(|day| &day.waits)),
        ],
        rows: all.iter().filter(|day| days.contains_key(day)).map(row).collect(),
        is_cut,
        width: WIDTH,
        height: HEIGHT,
        axis: AXIS,
        from: all.first().map(&name).unwrap_or_default(),
        to: all.last().map(&name).unwrap_or_default(),
    }
}

fn chart(title: &'static str, what: &str, days: Vec<(String, Vec<u64>)>) -> Chart {
    let mut values: Vec<_> = days.iter().flat_map(|(_, values)| values.iter().copied()).collect();
    values.sort_unstable();
    let told = match (part(&values, 50), part(&values, 90)) {
        (Some(_), Some(_)) if values.last() == Some(&0) => "nobody waited".to_owned(),
        (Some(half), Some(most)) => {
            format!("half {what} up to {}, nine in ten up to {}", span(half), span(most))
        }
        _ => "nothing was measured in these days".to_owned(),
    };
    let highest = days.iter().filter_map(|(_, values)| part(values, 90)).max().unwrap_or(0);
    let top = nice(highest);
    let height = |seconds: u64| (seconds * (AXIS - TOP)).div_ceil(top).min(AXIS - TOP);
    let columns = (0u64..).zip(&days).filter_map(|(index, (day, values))| {
        let (half, most) = (part(values, 50)?, part(values, 90)?);
        let (half_height, most_height) = (height(half), height(most));
        Some(DayColumn {
            x: LEFT + index * COLUMN + 3,
            width: COLUMN - 6,
            half_y: AXIS - half_height,
            half_height,
            most_y: AXIS - most_height,
            most_height,
            hint: format!("{day}: {} and {}", span(half), span(most)),
        })
    });
    Chart {
        title,
        told,
        columns: columns.filter(|_| highest > 0).collect(),
        top: span(top),
        middle: span(top / 2),
        middle_y: AXIS - (AXIS - TOP) / 2,
        top_y: TOP,
    }
}

/// The value within which so many in a hundred are; of an unsorted list.
fn part(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The next round number of seconds.
fn nice(seconds: u64) -> u64 {
    const ROUND: [u64; 18] =
        [2, 4, 10, 20, 30, 60, 120, 240, 360, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400, 172_800];
    ROUND.into_iter().find(|round| seconds <= *round).unwrap_or_else(|| seconds.next_multiple_of(172_800))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_and_nine_in_ten_are_values_that_were_measured() {
        assert_eq!(part(&[], 50), None);
        assert_eq!((part(&[7], 50), part(&[7], 90)), (Some(7), Some(7)));
        assert_eq!((part(&[3, 1, 2], 50), part(&[3, 1, 2], 90)), (Some(2), Some(3)));
        let ten: Vec<_> = (1..=10).collect();
        assert_eq!((part(&ten, 50), part(&ten, 90)), (Some(5), Some(9)));
    }

    #[test]
    fn a_column_is_never_higher_than_its_drawing() {
        let of = |seconds: u64| chart("Waits", "waited", vec![("1 Jan".to_owned(), vec![seconds, seconds / 2])]);
        for seconds in [1, 59, 3_600, 200_000, 10_000_000] {
            let chart = of(seconds);
            let column = chart.columns.first().expect("a column");
            assert!(column.most_y >= TOP && column.half_height <= column.most_height, "{seconds}");
        }
        assert!(of(0).columns.is_empty(), "nobody waited");
    }
}
