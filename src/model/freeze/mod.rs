//! Freeze windows: times in which nobody of a project is given the slot. See decision 0070.
//!
//! A window is written in the local time of its time zone. Where clocks are set back, a time comes twice: a window begins
//! at the first of the two, and ends at the second. A time that the clocks skip stands for the moment at which they jump.
//! So no local time within a window is ever open.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};

/// How many windows may follow each other without a gap: weekly windows for twenty years.
const CHAIN_LIMIT: usize = 1_000;

/// One window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// When.
    pub window: Window,
    /// The time zone of the window's times.
    pub zone: TimeZone,
    /// Why, for people.
    pub reason: Option<String>,
}

/// The times of a window, in its time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Every week.
    Weekly {
        /// The begin.
        from: WeekTime,
        /// The end, within the seven days after the begin.
        to: WeekTime,
    },
    /// Every year.
    Yearly {
        /// The begin.
        from: YearTime,
        /// The end, within the year after the begin.
        to: YearTime,
    },
    /// Once.
    Once {
        /// The begin.
        from: DateTime,
        /// The end.
        to: DateTime,
    },
}

/// A time of each week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekTime {
    /// The day.
    pub day: Weekday,
    /// The time of that day.
    pub time: Time,
}

/// A time of each year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct YearTime {
    /// 1 to 12.
    pub month: i8,
    /// 1 to 31.
    pub day: i8,
    /// The time of that day.
    pub time: Time,
}

/// A begin or an end as it is written: `Fri 16:00`, `12-20 08:00`, `2026-12-20 08:00`. Without a time, a date means its
/// begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Of each week.
    Week(WeekTime),
    /// Of each year.
    Year(YearTime),
    /// Of one day.
    Day(DateTime),
}

/// What is frozen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// Since when.
    pub since: Timestamp,
    /// The end of this window, and of all windows that overlap it or follow it without a gap.
    pub until: Timestamp,
    /// Why, for people.
    pub reason: Option<String>,
}

impl Window {
    /// The window between two points.
    ///
    /// # Errors
    /// There is no such window; the error is a sentence for people.
    pub fn between(from: Point, to: Point) -> Result<Window, &'static str> {
        match (from, to) {
            (Point::Week(from), Point::Week(to)) if from == to => Err(
                "begins and ends at the same time, so it would never end; to hold a project for good, use `paused = true`",
            ),
            (Point::Year(from), Point::Year(to)) if from == to => Err(
                "begins and ends at the same time, so it would never end; to hold a project for good, use `paused = true`",
            ),
            (Point::Day(from), Point::Day(to)) if from >= to => Err("ends before it begins"),
            (Point::Week(from), Point::Week(to)) => Ok(Window::Weekly { from, to }),
            (Point::Year(from), Point::Year(to)) => Ok(Window::Yearly { from, to }),
            (Point::Day(from), Point::Day(to)) => Ok(Window::Once { from, to }),
            (Point::Week(_) | Point::Year(_) | Point::Day(_), _) => Err(
                "begins and ends in two different forms; give both as a day of the week, or both as a date with a year, or \
                 both as a date without one",
            ),
        }
    }
}

impl FromStr for Point {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be a day of the week with a time (Fri 16:00), or a date (2026-12-20 08:00, or every year: 12-20 08:00)";
        let text = text.trim();
        // `2026-12-20T08:00` is a date, too.
        let in_date = text.starts_with(|first: char| first.is_ascii_digit()).then(|| text.split_once('T')).flatten();
        let (day, time) = match text.split_once(' ').or(in_date) {
            Some((day, time)) => (day, Some(time.trim())),
            None => (text, None),
        };
        let midnight = Time::midnight();
        let time_of = |text: &str| {
            let (hour, minute) = text.split_once(':').ok_or(wrong)?;
            let (minute, second) = minute.split_once(':').unwrap_or((minute, "0"));
            let [hour, minute, second] = [hour, minute, second].map(two_digits);
            Time::new(hour.ok_or(wrong)?, minute.ok_or(wrong)?, second.ok_or(wrong)?, 0)
                .map_err(|_| "has a time that no clock shows; the day is from 00:00 to 23:59")
        };
        let given = time.map(time_of).transpose()?;
        if let Some(day) = weekday(day) {
            let time = given.ok_or("needs a time beside the day of the week, such as Fri 16:00")?;
            return Ok(Point::Week(WeekTime { day, time }));
        }
        let time = given.unwrap_or(midnight);
        match day.split('-').collect::<Vec<_>>().as_slice() {
            [month, day] => {
                let (month, day) = (two_digits(month).ok_or(wrong)?, two_digits(day).ok_or(wrong)?);
                // A leap year has every day that there is.
                Date::new(2024, month, day).map_err(|_| "has a date that no calendar has")?;
                Ok(Point::Year(YearTime { month, day, time }))
            }
            [year, month, day] if year.len() == 4 => {
                let year = year.parse().map_err(|_| wrong)?;
                let (month, day) = (two_digits(month).ok_or(wrong)?, two_digits(day).ok_or(wrong)?);
                let date = Date::new(year, month, day).map_err(|_| "has a date that no calendar has")?;
                Ok(Point::Day(date.to_datetime(time)))
            }
            _ => Err(wrong),
        }
    }
}

const DAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];

fn two_digits(text: &str) -> Option<i8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn weekday(text: &str) -> Option<Weekday> {
    let text = text.to_ascii_lowercase();
    DAYS.into_iter().find(|(name, _)| text == *name || text == name[..3]).map(|(_, day)| day)
}

/// `Fri 16:00 to Mon 08:00, Europe/Berlin`.
impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.window {
            Window::Weekly { from, to } => write!(f, "{from} to {to}")?,
            Window::Yearly { from, to } => write!(f, "{from} to {to} of each year")?,
            Window::Once { from, to } => {
                write!(f, "{} to {}", from.strftime("%Y-%m-%d %H:%M"), to.strftime("%Y-%m-%d %H:%M"))?;
            }
        }
        write!(f, ", {}", self.zone.iana_name().unwrap_or("UTC"))?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for WeekTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = DAYS.iter().find(|(_, day)| *day == self.day).map_or("", |(name, _)| name);
        write!(f, "{}{} {}", name[..1].to_ascii_uppercase(), &name[1..3], self.time.strftime("%H:%M"))
    }
}

impl fmt::Display for YearTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}-{:02} {}", self.month, self.day, self.time.strftime("%H:%M"))
    }
}

impl Freeze {
    /// The occurrences around `now`: the ones that it may lie in, and the next ones.
    fn occurrences(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let today = self.zone.to_datetime(now).date();
        let local: Vec<(DateTime, DateTime)> = match self.window {
            Window::Once { from, to } => vec![(from, to)],
            Window::Weekly { from, to } => {
                let days = match i64::from(to.day.since(from.day)) {
                    0 if to.time <= from.time => 7,
                    days => days,
                };
                let last = i64::from(today.weekday().since(from.day));
                let begins = (-1..=2).filter_map(|week| later(today, 7 * week - last));
                let both = |begin: Date| Some((begin.to_datetime(from.time), later(begin, days)?.to_datetime(to.time)));
                begins.filter_map(both).collect()
            }
            Window::Yearly { from, to } => (-1..=2)
                .filter_map(|years| {
                    let begin = today.year().checked_add(years)?;
                    let end = if to > from { begin } else { begin.checked_add(1)? };
                    Some((from.begin_in(begin)?, to.end_in(end)?))
                })
                .collect(),
        };
        let instants = |(from, to)| Some((self.begin(from)?, self.end(to)?));
        local.into_iter().filter_map(instants).filter(|(from, to)| from < to).collect()
    }

    /// The instant at which a window begins that begins at this local time.
    fn begin(&self, local: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(local).ok()
            }
            AmbiguousOffset::Gap { before, .. } => self.jump(before.to_timestamp(local).ok()?),
        }
    }

    /// The instant at which a window ends that ends at this local time.
    fn end(&self, local: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { after: offset, .. } => {
                offset.to_timestamp(local).ok()
            }
            AmbiguousOffset::Gap { before, .. } => self.jump(before.to_timestamp(local).ok()?),
        }
    }

    /// The moment at which the clocks jumped, shortly before `after` or exactly then.
    fn jump(&self, after: Timestamp) -> Option<Timestamp> {
        let behind = after.checked_add(jiff::Span::new().nanoseconds(1)).ok()?;
        self.zone.preceding(behind).next().map(|transition| transition.timestamp())
    }
}

impl YearTime {
    /// In a year without 29 February, that day is the one before it at a window's begin, and the one after it at its end.
    fn begin_in(self, year: i16) -> Option<DateTime> {
        let date = Date::new(year, self.month, self.day).or_else(|_| Date::new(year, 2, 28));
        date.ok().map(|date| date.to_datetime(self.time))
    }

    fn end_in(self, year: i16) -> Option<DateTime> {
        let date = Date::new(year, self.month, self.day).or_else(|_| Date::new(year, 3, 1));
        date.ok().map(|date| date.to_datetime(self.time))
    }
}

fn later(date: Date, days: i64) -> Option<Date> {
    date.checked_add(jiff::Span::new().try_days(days).ok()?).ok()
}

/// The window that holds at `now`, if there is one: of several, the one that ends last.
pub fn frozen(freezes: &[Freeze], now: Timestamp) -> Option<Frozen> {
    let (since, end, reason) = present(freezes, now)?;
    let (until, _) = chain(freezes, end);
    Some(Frozen { since, until, reason: reason.cloned() })
}

/// Whether these windows, from some moment on, leave no gap.
pub fn never_end(freezes: &[Freeze], now: Timestamp) -> bool {
    let begins = freezes.iter().flat_map(|freeze| freeze.occurrences(now)).map(|(begin, _)| begin);
    begins.map(|begin| chain(freezes, begin)).any(|(_, is_endless)| is_endless)
}

/// The next moment after `now` at which a window begins or ends.
pub fn next_change(freezes: &[Freeze], now: Timestamp) -> Option<Timestamp> {
    let all = freezes.iter().flat_map(|freeze| freeze.occurrences(now)).flat_map(|(begin, end)| [begin, end]);
    all.filter(|at| *at > now).min()
}

/// The window in which `now` lies and that ends last.
fn present(freezes: &[Freeze], now: Timestamp) -> Option<(Timestamp, Timestamp, Option<&String>)> {
    let all = freezes.iter().flat_map(|freeze| {
        let occurrences = freeze.occurrences(now).into_iter();
        occurrences.map(|(begin, end)| (begin, end, freeze.reason.as_ref()))
    });
    all.filter(|(begin, end, _)| *begin <= now && now < *end).max_by_key(|(_, end, _)| *end)
}

/// The end of the windows that follow each other from `at` on, and whether they never end.
fn chain(freezes: &[Freeze], at: Timestamp) -> (Timestamp, bool) {
    let mut until = at;
    for _ in 0..CHAIN_LIMIT {
        match present(freezes, until) {
            Some((_, end, _)) => until = end,
            None => return (until, false),
        }
    }
    (until, true)
}

#[cfg(test)]
mod tests;
