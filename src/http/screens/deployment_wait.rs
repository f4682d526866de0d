//! For whom and for what a deployment waited, part by part. The parts follow each other without a gap, so they add up to the
//! whole wait; what nobody knows is a part, too.

use jiff::Timestamp;

use super::deployment_course::Stand;

/// A time in which another deployment had the slot.
#[derive(Clone, Debug)]
pub struct Occupation {
    /// Which one.
    pub of: usize,
    /// When it got the slot.
    pub from: Timestamp,
    /// When it was started, if it was.
    pub started_at: Option<Timestamp>,
    /// When it gave the slot up, if it has.
    pub until: Option<Timestamp>,
}

/// A time in which something held the project.
#[derive(Clone, Debug)]
pub struct KnownHold {
    /// From when.
    pub from: Timestamp,
    /// Until when, if it has ended.
    pub until: Option<Timestamp>,
    /// What, as HTML.
    pub words: String,
}

/// For what a deployment waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// For another one, which ran.
    Run(usize),
    /// For another one, for which the slot was kept and which had not started.
    Kept(usize),
    /// For the end of something that held the project.
    Hold(String),
    /// The slot was kept for it, and it had not started.
    CalledUp,
    /// Nobody knows.
    NotKnown,
}

/// A part of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitPart {
    /// Its begin: the end of the part before.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
    /// For what.
    pub reason: WaitReason,
}

/// The parts of the wait from `begin` to `end`.
pub fn parts(
    (begin, end): (Timestamp, Timestamp),
    stands: &[Stand],
    occupations: &[Occupation],
    holds: &[KnownHold],
) -> Vec<WaitPart> {
    let of_stands = stands.iter().flat_map(|stand| [Some(stand.at), stand.hold.as_ref().and_then(|hold| hold.until)]);
    let of_others = occupations.iter().flat_map(|it| [Some(it.from), it.started_at, it.until]);
    let of_holds = holds.iter().flat_map(|it| [Some(it.from), it.until]);
    let within = |at: &Timestamp| begin < *at && *at < end;
    let mut moments: Vec<_> = of_stands.chain(of_others).chain(of_holds).flatten().filter(within).collect();
    moments.extend([begin, end]);
    moments.sort_unstable();
    moments.dedup();
    let mut parts: Vec<WaitPart> = Vec::new();
    for pair in moments.windows(2) {
        let (from, until) = (pair[0], pair[1]);
        let reason = reason(from, stands, occupations, holds);
        match parts.last_mut().filter(|last| last.reason == reason) {
            Some(last) => last.until = until,
            None => parts.push(WaitPart { from, until, reason }),
        }
    }
    parts
}

/// For what it waited from this moment on, up to the next one at which anything changed.
fn reason(at: Timestamp, stands: &[Stand], occupations: &[Occupation], holds: &[KnownHold]) -> WaitReason {
    let so_far = || stands.iter().take_while(|stand| stand.at <= at);
    if so_far().last().is_some_and(|stand| stand.position == 0) {
        return WaitReason::CalledUp;
    }
    let lasts = |from: Timestamp, until: Option<Timestamp>| from <= at && until.is_none_or(|until| at < until);
    if let Some(other) = occupations.iter().find(|it| lasts(it.from, it.until)) {
        return match other.started_at {
            Some(started) if started <= at => WaitReason::Run(other.of),
            Some(_) | None => WaitReason::Kept(other.of),
        };
    }
    // The one that began last: it may have replaced another.
    let known = holds.iter().filter(|hold| lasts(hold.from, hold.until)).max_by_key(|hold| hold.from);
    if let Some(hold) = known {
        return WaitReason::Hold(hold.words.clone());
    }
    let told = so_far().filter_map(|stand| stand.hold.as_ref()).last();
    match told.filter(|hold| hold.until.is_none_or(|until| at < until)) {
        Some(hold) => WaitReason::Hold(super::row::held(hold)),
        None => WaitReason::NotKnown,
    }
}

/// How many whole seconds are shown of each part, so that they add up to the whole seconds of all.
pub fn seconds(parts: &[WaitPart]) -> Vec<u64> {
    let Some(begin) = parts.first().map(|part| part.from.as_millisecond()) else { return Vec::new() };
    let upto = |at: Timestamp| u64::try_from((at.as_millisecond() - begin) / 1_000).unwrap_or(0);
    parts.iter().map(|part| upto(part.until) - upto(part.from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hold, HoldKind};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + ms).expect("it is a time")
    }

    fn stand(ms: i64, position: u64, hold: Option<Hold>) -> Stand {
        Stand { at: at(ms), position, blocker: None, hold, overtaker: None }
    }

    fn freeze(until: i64) -> Hold {
        let (since, until) = (Some(at(0)), Some(at(until)));
        Hold { kind: HoldKind::Freeze, reason: None, by: None, actor: None, since, until, pin: None }
    }

    fn occupation(of: usize, from: i64, started: Option<i64>, until: Option<i64>) -> Occupation {
        Occupation { of, from: at(from), started_at: started.map(at), until: until.map(at) }
    }

    #[track_caller]
    fn add_up(parts: &[WaitPart], begin: i64, end: i64) {
        assert_eq!((parts[0].from, parts[parts.len() - 1].until), (at(begin), at(end)));
        assert!(parts.windows(2).all(|pair| pair[0].until == pair[1].from && pair[0].reason != pair[1].reason));
        assert_eq!(seconds(parts).iter().sum::<u64>(), u64::try_from((end - begin) / 1_000).expect("it is positive"));
    }

    #[test]
    fn the_parts_follow_each_other_and_add_up() {
        let stands = [stand(500, 3, None), stand(90_700, 0, None)];
        let others = [
            occupation(7, -60_000, Some(-50_000), Some(20_250)),
            occupation(8, 20_250, Some(24_999), Some(60_100)),
            occupation(9, 60_100, None, Some(61_900)),
        ];
        let holds = [KnownHold { from: at(50_000), until: Some(at(80_000)), words: "paused".to_owned() }];
        let parts = parts((at(500), at(95_333)), &stands, &others, &holds);
        let reasons: Vec<_> = parts.iter().map(|part| part.reason.clone()).collect();
        assert_eq!(
            reasons,
            [
                WaitReason::Run(7),
                WaitReason::Kept(8),
                WaitReason::Run(8),
                WaitReason::Kept(9),
                WaitReason::Hold("paused".to_owned()),
                WaitReason::NotKnown,
                WaitReason::CalledUp,
            ]
        );
        assert_eq!(seconds(&parts), [19, 5, 35, 2, 18, 11, 4]);
        add_up(&parts, 500, 95_333);
    }

    #[test]
    fn a_slot_that_was_taken_back_and_a_freeze_are_parts() {
        let stands = [stand(0, 0, None), stand(2_500, 1, Some(freeze(9_000))), stand(9_000, 0, None)];
        let parts = parts((at(0), at(9_999)), &stands, &[], &[]);
        let is_held = |part: &WaitPart| matches!(&part.reason, WaitReason::Hold(words) if words.contains("frozen"));
        assert_eq!(parts.iter().map(is_held).collect::<Vec<_>>(), [false, true, false], "{parts:?}");
        assert_eq!(parts[0].reason, WaitReason::CalledUp);
        add_up(&parts, 0, 9_999);
    }

    #[test]
    fn what_nobody_knows_is_a_part_too() {
        let parts = parts((at(0), at(1_500)), &[stand(0, 1, None)], &[], &[]);
        assert_eq!(parts, [WaitPart { from: at(0), until: at(1_500), reason: WaitReason::NotKnown }]);
        add_up(&parts, 0, 1_500);
        assert!(super::parts((at(5), at(5)), &[], &[], &[]).is_empty());
    }

    #[test]
    fn any_parts_add_up() {
        // A simple generator of numbers: times of all kinds, also such as contradict each other.
        let mut state = 7_u64;
        let mut next = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((state >> 33) % limit).expect("it is small")
        };
        for _ in 0..500 {
            let end = next(100_000) + 1;
            let stands: Vec<_> = (0..next(4)).map(|_| stand(next(100_000), next(2).unsigned_abs(), None)).collect();
            let others: Vec<_> =
                (0..5).map(|of| occupation(of, next(100_000), Some(next(100_000)), Some(next(100_000)))).collect();
            let holds: Vec<_> = (0..2)
                .map(|_| KnownHold {
                    from: at(next(100_000)),
                    until: Some(at(next(100_000))),
                    words: "held".to_owned(),
                })
                .collect();
            add_up(&parts((at(0), at(end)), &stands, &others, &holds), 0, end);
        }
    }
}
