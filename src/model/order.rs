//! Decides which of two deployments is the newer one, and which deployments in line a start ends. No other module
//! decides this. See decision 0031.

use std::cmp::Ordering;

use super::{
    deployment::{Deployment, Spec},
    ids::Revision,
    mark::BuildMark,
    mention::Mention,
    project::Project,
};

/// How far the ranks of two neighbours in line are apart where nothing was put between them: room for twenty
/// deployments.
const RANK_STEP: i64 = 1 << 20;

/// The two facts that decide which of two deployments is newer: the spec, and the order of arrival.
#[derive(Clone, Copy, Debug)]
pub struct Age<'a> {
    /// The spec.
    pub spec: &'a Spec,
    /// The place in the order of arrival.
    pub ticket: Revision,
}

/// Whether `b` is newer than `a`: by `order` where both have one and neither is a declared rollback, else by arrival.
/// Equal orders are not newer than each other, nor are two of the same CI run.
pub fn is_newer(b: Age<'_>, a: Age<'_>) -> bool {
    match by_order(b.spec, a.spec) {
        Some(ordering) => ordering == Ordering::Greater,
        None => !is_same_run(b.spec.url.as_deref(), a.spec.url.as_deref()) && b.ticket > a.ticket,
    }
}

/// The ranks of deployments that were put before everybody who is held, in the order of their arrival. They are lower than
/// all other ranks. A rank of this range does not end older deployments.
const OVERRIDING_RANKS: std::ops::Range<i64> = -(1 << 62)..-(1 << 61);

/// The rank of a deployment that goes before everybody who is held.
pub fn overriding_rank(ticket: Revision) -> i64 {
    let place = i64::try_from(ticket.0).unwrap_or(i64::MAX).min(OVERRIDING_RANKS.end - OVERRIDING_RANKS.start - 1);
    OVERRIDING_RANKS.start + place
}

/// Whether this rank is one of [`overriding_rank`].
pub fn is_overriding(rank: i64) -> bool {
    OVERRIDING_RANKS.contains(&rank)
}

/// Whether `a`, which waits, ends superseded when `b` starts, provided that `b` ends all older deployments. An ordinary
/// deployment does not end a declared rollback.
pub fn supersedes(b: Age<'_>, a: Age<'_>) -> bool {
    is_newer(b, a) && (b.spec.rollback || !a.spec.rollback)
}

/// Whether both are of the same CI run, by the page of their job.
pub fn is_same_run(one: Option<&str>, other: Option<&str>) -> bool {
    one.is_some() && one == other
}

/// The mark of the project, where it is above the build number of `spec`, so that a start of `spec` would go backwards.
pub fn outdated_by(spec: &Spec, project: &Project) -> Option<BuildMark> {
    let order = ordinary_order(spec)?;
    project.mark_order().filter(|mark| *mark > order).and_then(|_| project.mark())
}

/// The build number of a deployment that goes forwards. A declared rollback is not judged by its own.
pub fn ordinary_order(spec: &Spec) -> Option<u64> {
    spec.order.filter(|_| !spec.rollback)
}

fn by_order(b: &Spec, a: &Spec) -> Option<Ordering> {
    Some(ordinary_order(b)?.cmp(&ordinary_order(a)?))
}

impl Deployment {
    /// The facts that decide whether it is newer than another one.
    pub fn age(&self) -> Age<'_> {
        Age { spec: &self.spec, ticket: self.ticket }
    }

    /// Its place in the order in which the line is served.
    pub fn rank(&self) -> i64 {
        self.line_rank.unwrap_or_else(|| rank_of_arrival(self.ticket))
    }

    /// Whether `waiting`, which is served after this deployment, ends superseded when this deployment starts. If this
    /// deployment was put before older ones, every older one ends; else those with a lower `order`.
    pub fn will_supersede(&self, waiting: Age<'_>) -> bool {
        self.started_at.is_none() && ends(self.age(), self.line_rank, waiting)
    }
}

/// Whether `waiting` ends superseded when a deployment starts that was put to this rank.
pub fn ends(starting: Age<'_>, rank: Option<i64>, waiting: Age<'_>) -> bool {
    let is_put_ahead = rank.is_some_and(|rank| !is_overriding(rank));
    supersedes(starting, waiting) && (is_put_ahead || by_order(starting.spec, waiting.spec).is_some())
}

/// The deployment that ends `waiting` when it starts: the first such one of `ahead`, which is in the order in which the
/// line is served.
pub fn overtaker<'a>(waiting: Age<'_>, ahead: impl IntoIterator<Item = &'a Deployment>) -> Option<Mention> {
    ahead.into_iter().find(|one| one.will_supersede(waiting)).map(Deployment::mention)
}

/// The place of a newcomer that goes before the deployments that it supersedes: its index in `line`, and its rank.
/// `None` where that is the end of the line. The rank is above `floor`: the rank of a holder that has not started yet, so
/// that the holder is the head of the line again if it must wait again.
pub fn place_before_older(newcomer: Age<'_>, line: &[&Deployment], floor: Option<i64>) -> Option<(usize, i64)> {
    // No deployment is put before a newer one, or before one that passes a hold.
    let is_behind = |one: &&Deployment| is_newer(one.age(), newcomer) || is_overriding(one.rank());
    let first = line.iter().rposition(is_behind).map_or(0, |newer| newer + 1);
    (first..line.len()).filter(|at| supersedes(newcomer, line[*at].age())).find_map(|at| {
        let behind = line[at].rank();
        let before = at.checked_sub(1).map(|before| line[before].rank()).max(floor.filter(|floor| *floor < behind));
        let before = before.filter(|rank| !is_overriding(*rank)).unwrap_or(behind - 2 * RANK_STEP);
        let rank = before + (behind - before) / 2;
        // Where no rank is free between its neighbours, it goes before the next older one.
        (rank > before && rank < behind).then_some((at, rank))
    })
}

fn rank_of_arrival(ticket: Revision) -> i64 {
    i64::try_from(ticket.0).unwrap_or(i64::MAX / RANK_STEP).saturating_mul(RANK_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(order: Option<u64>, rollback: bool, run: Option<&str>) -> Spec {
        Spec { order, rollback, url: run.map(str::to_owned), ..Spec::default() }
    }

    #[test]
    fn newer_is_by_order_where_both_go_forwards_and_else_by_arrival() {
        let (low, high) = (spec(Some(11), false, None), spec(Some(12), false, None));
        let (back, plain) = (spec(Some(11), true, None), spec(None, false, None));
        let cell = spec(None, false, Some("https://ci.example/run/7"));
        for (b, a, expected, why) in [
            (&high, &low, (true, false), "the higher one, though it arrived last"),
            (&low, &high, (false, true), "the higher one, though it arrived first"),
            (&high, &high, (false, false), "equal orders are not newer than each other"),
            (&plain, &high, (true, false), "one has no order"),
            (&back, &high, (true, false), "one is a declared rollback"),
            (&high, &back, (true, false), "one is a declared rollback"),
            (&plain, &plain, (true, false), "by arrival"),
            (&cell, &cell, (false, false), "the same run is not newer than itself"),
            (&cell, &plain, (true, false), "another run"),
        ] {
            // `a` arrived first.
            let (b, a) = (Age { spec: b, ticket: Revision(2) }, Age { spec: a, ticket: Revision(1) });
            assert_eq!((is_newer(b, a), is_newer(a, b)), expected, "{why}: {b:?} {a:?}");
        }
    }

    #[test]
    fn an_ordinary_deployment_never_supersedes_a_declared_rollback() {
        let (plain, back) = (spec(Some(12), false, None), spec(Some(3), true, None));
        let at = |spec, ticket| Age { spec, ticket: Revision(ticket) };
        assert!(!supersedes(at(&plain, 2), at(&back, 1)));
        assert!(supersedes(at(&back, 2), at(&plain, 1)), "a rollback supersedes what arrived before it");
        assert!(!supersedes(at(&back, 1), at(&plain, 2)));
        assert!(supersedes(at(&back, 2), at(&back, 1)), "also an earlier rollback");
    }
}
