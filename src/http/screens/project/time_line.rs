//! The slot as a time line of the last hours: one bar for each deployment, its wait pale and its run coloured. It says the
//! same as the history does.

use askama::Template;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::{
    http::{
        error::ErrorAnswer,
        screens::{
            rendered,
            words::{self, Tag, plain, shortened},
        },
    },
    model::{Deployment, State},
    wire::Liveness,
};

/// The drawing's width; it is scaled to the width of its place.
const WIDTH: i64 = 760;
/// Where the bars begin and end.
const LEFT: i64 = 6;
const RIGHT: i64 = WIDTH - 6;
const LANE: i64 = 22;
const TOP: i64 = 8;
/// About the width of a letter.
const LETTER: i64 = 6;
/// How many bars, and how many of those that wait. More of them cannot be told apart.
const BARS_LIMIT: usize = 18;
const WAITING_LIMIT: usize = 4;
/// How many runs there should be to be seen, if there are so many.
const RUNS_WANTED: usize = 6;
/// A run can be seen that is at least this part of the time that is shown.
const VISIBLE_PART: i64 = 100;
/// The time that is shown, in minutes, and the distance of the marks on its axis: the shortest one with enough runs.
const WINDOWS: [(i64, i64); 9] =
    [(30, 5), (60, 10), (120, 20), (240, 60), (480, 120), (1_440, 240), (4_320, 720), (10_080, 1_440), (20_160, 2_880)];

#[derive(Template)]
#[template(path = "project_time_line.html")]
struct TimeLineView {
    title: String,
    told: String,
    bars: Vec<Bar>,
    ticks: Vec<Tick>,
    width: i64,
    height: i64,
    axis: i64,
    now_x: i64,
    as_day: bool,
}

struct Bar {
    y: i64,
    text_y: i64,
    wait: Option<BarPiece>,
    run: Option<BarPiece>,
    class: &'static str,
    label: String,
    label_x: i64,
    anchor: &'static str,
    hint: String,
}

#[derive(Clone, Copy)]
struct BarPiece {
    x: i64,
    width: i64,
}

struct Tick {
    x: i64,
    iso: String,
    text: String,
}

/// The time that is shown.
struct TimeWindow {
    from: Timestamp,
    now: Timestamp,
    step_minutes: i64,
    minutes: i64,
}

/// The longest time, in minutes, in which a usual run can still be seen.
fn longest(recent: &[&Deployment]) -> i64 {
    let run = |deployment: &&Deployment| Some(deployment.ended_at()?.duration_since(deployment.started_at?).as_secs());
    let mut runs: Vec<_> = recent.iter().filter_map(run).collect();
    runs.sort_unstable();
    let usual = runs.get(runs.len() / 2).copied().unwrap_or(0);
    usual * VISIBLE_PART / 60
}

impl TimeWindow {
    fn of(recent: &[&Deployment], now: Timestamp) -> Self {
        let mut starts: Vec<_> = recent.iter().filter_map(|deployment| deployment.started_at).collect();
        starts.sort_unstable_by(|one, other| other.cmp(one));
        let longest = longest(recent).max(WINDOWS[0].0);
        let fits = |begun: &&Timestamp| now.duration_since(**begun).as_mins() < longest;
        // If none is that young, the last one.
        let young = starts.iter().take_while(fits).take(RUNS_WANTED).last().or(starts.first());
        let begun = young.copied().unwrap_or(now);
        let age = now.duration_since(begun).as_mins();
        let fits = |(minutes, _): &&(i64, i64)| age < *minutes;
        let (minutes, step_minutes) = WINDOWS.iter().find(fits).copied().unwrap_or(WINDOWS[WINDOWS.len() - 1]);
        let from = now.checked_sub(SignedDuration::from_mins(minutes)).unwrap_or(now);
        TimeWindow { from, now, step_minutes, minutes }
    }

    fn x(&self, at: Timestamp) -> i64 {
        let all = self.now.as_second() - self.from.as_second();
        let past = at.as_second().clamp(self.from.as_second(), self.now.as_second()) - self.from.as_second();
        LEFT + past * (RIGHT - LEFT) / all.max(1)
    }

    fn piece(&self, from: Timestamp, to: Timestamp) -> Option<BarPiece> {
        if to < self.from || to <= from {
            return None;
        }
        let (x, end) = (self.x(from), self.x(to));
        Some(BarPiece { x, width: (end - x).max(2) })
    }

    /// The marks of the axis, at whole hours or days of UTC.
    fn ticks(&self) -> Vec<Tick> {
        let step = self.step_minutes * 60;
        let first = self.from.as_second().div_euclid(step) + 1;
        let moments = (first..).map(|at| at * step).take_while(|at| *at <= self.now.as_second());
        let tick = |second| {
            let at = Timestamp::from_second(second).ok()?;
            let format = if self.is_of_days() { "%-d %b" } else { "%H:%M" };
            let text = at.to_zoned(TimeZone::UTC).strftime(format).to_string();
            Some(Tick { x: self.x(at).clamp(16, WIDTH - 16), iso: format!("{at:.0}"), text })
        };
        moments.filter_map(tick).collect()
    }

    fn is_of_days(&self) -> bool {
        self.minutes >= 4_320
    }

    fn title(&self) -> String {
        match self.minutes {
            30 => "The last half hour".to_owned(),
            60 => "The last hour".to_owned(),
            minutes @ ..4_320 => format!("The last {} hours", minutes / 60),
            minutes => format!("The last {} days", minutes / 1_440),
        }
    }
}

/// The time line, as HTML. `recent` is the newest first.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn html(recent: &[Deployment], now: Timestamp) -> Result<String, ErrorAnswer> {
    // Of those that wait, the first ones in line.
    let waiting = recent.iter().rev().filter(|deployment| deployment.is_waiting()).take(WAITING_LIMIT);
    let others = recent.iter().filter(|deployment| !deployment.is_waiting()).take(BARS_LIMIT - WAITING_LIMIT);
    let mut shown: Vec<_> = others.chain(waiting).collect();
    shown.sort_by_key(|deployment| deployment.created_at);
    let window = TimeWindow::of(&shown, now);
    let mut lanes: Vec<i64> = Vec::new();
    let bars: Vec<_> = shown.into_iter().filter_map(|deployment| bar(deployment, &window, &mut lanes)).collect();
    let axis = TOP + LANE * i64::try_from(lanes.len()).unwrap_or(0) + 4;
    rendered(&TimeLineView {
        title: window.title(),
        told: match bars.len() {
            0 => "Nothing ran and nobody waited.".to_owned(),
            1 => "One deployment; the history below says the same.".to_owned(),
            count => format!("{count} deployments; the history below says the same."),
        },
        ticks: window.ticks(),
        width: WIDTH,
        height: axis + 20,
        axis,
        now_x: RIGHT,
        as_day: window.is_of_days(),
        bars,
    })
}

fn bar(deployment: &Deployment, window: &TimeWindow, lanes: &mut Vec<i64>) -> Option<Bar> {
    let now = window.now;
    let end = deployment.ended_at().unwrap_or(now);
    let wait = window.piece(deployment.created_at, deployment.started_at.unwrap_or(end));
    let run = deployment.started_at.and_then(|at| window.piece(at, end.max(at + SignedDuration::from_millis(1))));
    let first = wait.or(run)?;
    let last = run.or(wait)?;
    let (begin, end) = (first.x, last.x + last.width);
    let tag = Tag::of(deployment, Liveness::Alive);
    let label = label(deployment, &tag);
    let width = i64::try_from(label.chars().count()).unwrap_or(0) * LETTER;
    // Behind the bar, or before it, or on it.
    let (label_x, anchor, from, to) = if end + 6 + width <= WIDTH {
        (end + 6, "start", begin, end + 6 + width)
    } else if begin - 6 - width >= 0 {
        (begin - 6, "end", begin - 6 - width, end)
    } else {
        (begin.max(LEFT) + 6, "start", begin, end.max(begin + 6 + width))
    };
    let free = lanes.iter().position(|used| *used + 12 <= from);
    let lane = free.unwrap_or_else(|| {
        lanes.push(0);
        lanes.len() - 1
    });
    lanes[lane] = to;
    let y = TOP + LANE * i64::try_from(lane).unwrap_or(0);
    let what = words::what(deployment);
    Some(Bar {
        y,
        text_y: y + 11,
        wait,
        run,
        class: match tag.class {
            "run" => "b-run",
            "ok" => "b-ok",
            "bad" => "b-bad",
            "wait" if deployment.started_at.is_some() => "b-run",
            _ => "b-off",
        },
        hint: format!("{} {}, {}", words::label(deployment), what, tag.word),
        label,
        label_x,
        anchor,
    })
}

fn label(deployment: &Deployment, tag: &Tag) -> String {
    let actor = shortened(&deployment.spec.actor.as_deref().map(plain).unwrap_or_default(), 16);
    let name = format!("#{} {actor}", deployment.number).trim_end().to_owned();
    match (&deployment.state, tag.class) {
        (State::Finished { .. }, "ok") => name,
        (State::Running(_), "run") => format!("{name}, running"),
        _ => format!("{name} {}", shortened(&tag.word, 26)),
    }
}
