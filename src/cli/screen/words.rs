//! Wording for people: durations, whose deployment it is, and which deployment is ahead in line.

use std::time::Duration;

use jiff::Timestamp;

pub use crate::clock::span;

use super::clean::clean;
use crate::{
    model::{
        CANCEL_WAITS, CANNOT_BE_ENDED, DeploymentId, Eta, Hold, HoldKind, Identity, Mention, Party, ProjectName,
        Status, mention, rollback_of,
    },
    wire::{Blocking, Conflict, Deployment, FailedRollback, Liveness, MarkView},
};

/// What a person must repair after failed rollbacks: one line for each failed rollback.
pub fn repairs(deployment: &Deployment) -> Vec<String> {
    let rollback = deployment.error.as_ref().and_then(|error| error.rollback.as_ref());
    let failed = rollback.into_iter().flat_map(|rollback| &rollback.failed);
    failed
        .map(|FailedRollback { phase, message }| {
            let subject = rollback_of(phase);
            let told =
                if message.starts_with(&subject) { message.clone() } else { format!("{subject} failed: {message}") };
            clean(&format!("{told}; repair by hand what the phase changed"))
        })
        .collect()
}

/// Whether the deployment was rolled back, and each rollback succeeded.
pub fn is_rolled_back(deployment: &Deployment) -> bool {
    let rollback = deployment.error.as_ref().and_then(|error| error.rollback.as_ref());
    rollback.is_some_and(|rollback| rollback.failed.is_empty())
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_mul(10) >> 10;
    let mut unit = 0;
    while tenths >= 10 << 10 && unit + 1 < UNITS.len() {
        tenths >>= 10;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The time from `begin` to `end`; zero if the clocks disagree.
pub fn between(begin: Timestamp, end: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(end.as_millisecond() - begin.as_millisecond()).unwrap_or(0))
}

/// A time of day, in UTC. The date is added unless it is today.
pub fn time(at: Timestamp, now: Timestamp) -> String {
    let text = format!("{at:.0}");
    let today = format!("{now:.0}");
    match (text.split_once('T'), today.split_once('T')) {
        (Some((date, time)), Some((today, _))) if date == today => format!("{} UTC", time.trim_end_matches('Z')),
        (Some((date, time)), _) => format!("{date} {} UTC", time.trim_end_matches('Z')),
        (None, _) => text,
    }
}

/// The first digits of a commit.
pub fn short(commit: &str) -> String {
    clean(mention::short(commit))
}

/// `main@3f2a1b2c4d`, or the known part of that.
pub fn source(ref_name: Option<&str>, commit: Option<&str>) -> Option<String> {
    match (ref_name.map(clean), commit.map(short)) {
        (Some(name), Some(commit)) => Some(format!("{name}@{commit}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    }
}

/// `alice's deploy of main@3f2a1b2c4d`, or the known part of that.
pub fn who(actor: Option<&str>, pipeline: &str, ref_name: Option<&str>, commit: Option<&str>) -> String {
    let pipeline = clean(pipeline);
    let whose = actor.map_or_else(|| format!("a {pipeline}"), |actor| format!("{}'s {pipeline}", clean(actor)));
    match source(ref_name, commit) {
        Some(source) => format!("{whose} of {source}"),
        None => whose,
    }
}

/// `web#17 of alice at 3f2a1b2c4d`, or the known part of that.
pub fn named(mention: &Mention) -> String {
    clean(&mention.to_string())
}

/// `web#17, alice's deploy of main@3f2a1b2c4d`.
pub fn name_and_who(deployment: &Deployment) -> String {
    after_name(&deployment.project, deployment.number, who_deploys(deployment))
}

/// The deployment's name, then `who`. An older server gives no numbers; then `who` alone.
fn after_name(project: &ProjectName, number: Option<u64>, who: String) -> String {
    number.map_or_else(|| who.clone(), |number| format!("{project}#{number}, {who}"))
}

/// [`who`], of a deployment.
pub fn who_deploys(deployment: &Deployment) -> String {
    who(deployment.actor.as_deref(), &deployment.pipeline, deployment.ref_name.as_deref(), deployment.commit.as_deref())
}

/// ` by alice (token:ops)`, for the end of a sentence. That a program of this machine did it says nothing.
pub fn willed_by(party: &Party) -> Option<String> {
    match (&party.identity, &party.actor) {
        (Identity::Local | Identity::Server, None) => None,
        (Identity::Local, Some(actor)) => Some(format!(" by {}", clean(actor))),
        (_, _) => Some(format!(" by {}", clean(&party.to_string()))),
    }
}

/// What will happen to a deployment that a newer one has overtaken.
pub fn overtaken(by: &Mention) -> String {
    format!("will be superseded by {} when that starts", named(by))
}

/// `about 2m00s left (9 in 10: 3m10s)`.
pub fn eta(eta: Eta) -> String {
    let [half, most] = [eta.p50_seconds, eta.p90_seconds].map(Duration::from_secs);
    match (half.is_zero(), most.is_zero()) {
        (_, true) => "longer than usual already".to_owned(),
        (true, false) => format!("should end any moment (9 in 10: {})", span(most)),
        (false, false) if half == most => format!("about {} left", span(half)),
        (false, false) => format!("about {} left (9 in 10: {})", span(half), span(most)),
    }
}

/// `expected to start in about 24s (9 in 10: 40s)`.
pub fn starts(eta: Eta) -> String {
    let [half, most] = [eta.p50_seconds, eta.p90_seconds].map(Duration::from_secs);
    let at_most = if half == most { String::new() } else { format!(" (9 in 10: {})", span(most)) };
    match half <= ANY_MOMENT {
        true => format!("expected to start any moment{at_most}"),
        false => format!("expected to start in about {}{at_most}", span(half)),
    }
}

/// When a waiting deployment starts, or why that is unknown. `None` if the server says neither.
pub fn start(expected: Option<Eta>, unknown: Option<&str>) -> Option<String> {
    match (expected, unknown) {
        (Some(eta), _) => Some(starts(eta)),
        (None, Some(unknown)) => Some(format!("the start is not known: {}", clean(unknown))),
        (None, None) => None,
    }
}

/// `paused by anna since 09:12:00 UTC until 18:00:00 UTC: the database is being repaired`.
pub fn what_holds(hold: &Hold, now: Timestamp) -> String {
    let since = hold.since.map(|at| format!(" since {}", time(at, now))).unwrap_or_default();
    let until = match hold.until {
        Some(at) => format!(" until {}", time(at, now)),
        None if hold.kind == HoldKind::Configuration => String::new(),
        None => ", no end is set".to_owned(),
    };
    let reason = hold.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    clean(&format!("{}{since}{until}{reason}", hold.what()))
}

/// `builds below 42 are refused: web#17 of anna started build 42`.
pub fn mark(project: &ProjectName, mark: &MarkView, now: Timestamp) -> String {
    let order = mark.order;
    let since = mark.set_at.map(|at| format!(" at {}", time(at, now))).unwrap_or_default();
    let reason = mark.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let why = match (mark.starter(project), &mark.set_by) {
        (Some(starter), _) => format!("{starter} started build {order}"),
        (None, Some(by)) => format!("set{}{since}{reason}", willed_by(by).unwrap_or_default()),
        (None, None) => return format!("builds below {order} are refused"),
    };
    clean(&format!("builds below {order} are refused: {why}"))
}

/// A start within this time is shown as "any moment", because the start comes before the user has read the line.
const ANY_MOMENT: Duration = Duration::from_secs(1);

/// A waiting deployment's place in line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceInLine {
    /// The position in line; 1 is next.
    pub position: Option<u64>,
    /// The newer deployment. When it starts, it supersedes the waiting deployment.
    pub overtaker: Option<Mention>,
    /// How long until the waiting deployment has the slot.
    pub expected: Option<Eta>,
    /// Why the expected start is unknown.
    pub unknown: Option<String>,
    /// What holds the waiting deployment.
    pub hold: Option<Hold>,
}

impl PlaceInLine {
    /// The place of a waiting deployment.
    pub fn of(waiting: &Deployment) -> Self {
        PlaceInLine {
            position: Some(waiting.queue_position),
            overtaker: waiting.overtaker(),
            expected: waiting.expected_start.flatten(),
            unknown: waiting.start_unknown.clone(),
            hold: waiting.hold.clone(),
        }
    }

    /// The place of a deployment that cannot start now.
    pub fn behind(project: &ProjectName, conflict: &Conflict) -> Self {
        PlaceInLine {
            position: conflict.queue_position,
            overtaker: conflict.overtaker(project),
            expected: conflict.expected_start.flatten(),
            unknown: conflict.start_unknown.clone(),
            hold: conflict.hold.clone(),
        }
    }
}

/// The deployment that holds the slot, and its progress.
#[derive(Clone, Debug)]
pub struct LineAhead {
    pub project: ProjectName,
    /// The deployment that holds the slot.
    pub id: DeploymentId,
    /// More about the holder.
    pub blocking: Blocking,
}

impl LineAhead {
    /// From a deployment that holds the slot.
    pub fn of(holder: &Deployment, liveness: Option<Liveness>, eta: Option<Eta>) -> Self {
        let blocking = Blocking {
            number: holder.number,
            actor: holder.actor.clone(),
            ref_name: holder.ref_name.clone(),
            commit: holder.commit.clone(),
            url: holder.url.clone(),
            pipeline: holder.pipeline.clone(),
            status: holder.status,
            phase: holder.phase.clone(),
            message: holder.waits_for.clone(),
            progress: holder.progress,
            started_at: holder.started_at,
            last_heartbeat_at: holder.last_heartbeat_at,
            cancel_requested_at: holder.cancel_requested_at,
            liveness: liveness.unwrap_or(Liveness::Alive),
            eta,
        };
        LineAhead { project: holder.project.clone(), id: holder.id, blocking }
    }

    /// From a conflict that names the deployment that holds the slot.
    pub fn in_conflict(project: &ProjectName, conflict: &Conflict) -> Option<Self> {
        let blocker = conflict.blocker.as_ref()?;
        let (id, blocking) = (blocker.deployment_id, blocker.blocking.clone());
        Some(LineAhead { project: project.clone(), id, blocking })
    }

    /// `web#17, alice's deploy of main@3f2a1b2c4d`.
    pub fn name_and_who(&self) -> String {
        after_name(&self.project, self.blocking.number, self.who())
    }

    /// Whose deployment it is.
    pub fn who(&self) -> String {
        let blocking = &self.blocking;
        who(blocking.actor.as_deref(), &blocking.pipeline, blocking.ref_name.as_deref(), blocking.commit.as_deref())
    }

    /// The holder's progress: since when it runs, its phase, and its remaining time.
    pub fn how_far(&self, now: Timestamp) -> String {
        let blocking = &self.blocking;
        let mut parts = Vec::new();
        match (blocking.status, blocking.started_at) {
            (Status::Running, Some(at)) => {
                parts.push(format!("running since {} ({})", time(at, now), span(between(at, now))));
            }
            (Status::Running, None) => parts.push("running".to_owned()),
            (Status::Pending | Status::Succeeded | Status::Failed | Status::Cancelled, _) => {
                parts.push(blocking.message.as_deref().map_or_else(|| "called up, not started yet".to_owned(), clean));
            }
        }
        if let Some(phase) = &blocking.phase {
            parts.push(format!("phase {}", clean(phase)));
        }
        if blocking.status == Status::Running {
            parts.push(format!("{} %", blocking.progress));
        }
        let stuck = blocking.message.as_deref().filter(|message| message.starts_with(CANNOT_BE_ENDED));
        if let Some(stuck) = stuck.filter(|_| blocking.status == Status::Running) {
            parts.push(clean(stuck));
        } else if blocking.cancel_requested_at.is_some() {
            // A protected phase is not interrupted.
            let waits = blocking.message.as_deref().filter(|message| message.starts_with(CANCEL_WAITS));
            parts.push(waits.map_or_else(|| "being cancelled".to_owned(), clean));
        }
        match blocking.liveness {
            Liveness::Alive => parts.extend(blocking.eta.map(eta)),
            Liveness::Silent => parts.push("its worker is silent".to_owned()),
            Liveness::Lost => parts.push("its worker is lost, and the slot will be freed".to_owned()),
        }
        parts.join(", ")
    }

    /// Whether [`LineAhead::how_far`] contains this message of the deployment.
    pub fn says(&self, message: &str) -> bool {
        let blocking = &self.blocking;
        blocking.status == Status::Pending
            || message.starts_with(CANNOT_BE_ENDED)
            || (blocking.cancel_requested_at.is_some() && message.starts_with(CANCEL_WAITS))
    }

    /// The line that says which deployment is ahead.
    pub fn wait_line(&self, place: &PlaceInLine, now: Timestamp) -> String {
        let PlaceInLine { position, overtaker, expected, unknown, hold } = place;
        let fate = match overtaker {
            Some(by) => Some(overtaken(by)),
            None if hold.is_none() && self.tells_start(place) => None,
            None if hold.as_ref().is_some_and(|hold| hold.until.is_none()) => None,
            None => start(*expected, unknown.as_deref()),
        };
        let held = hold.as_ref().map(|hold| format!(", held: the project is {}", what_holds(hold, now)));
        let fate = fate.map(|fate| format!(", {fate}")).unwrap_or_default();
        let fate = held.unwrap_or_default() + &fate;
        let place = match position {
            Some(1) => "; you are next".to_owned(),
            Some(position) if *position > 1 => format!("; you are number {position} in line"),
            Some(_) | None => String::new(),
        };
        let url = self.blocking.url.as_deref().map(|url| format!(" - {}", clean(url))).unwrap_or_default();
        format!("waiting for {}: {}{place}{fate}{url}", self.name_and_who(), self.how_far(now))
    }

    /// The same line for a place where its end may be cut off, so the most important part comes first.
    pub fn short_wait_line(&self, place: &PlaceInLine, now: Timestamp) -> String {
        let position = match place.position {
            Some(1) => "next in line".to_owned(),
            Some(position) if position > 1 => format!("number {position} in line"),
            Some(_) | None => "waiting".to_owned(),
        };
        let expected =
            place.expected.map(|eta| format!(", starts in about {}", span(Duration::from_secs(eta.p50_seconds))));
        let expected = expected.unwrap_or_default();
        let overtaken = place.overtaker.as_ref().map(|by| format!("; {}", overtaken(by))).unwrap_or_default();
        format!("{position}{expected}: {}: {}{overtaken}", self.who(), self.how_far(now))
    }

    /// Whether [`LineAhead::how_far`] already says when the next deployment in line starts.
    fn tells_start(&self, place: &PlaceInLine) -> bool {
        let blocking = &self.blocking;
        let is_told = blocking.cancel_requested_at.is_some()
            || blocking.status == Status::Pending && blocking.message.is_some()
            || blocking.liveness == Liveness::Alive && blocking.eta.is_some_and(|eta| eta.p90_seconds > 0);
        place.position == Some(1) && is_told
    }

    /// The parts of the line that count as news. A log gets the line again only if one of these parts has changed.
    pub fn news(&self, place: &PlaceInLine) -> String {
        let blocking = &self.blocking;
        format!(
            "{} {:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?}",
            self.id,
            place.hold,
            place.position,
            place.overtaker,
            // The expected time changes with every poll, so a new time alone is not news.
            place.unknown,
            blocking.status,
            blocking.phase,
            blocking.cancel_requested_at.is_some(),
            blocking.liveness,
            blocking.message.as_deref().filter(|message| self.says(message))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Named;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a test's time")
    }

    fn at_place(position: u64) -> PlaceInLine {
        PlaceInLine { position: Some(position), ..PlaceInLine::default() }
    }

    #[test]
    fn the_wait_line_tells_who_will_supersede_one() {
        let named = Named { number: 19, actor: Some("bob".to_owned()), commit: None };
        let by = Mention { named: Some(named), ..Mention::unnamed(web(), DeploymentId::from_bytes([9; 16])) };
        let overtaken = PlaceInLine { overtaker: Some(by), ..at_place(2) };
        let line = ahead().wait_line(&overtaken, at("2026-03-01T12:07:31Z"));
        let told = "; you are number 2 in line, will be superseded by web#19 of bob when that starts - https";
        assert!(line.contains(told), "{line}");
        assert_ne!(ahead().news(&at_place(2)), ahead().news(&overtaken));
    }

    #[test]
    fn the_wait_line_tells_when_ones_own_start_is_expected_and_its_moving_is_no_news() {
        let now = at("2026-03-01T12:07:31Z");
        let eta = |p50_seconds, p90_seconds| Some(Eta { p50_seconds, p90_seconds });
        let third = PlaceInLine { expected: eta(24, 40), ..at_place(3) };
        let line = ahead().wait_line(&third, now);
        assert!(
            line.contains("; you are number 3 in line, expected to start in about 24s (9 in 10: 40s) - h"),
            "{line}"
        );
        assert_eq!(ahead().news(&third), ahead().news(&PlaceInLine { expected: eta(23, 39), ..third.clone() }));
        // For the next deployment in line, the holder's remaining time already says when it starts. This does not hold
        // when the remaining time is over.
        let next = PlaceInLine { expected: eta(1, 30), ..at_place(1) };
        let mut other = ahead();
        assert!(other.wait_line(&next, now).contains("; you are next - h"));
        other.blocking.eta = eta(0, 0);
        let line = other.wait_line(&next, now);
        let told = "longer than usual already; you are next, expected to start any moment (9 in 10: 30s) - h";
        assert!(line.contains(told), "{line}");
        let unknown = PlaceInLine { unknown: Some("nobody knows why".to_owned()), ..at_place(2) };
        let line = ahead().wait_line(&unknown, now);
        assert!(line.contains("; you are number 2 in line, the start is not known: nobody knows why - h"), "{line}");
    }

    fn web() -> ProjectName {
        "web".parse().expect("a test's name")
    }

    fn ahead() -> LineAhead {
        let blocking = Blocking {
            number: Some(17),
            actor: Some("alice".to_owned()),
            ref_name: Some("main".to_owned()),
            commit: Some("3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567".to_owned()),
            url: Some("https://ci.example/run/17".to_owned()),
            pipeline: "deploy".to_owned(),
            status: Status::Running,
            phase: Some("migrate".to_owned()),
            message: None,
            progress: 40,
            started_at: Some(at("2026-03-01T12:03:11Z")),
            last_heartbeat_at: None,
            cancel_requested_at: None,
            liveness: Liveness::Alive,
            eta: Some(Eta { p50_seconds: 120, p90_seconds: 190 }),
        };
        LineAhead { project: web(), id: DeploymentId::from_bytes([7; 16]), blocking }
    }

    #[test]
    fn the_wait_line_tells_whom_since_when_how_far_and_the_place() {
        let now = at("2026-03-01T12:07:31Z");
        assert_eq!(
            ahead().wait_line(&at_place(2), now),
            "waiting for web#17, alice's deploy of main@3f2a1b2c4d: running since 12:03:11 UTC (4m20s), phase migrate, 40 %, \
             about 2m00s left (9 in 10: 3m10s); you are number 2 in line - https://ci.example/run/17"
        );
        let mut silent = ahead();
        silent.blocking.liveness = Liveness::Silent;
        silent.blocking.url = None;
        silent.blocking.cancel_requested_at = Some(now);
        assert_eq!(
            silent.wait_line(&at_place(1), at("2026-03-02T12:07:31Z")),
            "waiting for web#17, alice's deploy of main@3f2a1b2c4d: running since 2026-03-01 12:03:11 UTC (1d00h), phase \
             migrate, 40 %, being cancelled, its worker is silent; you are next"
        );
    }

    #[test]
    fn progress_alone_is_no_news_and_a_phase_is() {
        let mut other = ahead();
        other.blocking.progress = 41;
        assert_eq!(ahead().news(&at_place(1)), other.news(&at_place(1)));
        other.blocking.phase = Some("verify".to_owned());
        assert_ne!(ahead().news(&at_place(1)), other.news(&at_place(1)));
        assert_ne!(ahead().news(&at_place(1)), ahead().news(&at_place(2)));
    }

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        let mut hostile = ahead();
        hostile.blocking.actor = Some("\u{1b}[2Jmallory\n::error::x".to_owned());
        let line = hostile.wait_line(&PlaceInLine::default(), at("2026-03-01T12:07:31Z"));
        assert!(line.starts_with("waiting for web#17, mallory ::error::x's deploy"), "{line}");
    }
}
