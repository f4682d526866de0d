use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a test's time")
}

fn freeze(from: &str, to: &str, zone: &str) -> Freeze {
    let point = |text: &str| text.parse::<Point>().expect("a test's point");
    let window = Window::between(point(from), point(to)).expect("a test's window");
    Freeze { window, zone: TimeZone::get(zone).expect("a test's zone"), reason: Some(format!("{from} to {to}")) }
}

/// Since when and until when it is frozen at `now`.
fn hold(freezes: &[Freeze], now: &str) -> Option<(String, String)> {
    frozen(freezes, at(now)).map(|frozen| (frozen.since.to_string(), frozen.until.to_string()))
}

#[track_caller]
fn assert_held(freezes: &[Freeze], now: &str, since: &str, until: &str) {
    assert_eq!(hold(freezes, now), Some((since.to_owned(), until.to_owned())), "at {now}");
}

#[test]
fn a_weekly_window_holds_from_its_begin_up_to_its_end_and_not_at_its_end() {
    let weekend = [freeze("Fri 16:00", "Mon 08:00", "Europe/Berlin")];
    // In winter Berlin is an hour ahead of UTC, in summer two.
    for (now, expected) in [
        ("2026-01-16T14:59:59Z", None),
        ("2026-01-16T15:00:00Z", Some(("2026-01-16T15:00:00Z", "2026-01-19T07:00:00Z"))),
        ("2026-01-18T12:00:00Z", Some(("2026-01-16T15:00:00Z", "2026-01-19T07:00:00Z"))),
        ("2026-01-19T06:59:59.999Z", Some(("2026-01-16T15:00:00Z", "2026-01-19T07:00:00Z"))),
        ("2026-01-19T07:00:00Z", None),
        ("2026-01-21T12:00:00Z", None),
        ("2026-07-17T14:00:00Z", Some(("2026-07-17T14:00:00Z", "2026-07-20T06:00:00Z"))),
    ] {
        let expected = expected.map(|(since, until)| (since.to_owned(), until.to_owned()));
        assert_eq!(hold(&weekend, now), expected, "at {now}");
    }
}

#[test]
fn a_window_within_a_day_and_one_of_almost_a_week_hold_in_their_own_weeks() {
    let lunch = [freeze("wednesday 12:00", "WED 13:00", "UTC")];
    assert_held(&lunch, "2026-01-14T12:30:00Z", "2026-01-14T12:00:00Z", "2026-01-14T13:00:00Z");
    assert_eq!(hold(&lunch, "2026-01-14T13:00:00Z"), None);
    let but_an_hour = [freeze("Wed 13:00", "Wed 12:00", "UTC")];
    assert_eq!(hold(&but_an_hour, "2026-01-14T12:30:00Z"), None);
    assert_held(&but_an_hour, "2026-01-14T11:00:00Z", "2026-01-07T13:00:00Z", "2026-01-14T12:00:00Z");
    assert_held(&but_an_hour, "2026-01-14T13:00:00Z", "2026-01-14T13:00:00Z", "2026-01-21T12:00:00Z");
}

#[test]
fn the_weekend_in_which_clocks_change_is_an_hour_shorter_or_longer() {
    let weekend = [freeze("Fri 16:00", "Mon 08:00", "Europe/Berlin")];
    assert_held(&weekend, "2026-03-29T12:00:00Z", "2026-03-27T15:00:00Z", "2026-03-30T06:00:00Z");
    assert_held(&weekend, "2026-10-25T12:00:00Z", "2026-10-23T14:00:00Z", "2026-10-26T07:00:00Z");
}

#[test]
fn a_time_that_the_clocks_skip_is_the_moment_at_which_they_jump() {
    // On 29 March 2026 the clocks of Berlin go from 02:00 to 03:00, at 01:00 UTC.
    let begins = [freeze("Sun 02:30", "Sun 06:00", "Europe/Berlin")];
    assert_held(&begins, "2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T04:00:00Z");
    assert_eq!(hold(&begins, "2026-03-29T00:59:59Z"), None);
    let ends = [freeze("Sat 22:00", "Sun 02:30", "Europe/Berlin")];
    assert_held(&ends, "2026-03-29T00:59:59Z", "2026-03-28T21:00:00Z", "2026-03-29T01:00:00Z");
    assert_eq!(hold(&ends, "2026-03-29T01:00:00Z"), None);
    // A window that lies within the skipped hour does not take place.
    let skipped = [freeze("Sun 02:10", "Sun 02:50", "Europe/Berlin")];
    assert_eq!(hold(&skipped, "2026-03-29T01:00:00Z"), None);
    assert_held(&skipped, "2026-03-22T01:20:00Z", "2026-03-22T01:10:00Z", "2026-03-22T01:50:00Z");
}

#[test]
fn of_a_time_that_comes_twice_a_window_begins_at_the_first_and_ends_at_the_second() {
    // On 25 October 2026 the clocks of Berlin go from 03:00 back to 02:00, at 01:00 UTC: 02:30 is at 00:30 and at 01:30.
    let begins = [freeze("Sun 02:30", "Sun 06:00", "Europe/Berlin")];
    assert_held(&begins, "2026-10-25T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T05:00:00Z");
    assert_eq!(hold(&begins, "2026-10-25T00:29:59Z"), None);
    let ends = [freeze("Sat 22:00", "Sun 02:30", "Europe/Berlin")];
    assert_held(&ends, "2026-10-25T01:29:59Z", "2026-10-24T20:00:00Z", "2026-10-25T01:30:00Z");
    assert_eq!(hold(&ends, "2026-10-25T01:30:00Z"), None);
    let both = [freeze("Sun 02:30", "Sun 02:40", "Europe/Berlin")];
    assert_held(&both, "2026-10-25T01:20:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:40:00Z");
}

#[test]
fn zones_of_the_south_and_with_odd_offsets_are_known() {
    let weekend = [freeze("Sat 00:00", "Mon 00:00", "Australia/Lord_Howe")];
    // Lord Howe's summer time is half an hour: from +10:30 to +11:00.
    assert_held(&weekend, "2026-10-03T12:00:00Z", "2026-10-02T13:30:00Z", "2026-10-04T13:00:00Z");
    let night = [freeze("Tue 20:00", "Wed 06:00", "Asia/Kathmandu")];
    assert_held(&night, "2026-05-05T15:00:00Z", "2026-05-05T14:15:00Z", "2026-05-06T00:15:00Z");
}

#[test]
fn a_window_of_dates_holds_once_or_every_year_and_over_the_end_of_the_year() {
    let once = [freeze("2026-12-20", "2027-01-02 08:00", "UTC")];
    assert_held(&once, "2026-12-31T23:59:59Z", "2026-12-20T00:00:00Z", "2027-01-02T08:00:00Z");
    assert_eq!(hold(&once, "2025-12-25T00:00:00Z"), None);
    assert_eq!(hold(&once, "2027-12-25T00:00:00Z"), None);
    let yearly = [freeze("12-20", "01-02 08:00", "UTC")];
    for (now, year) in [("2026-12-20T00:00:00Z", 2026), ("2027-01-02T07:59:59Z", 2026), ("2030-12-31T00:00:00Z", 2030)]
    {
        let (since, until) = (format!("{year}-12-20T00:00:00Z"), format!("{}-01-02T08:00:00Z", year + 1));
        assert_held(&yearly, now, &since, &until);
    }
    assert_eq!(hold(&yearly, "2027-01-02T08:00:00Z"), None);
    let leap = [freeze("02-29", "02-29 12:00", "UTC")];
    assert_held(&leap, "2028-02-29T10:00:00Z", "2028-02-29T00:00:00Z", "2028-02-29T12:00:00Z");
    assert_held(&leap, "2027-03-01T10:00:00Z", "2027-02-28T00:00:00Z", "2027-03-01T12:00:00Z");
}

#[test]
fn windows_that_overlap_or_follow_each_other_end_together() {
    let freezes = [
        freeze("Fri 16:00", "Sun 12:00", "UTC"),
        freeze("Sun 10:00", "Mon 08:00", "UTC"),
        freeze("Mon 08:00", "Mon 09:00", "UTC"),
        freeze("Wed 08:00", "Wed 09:00", "UTC"),
    ];
    assert_held(&freezes, "2026-01-16T20:00:00Z", "2026-01-16T16:00:00Z", "2026-01-19T09:00:00Z");
    // Where two hold at once, the one that ends last is told.
    let told = frozen(&freezes, at("2026-01-18T11:00:00Z")).expect("two windows hold");
    assert_eq!(told.reason.as_deref(), Some("Sun 10:00 to Mon 08:00"));
    assert_eq!(hold(&freezes, "2026-01-19T09:00:00Z"), None);
}

#[test]
fn the_next_change_is_the_next_begin_or_end() {
    let weekend = [freeze("Fri 16:00", "Mon 08:00", "UTC"), freeze("2026-01-14 10:00", "2026-01-14 11:00", "UTC")];
    for (now, next) in [
        ("2026-01-12T08:00:00Z", "2026-01-14T10:00:00Z"),
        ("2026-01-14T10:00:00Z", "2026-01-14T11:00:00Z"),
        ("2026-01-14T11:00:00Z", "2026-01-16T16:00:00Z"),
        ("2026-01-16T16:00:00Z", "2026-01-19T08:00:00Z"),
        ("2026-01-19T07:59:59.999Z", "2026-01-19T08:00:00Z"),
    ] {
        assert_eq!(next_change(&weekend, at(now)), Some(at(next)), "after {now}");
    }
    assert_eq!(next_change(&[], at("2026-01-01T00:00:00Z")), None);
    assert_eq!(next_change(&weekend[1..], at("2026-01-14T11:00:00Z")), None, "it is over for good");
}

#[test]
fn windows_without_a_gap_never_end() {
    let reference = at("2026-01-01T00:00:00Z");
    let whole_week = [freeze("Mon 00:00", "Fri 00:00", "UTC"), freeze("Fri 00:00", "Mon 00:00", "UTC")];
    assert!(never_end(&whole_week, reference));
    let whole_year = [freeze("01-01", "07-01", "UTC"), freeze("06-01", "01-01", "UTC")];
    assert!(never_end(&whole_year, reference));
    let with_a_gap = [freeze("Mon 00:00", "Fri 00:00", "UTC"), freeze("Fri 00:01", "Mon 00:00", "UTC")];
    assert!(!never_end(&with_a_gap, reference));
    assert!(!never_end(&[freeze("2000-01-01", "2100-01-01", "UTC")], reference), "far away is an end, too");
}

#[test]
fn what_is_no_window_is_refused_with_a_sentence() {
    for (text, told) in [
        ("Fri", "needs a time"),
        ("Fry 16:00", "must be a day of the week"),
        ("Fri 24:00", "no clock shows"),
        ("Fri 16.00", "must be a day of the week"),
        ("13-01", "no calendar has"),
        ("2026-02-29", "no calendar has"),
        ("2026-1", "must be a day of the week"),
        ("", "must be a day of the week"),
        ("tomorrow", "must be a day of the week"),
    ] {
        let refused = text.parse::<Point>().expect_err(text);
        assert!(refused.contains(told), "{text}: {refused}");
    }
    let between = |from: &str, to: &str| {
        let point = |text: &str| text.parse::<Point>().expect("a test's point");
        Window::between(point(from), point(to))
    };
    for (from, to, told) in [
        ("Fri 16:00", "Fri 16:00", "never end"),
        ("12-20", "12-20 00:00", "never end"),
        ("2026-12-20", "2026-12-19", "ends before it begins"),
        ("Fri 16:00", "2026-12-19", "two different forms"),
        ("12-20", "2026-12-24", "two different forms"),
    ] {
        let refused = between(from, to).expect_err(from);
        assert!(refused.contains(told), "{from} to {to}: {refused}");
    }
}

#[test]
fn a_window_is_told_as_it_is_written() {
    let told = |from, to, zone| Freeze { reason: None, ..freeze(from, to, zone) }.to_string();
    assert_eq!(told("friday 16:00", "mon 8:00", "Europe/Berlin"), "Fri 16:00 to Mon 08:00, Europe/Berlin");
    assert_eq!(told("12-20", "01-02 08:00", "UTC"), "12-20 00:00 to 01-02 08:00 of each year, UTC");
    assert_eq!(told("2026-12-20", "2027-01-02", "UTC"), "2026-12-20 00:00 to 2027-01-02 00:00, UTC");
}
