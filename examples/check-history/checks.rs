//! What must hold of every history. Each rule is named as in the project's list of invariants: I1 exclusion, I2 finality,
//! I3 durability, I4 fencing, I5 events, I8 fairness, I9 idempotency.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{History, Kept, Told};

/// Every rule that is broken, in words; none where all is well.
pub fn violations(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let known: HashMap<&str, &Kept> = history.kept.iter().map(|kept| (kept.id.as_str(), kept)).collect();
    let mut projects: BTreeMap<&str, Vec<&Kept>> = BTreeMap::new();
    for kept in &history.kept {
        projects.entry(&kept.project).or_default().push(kept);
        whole(kept, &mut wrong);
    }
    for (project, deployments) in &projects {
        replay(project, deployments, &mut wrong);
        once(project, deployments, &mut wrong);
    }
    let ends = first_told_ends(history);
    history.told.iter().for_each(|told| fits(told, &known, &ends, &mut wrong));
    in_time(history, &mut wrong);
    wrong
}

/// A change of a slot.
#[derive(Clone, Copy, Debug)]
enum Change {
    Admitted,
    Started,
    Ended,
}

/// I1, I4, I8: lets each project's slot and line come about again, change by change. Whoever is admitted to a free slot
/// holds it, whoever ends hands it to the head of the line, and only the holder starts.
fn replay(project: &str, deployments: &[&Kept], wrong: &mut Vec<String>) {
    let mut changes: BTreeMap<u64, (Change, &Kept)> = BTreeMap::new();
    for kept in deployments {
        let end = is_final(&kept.status).then_some((kept.revision, Change::Ended));
        let start = kept.fencing_token.map(|token| (token, Change::Started));
        for (revision, change) in [Some((kept.ticket, Change::Admitted)), start, end].into_iter().flatten() {
            if let Some((_, other)) = changes.insert(revision, (change, kept)) {
                wrong.push(format!("I1: revision {revision} of {project} belongs to {} and {}", other.id, kept.id));
            }
        }
    }
    let mut holder: Option<&Kept> = None;
    let mut line: BTreeMap<u64, &Kept> = BTreeMap::new();
    for (revision, (change, kept)) in changes {
        let is_holder = holder.is_some_and(|holder| holder.id == kept.id);
        match change {
            Change::Admitted if holder.is_none() => holder = Some(kept),
            Change::Admitted => _ = line.insert(kept.ticket, kept),
            Change::Started if is_holder => {}
            Change::Started => {
                let whose = holder.map_or("nobody", |holder| holder.id.as_str());
                let rule = if line.contains_key(&kept.ticket) { "I1, I8" } else { "I1, I4" };
                wrong.push(format!(
                    "{rule}: {} started at revision {revision} of {project} while the slot was {whose}'s",
                    kept.id
                ));
            }
            Change::Ended if is_holder => holder = line.pop_first().map(|(_, head)| head),
            Change::Ended => {
                if line.remove(&kept.ticket).is_none() {
                    wrong.push(format!(
                        "I2: {} ended at revision {revision} of {project}, where it was no more",
                        kept.id
                    ));
                }
            }
        }
    }
    let holding: Vec<&str> = deployments.iter().filter(|it| it.holds_slot).map(|it| it.id.as_str()).collect();
    if holding != holder.iter().map(|it| it.id.as_str()).collect::<Vec<_>>() {
        let whose = holder.map_or("nobody", |holder| holder.id.as_str());
        wrong.push(format!("I1: the slot of {project} is held by {holding:?}, and it should be {whose}'s"));
    }
}

/// I5: a deployment's events are 1 to n; it is final exactly when there is a last one, which is last.
fn whole(kept: &Kept, wrong: &mut Vec<String>) {
    let seqs: Vec<u64> = kept.events.iter().map(|event| event.seq).collect();
    let is_whole = if kept.is_trimmed {
        seqs.first() == Some(&1) && seqs.last() == Some(&kept.event_count) && seqs.is_sorted_by(|a, b| a < b)
    } else {
        seqs.iter().copied().eq(1..=kept.event_count)
    };
    if !is_whole {
        wrong.push(format!("I5: {} has {} events, and these are there: {seqs:?}", kept.id, kept.event_count));
    }
    let ends: Vec<u64> = kept.events.iter().filter(|event| event.kind == "complete").map(|event| event.seq).collect();
    let expected: &[u64] = if is_final(&kept.status) { &[kept.event_count] } else { &[] };
    if ends != expected {
        wrong.push(format!("I5: {} is {}, and its last events are {ends:?}", kept.id, kept.status));
    }
}

/// I9: what was asked for once is there once. Where a key goes with each commit, a second deployment of the commit is one
/// too many.
fn once(project: &str, deployments: &[&Kept], wrong: &mut Vec<String>) {
    let mut known = BTreeSet::new();
    for kept in deployments {
        if kept.key.is_some() && kept.key == kept.commit && !known.insert(&kept.commit) {
            wrong.push(format!("I9: {project} has two deployments of {:?}, the second is {}", kept.commit, kept.id));
        }
        if let (None, Some(commit)) = (&kept.key, &kept.commit)
            && deployments.iter().any(|other| other.key.as_ref() == Some(commit))
        {
            wrong.push(format!("I9: {} of {project} has the commit of key {commit}, and not the key", kept.id));
        }
    }
}

/// When somebody was first told that a deployment is final: from then on it is.
fn first_told_ends(history: &History) -> HashMap<&str, u64> {
    let mut ends: HashMap<&str, u64> = HashMap::new();
    for told in &history.told {
        if let Told::Deployment { at: Some(at), id, status, .. } = told
            && is_final(status)
        {
            let first = ends.entry(id).or_insert(at.answered);
            *first = at.answered.min(*first);
        }
    }
    ends
}

/// Holds one fact against what is kept, and against what was known when it was asked for.
fn fits(told: &Told, known: &HashMap<&str, &Kept>, ends: &HashMap<&str, u64>, wrong: &mut Vec<String>) {
    let id = match told {
        Told::Conflict { holder, .. } => holder,
        Told::Deployment { id, .. }
        | Told::Submitted { id, .. }
        | Told::Leased { id, .. }
        | Told::Called { id, .. }
        | Told::Reported { id, .. }
        | Told::Streamed { id, .. } => id,
    };
    let Some(kept) = known.get(id.as_str()) else {
        return wrong.push(format!("I3: {id} is not there: {told:?}"));
    };
    let was_final = |sent: u64| ends.get(id.as_str()).is_some_and(|end| *end < sent);
    match told {
        Told::Deployment { at, project, status, revision, .. } => {
            if kept.project != *project {
                wrong.push(format!("I3: {id} is {}'s, and was told as {project}'s", kept.project));
            }
            if let Some(why) = misfit(kept, status, *revision) {
                wrong.push(format!("{why}: {id} was told as {status} at revision {revision}; {}", shown(kept)));
            }
            if at.is_some_and(|at| was_final(at.sent)) && !is_final(status) {
                wrong.push(format!("I2: {id} was told as {status} after it was told as final"));
            }
        }
        Told::Submitted { key, .. } => {
            if kept.key.as_ref() != Some(key) {
                wrong.push(format!("I9: {key} was told to be {id}, whose key is {:?}", kept.key));
            }
        }
        Told::Conflict { at, project, .. } => {
            if kept.project != *project {
                wrong.push(format!("I1: {project} was told to be blocked by {id}, which is {}'s", kept.project));
            }
            if was_final(at.sent) {
                wrong.push(format!("I1: a conflict names {id} after it was told as final"));
            }
        }
        Told::Leased { fencing_token, .. } => {
            if kept.fencing_token != Some(*fencing_token) {
                wrong.push(format!("I3, I4: {id} was leased as {fencing_token}; {}", shown(kept)));
            }
        }
        Told::Called { at, is_own, is_accepted, .. } => {
            if *is_accepted && !is_own {
                wrong.push(format!("I4: {id} took a call under another's lease"));
            }
            if *is_accepted && was_final(at.sent) {
                wrong.push(format!("I4: {id} took a call after it was told as final"));
            }
        }
        Told::Reported { line, is_accepted, .. } => {
            let count = kept.events.iter().flat_map(|event| &event.lines).filter(|kept| *kept == line).count();
            match (is_accepted, count) {
                (true, 1) | (false, 0) => {}
                (true, _) if kept.is_trimmed => {}
                (true, 0) => wrong.push(format!("I3: {id} lost an accepted line")),
                (true, _) => wrong.push(format!("I5: {id} has an accepted line {count} times")),
                (false, _) => wrong.push(format!("I4: {id} has a line that was refused")),
            }
        }
        Told::Streamed { events, .. } => {
            let all: Vec<(u64, String)> = kept.events.iter().map(|event| (event.seq, event.kind.clone())).collect();
            if *events != all && !kept.is_trimmed {
                wrong.push(format!("I5: a stream of {id} was {events:?}; there is {all:?}"));
            }
        }
    }
}

/// What is wrong with this status at this revision.
fn misfit(kept: &Kept, status: &str, revision: u64) -> Option<&'static str> {
    let start = kept.fencing_token.unwrap_or(u64::MAX);
    if is_final(status) {
        let is_same = is_final(&kept.status) && kept.status == status && kept.revision == revision;
        return (!is_same).then_some("I2, I3");
    }
    if revision > kept.revision {
        return Some("I3");
    }
    let is_possible = match status {
        "PENDING" => kept.ticket <= revision && revision < start,
        "RUNNING" => revision == start,
        _ => false,
    };
    (!is_possible).then_some("I3")
}

/// What one client was told before another asked holds for the other, too: revisions and fencing tokens go only up.
fn in_time(history: &History, wrong: &mut Vec<String>) {
    let mut by_deployment: HashMap<&str, Vec<(u64, u64, u64)>> = HashMap::new();
    let mut by_project: HashMap<&str, Vec<(u64, u64, u64)>> = HashMap::new();
    for told in &history.told {
        match told {
            Told::Deployment { at: Some(at), id, revision, .. } => {
                by_deployment.entry(id).or_default().push((at.sent, at.answered, *revision));
            }
            Told::Leased { at, project, fencing_token, .. } => {
                by_project.entry(project).or_default().push((at.sent, at.answered, *fencing_token));
            }
            _ => {}
        }
    }
    for (what, facts) in by_deployment {
        if let Some((before, after)) = fallen(facts) {
            wrong.push(format!("I3: {what} was told at revision {before}, and asked for later at {after}"));
        }
    }
    for (what, facts) in by_project {
        if let Some((before, after)) = fallen(facts) {
            wrong.push(format!("I4: {what} gave fencing token {before}, and later {after}"));
        }
    }
}

/// Two facts of which the one that was asked for after the other was answered is the lesser.
fn fallen(mut asked: Vec<(u64, u64, u64)>) -> Option<(u64, u64)> {
    let mut answered: Vec<(u64, u64)> = asked.iter().map(|(_, answered, value)| (*answered, *value)).collect();
    asked.sort_unstable();
    answered.sort_unstable();
    let mut known = answered.into_iter().peekable();
    let mut highest = 0;
    for (sent, _, value) in asked {
        while let Some((_, before)) = known.next_if(|(answered, _)| *answered < sent) {
            highest = highest.max(before);
        }
        if value < highest {
            return Some((highest, value));
        }
    }
    None
}

fn is_final(status: &str) -> bool {
    matches!(status, "SUCCEEDED" | "FAILED" | "CANCELLED")
}

fn shown(kept: &Kept) -> String {
    let Kept { status, ticket, fencing_token, revision, .. } = kept;
    format!("kept is {status}, ticket {ticket}, token {fencing_token:?}, revision {revision}")
}
