//! Checks whether a run was correct: pure functions over what clients saw and what the server recorded. Each function
//! returns a list of errors, in words; an empty list means that all is correct.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use singletrack::{
    model::{DeploymentId, Revision, Status},
    wire::Deployment,
};

/// A hold of a slot as its client saw it; times since the race began.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    pub client: usize,
    pub asked: Duration,
    /// The slot was its own.
    pub got: Duration,
    /// It began to give it back.
    pub gave: Duration,
    /// That was acknowledged.
    pub given: Duration,
    /// What the server said it was.
    pub granted: Option<(DeploymentId, Revision)>,
}

/// Two that held the slot at once, as they saw it: each believes so from the answer that gave it the slot until it begins to
/// give it back.
pub fn overlaps(holds: &[Hold]) -> Vec<String> {
    let mut holds = holds.to_vec();
    holds.sort_by_key(|hold| hold.got);
    let mut wrong = Vec::new();
    let mut last: Option<Hold> = None;
    for hold in holds {
        if let Some(before) = last
            && hold.got < before.gave
        {
            let (a, b) = (before.client, hold.client);
            let by = before.gave - hold.got;
            wrong.push(format!("client {b} got the slot {by:?} before client {a} gave it back"));
        }
        // Whoever holds it longest is who the next one may collide with.
        if last.is_none_or(|before| before.gave < hold.gave) {
            last = Some(hold);
        }
    }
    wrong
}

/// Fencing tokens that do not grow with the order of the holds.
pub fn stale_tokens(holds: &[Hold]) -> Vec<String> {
    let mut granted: Vec<_> = holds.iter().filter_map(|hold| Some((hold.got, hold.client, hold.granted?.1))).collect();
    granted.sort_by_key(|(got, ..)| *got);
    let pairs = granted.windows(2).filter(|pair| pair[1].2 <= pair[0].2);
    pairs.map(|pair| format!("client {} got token {} after {}", pair[1].1, pair[1].2, pair[0].2)).collect()
}

/// Pairs of clients of which the one that asked later, by more than `margin`, was served first.
pub fn inversions(holds: &[Hold], margin: Duration) -> usize {
    let later = |a: &Hold, b: &Hold| b.asked > a.asked + margin && b.got < a.got;
    holds.iter().map(|a| holds.iter().filter(|b| later(a, b)).count()).sum()
}

/// From the moment when one began to give the slot back to the moment when the next one had it.
pub fn hand_offs(holds: &[Hold]) -> Vec<Duration> {
    let mut holds = holds.to_vec();
    holds.sort_by_key(|hold| hold.got);
    holds.windows(2).map(|pair| pair[1].got.saturating_sub(pair[0].gave)).collect()
}

/// Deployments that started in another order than that of their tickets; `history` is in that one. Only where nobody was let
/// past must it be so.
pub fn out_of_order(history: &[Deployment], tokens: &HashMap<DeploymentId, Revision>) -> Vec<String> {
    let started: Vec<_> =
        history.iter().filter_map(|deployment| Some((deployment.id, *tokens.get(&deployment.id)?))).collect();
    let pairs = started.windows(2).filter(|pair| pair[1].1 < pair[0].1);
    pairs.map(|pair| format!("{} started before {}, which had the older ticket", pair[1].0, pair[0].0)).collect()
}

/// Deployments of one project that held the slot at once, by the server's own record: one took it, by its token, before the
/// one before it had given it back, by its last revision.
pub fn recorded_overlaps(history: &[Deployment], tokens: &HashMap<DeploymentId, Revision>) -> Vec<String> {
    let mut spans: Vec<_> = history
        .iter()
        .filter_map(|deployment| Some((*tokens.get(&deployment.id)?, deployment.revision, deployment.id)))
        .collect();
    spans.sort_unstable();
    let pairs = spans.windows(2).filter(|pair| pair[1].0 <= pair[0].1);
    pairs
        .map(|pair| {
            format!("{} took the slot at {} and {} gave it back at {}", pair[1].2, pair[1].0, pair[0].2, pair[0].1)
        })
        .collect()
}

/// The same by the record's times alone, for those whose tokens nobody saw; these are rounded to milliseconds.
pub fn recorded_times_overlap(history: &[Deployment]) -> Vec<String> {
    let mut spans: Vec<_> = history
        .iter()
        .filter_map(|deployment| Some((deployment.started_at?, deployment.ended_at?, deployment.id)))
        .collect();
    spans.sort_unstable_by_key(|(started_at, ended_at, _)| (*started_at, *ended_at));
    let pairs = spans.windows(2).filter(|pair| pair[1].0 < pair[0].1);
    pairs.map(|pair| format!("{} began before {} had ended", pair[1].2, pair[0].2)).collect()
}

/// Deployments that began before one with an older ticket, by the record's times alone.
pub fn started_out_of_order(history: &[Deployment]) -> Vec<String> {
    let started: Vec<_> =
        history.iter().filter_map(|deployment| Some((deployment.started_at?, deployment.id))).collect();
    let pairs = started.windows(2).filter(|pair| pair[1].0 < pair[0].0);
    pairs.map(|pair| format!("{} began before {}, which had the older ticket", pair[1].1, pair[0].1)).collect()
}

/// Ends that a client was told are recorded, and are not.
pub fn lost(history: &[Deployment], acknowledged: &BTreeMap<DeploymentId, Status>) -> Vec<String> {
    let recorded: HashMap<_, _> = history.iter().map(|deployment| (deployment.id, deployment.status)).collect();
    let wrong = acknowledged.iter().filter(|(id, status)| recorded.get(id) != Some(status));
    wrong
        .map(|(id, status)| match recorded.get(id) {
            Some(found) => format!("{id} was acknowledged as {} and is {}", status.as_str(), found.as_str()),
            None => format!("{id} was acknowledged as {} and is not there", status.as_str()),
        })
        .collect()
}

/// Superseded deployments whose successor is not younger than themselves, or is not there.
pub fn wrong_successors(history: &[Deployment]) -> Vec<String> {
    let places: HashMap<_, _> = history.iter().enumerate().map(|(place, deployment)| (deployment.id, place)).collect();
    let mut wrong = Vec::new();
    for (place, deployment) in history.iter().enumerate() {
        let Some(by) = deployment.superseded_by else { continue };
        match places.get(&by) {
            Some(successor) if *successor > place => {}
            Some(_) => wrong.push(format!("{} was superseded by {by}, which is older", deployment.id)),
            None => wrong.push(format!("{} was superseded by {by}, which is not there", deployment.id)),
        }
    }
    wrong
}

/// Deployments that are not final although everybody is done.
pub fn unfinished(history: &[Deployment]) -> Vec<String> {
    let open = history.iter().filter(|deployment| !deployment.status.is_final());
    open.map(|deployment| format!("{} is {}", deployment.id, deployment.status.as_str())).collect()
}

/// The fencing tokens of these holds.
pub fn tokens(holds: &[Hold]) -> HashMap<DeploymentId, Revision> {
    holds.iter().filter_map(|hold| hold.granted).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(number: u128) -> DeploymentId {
        format!("01998c6e-0000-7000-8000-{number:012}").parse().expect("a test's id")
    }

    fn revision(number: u64) -> Revision {
        serde_json::from_value(json!(number)).expect("a test's revision")
    }

    fn hold(client: usize, asked: u64, got: u64, gave: u64) -> Hold {
        let ms = Duration::from_millis;
        let granted = Some((id(client as u128), revision(got)));
        Hold { client, asked: ms(asked), got: ms(got), gave: ms(gave), given: ms(gave + 1), granted }
    }

    fn deployment(number: u128, status: &str, ended_at: u64, superseded_by: Option<u128>) -> Deployment {
        serde_json::from_value(json!({
            "id": id(number), "project": "web", "logicalId": "web", "pipeline": "deploy", "status": status,
            "queuePosition": 0, "phase": null, "progress": 0, "message": null, "ref": null, "commit": null, "actor": null,
            "url": null, "order": null, "dryRun": false, "result": null, "error": null,
            "supersededBy": superseded_by.map(id), "retryOf": null, "createdAt": "2026-01-01T00:00:00.000Z",
            "startedAt": null, "endedAt": null, "cancelRequestedAt": null, "lastHeartbeatAt": null, "revision": ended_at,
        }))
        .expect("a test's deployment")
    }

    #[test]
    fn two_holders_at_once_are_found() {
        assert!(overlaps(&[hold(1, 0, 1, 10), hold(2, 0, 10, 20)]).is_empty());
        assert_eq!(overlaps(&[hold(2, 0, 9, 20), hold(1, 0, 1, 10)]).len(), 1);
        // A long hold collides with all that come while it lasts, not with its neighbour only.
        assert_eq!(overlaps(&[hold(1, 0, 1, 100), hold(2, 0, 10, 20), hold(3, 0, 30, 40)]).len(), 2);
    }

    #[test]
    fn a_token_that_does_not_grow_is_found() {
        assert!(stale_tokens(&[hold(1, 0, 1, 5), hold(2, 0, 6, 9)]).is_empty());
        let mut late = hold(2, 0, 6, 9);
        late.granted = Some((id(2), revision(1)));
        assert_eq!(stale_tokens(&[hold(1, 0, 1, 5), late]).len(), 1);
    }

    #[test]
    fn who_is_served_before_an_earlier_one_is_an_inversion() {
        let holds = [hold(1, 0, 30, 40), hold(2, 5, 10, 20), hold(3, 6, 50, 60)];
        assert_eq!(inversions(&holds, Duration::from_millis(2)), 1);
        // Those that came at nearly the same time have no order.
        assert_eq!(inversions(&holds, Duration::from_millis(5)), 0);
    }

    #[test]
    fn a_hand_off_lasts_from_giving_to_having() {
        let told = hand_offs(&[hold(2, 0, 12, 20), hold(1, 0, 1, 10), hold(3, 0, 25, 30)]);
        assert_eq!(told, [Duration::from_millis(2), Duration::from_millis(5)]);
    }

    #[test]
    fn an_older_ticket_that_starts_later_is_found() {
        let history = [deployment(1, "SUCCEEDED", 3, None), deployment(2, "SUCCEEDED", 5, None)];
        let tokens = |first, second| HashMap::from([(id(1), revision(first)), (id(2), revision(second))]);
        assert!(out_of_order(&history, &tokens(2, 4)).is_empty());
        assert_eq!(out_of_order(&history, &tokens(4, 2)).len(), 1);
    }

    #[test]
    fn an_overlap_in_the_record_is_found() {
        let history = [deployment(1, "SUCCEEDED", 3, None), deployment(2, "SUCCEEDED", 9, None)];
        let tokens = |first, second| HashMap::from([(id(1), revision(first)), (id(2), revision(second))]);
        assert!(recorded_overlaps(&history, &tokens(2, 4)).is_empty());
        assert_eq!(recorded_overlaps(&history, &tokens(2, 3)).len(), 1);
    }

    #[test]
    fn an_overlap_in_the_recorded_times_is_found() {
        let at = |number, from: &str, to: &str| {
            let mut deployment = deployment(number, "SUCCEEDED", 3, None);
            let time = |text: &str| format!("2026-01-01T00:00:{text}Z").parse().expect("a test's time");
            (deployment.started_at, deployment.ended_at) = (Some(time(from)), Some(time(to)));
            deployment
        };
        assert!(recorded_times_overlap(&[at(1, "01.000", "02.000"), at(2, "02.000", "03.000")]).is_empty());
        assert!(started_out_of_order(&[at(1, "01.000", "02.000"), at(2, "02.000", "03.000")]).is_empty());
        assert_eq!(started_out_of_order(&[at(1, "02.000", "03.000"), at(2, "01.000", "02.000")]).len(), 1);
        assert_eq!(recorded_times_overlap(&[at(2, "01.999", "03.000"), at(1, "01.000", "02.000")]).len(), 1);
    }

    #[test]
    fn an_acknowledged_end_that_is_not_recorded_is_found() {
        let history = [deployment(1, "SUCCEEDED", 3, None), deployment(2, "RUNNING", 5, None)];
        let told = |ids: &[u128]| ids.iter().map(|number| (id(*number), Status::Succeeded)).collect();
        assert!(lost(&history, &told(&[1])).is_empty());
        assert_eq!(lost(&history, &told(&[1, 2, 3])).len(), 2);
        assert_eq!(unfinished(&history).len(), 1);
    }

    #[test]
    fn a_successor_that_is_older_is_found() {
        let good = [deployment(1, "CANCELLED", 3, Some(2)), deployment(2, "SUCCEEDED", 5, None)];
        assert!(wrong_successors(&good).is_empty());
        let bad = [
            deployment(1, "SUCCEEDED", 3, None),
            deployment(2, "CANCELLED", 5, Some(1)),
            deployment(3, "CANCELLED", 6, Some(9)),
        ];
        assert_eq!(wrong_successors(&bad).len(), 2);
    }
}
