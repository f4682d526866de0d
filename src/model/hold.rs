//! What holds a project: while a project is held, its slot is given to nobody. See decision 0069.
//!
//! Three things hold: a pause, which somebody has set and which is kept in the store; a freeze window of the configuration;
//! and `paused = true` in the configuration. What runs already goes on.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{freeze, policy::Policy};

/// How many holds that follow each other are looked at to find the moment at which nothing holds.
const CHAIN_LIMIT: usize = 100;

/// A pause of a project, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pause {
    /// When it was set.
    #[serde(serialize_with = "instant")]
    pub at: Timestamp,
    /// The identity of the caller who set it, in its string form.
    pub by: String,
    /// The person that this caller names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why.
    pub reason: String,
    /// Its end; without one, it lasts until somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_instant")]
    pub until: Option<Timestamp>,
    /// The number of the deployment to which the project was rolled back, where the pause came with a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<u64>,
}

/// What holds a project now. Of several holds, it is the one that ends last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// What kind of hold.
    pub kind: HoldKind,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The identity of the caller who set it. Set for a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The person that this caller names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Since when. Unknown for `paused = true` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_instant")]
    pub since: Option<Timestamp>,
    /// Its end. Left out where it lasts until somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_instant")]
    pub until: Option<Timestamp>,
    /// The number of the deployment to which the project was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<u64>,
}

/// The kinds of holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldKind {
    /// Somebody paused the project.
    Pause,
    /// A freeze window of the configuration.
    Freeze,
    /// `paused = true` of the configuration.
    Configuration,
}

/// What the reason of a pause begins with that came with a hold of all projects.
const OF_ALL: &str = "everything is held: ";

/// The reason of a pause that comes with a hold of all projects.
pub fn reason_of_all(reason: &str) -> String {
    format!("{OF_ALL}{}", reason.trim())
}

impl Pause {
    /// Whether it came with a hold of all projects.
    pub fn is_of_all(&self) -> bool {
        self.reason.starts_with(OF_ALL)
    }

    /// Whether it still lasts.
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Hold {
    /// What holds a project with these rules and this pause at `now`.
    pub fn of(policy: &Policy, pause: Option<&Pause>, now: Timestamp) -> Option<Hold> {
        let pause = pause.filter(|pause| pause.lasts(now)).map(|pause| Hold {
            kind: HoldKind::Pause,
            reason: Some(pause.reason.clone()),
            by: Some(pause.by.clone()),
            actor: pause.actor.clone(),
            since: Some(pause.at),
            until: pause.until,
            pin: pause.pin,
        });
        let bare = |kind| Hold { kind, reason: None, by: None, actor: None, since: None, until: None, pin: None };
        let frozen = freeze::frozen(&policy.freezes, now).map(|frozen| Hold {
            reason: frozen.reason,
            since: Some(frozen.since),
            until: Some(frozen.until),
            ..bare(HoldKind::Freeze)
        });
        let configured = policy.paused.then(|| bare(HoldKind::Configuration));
        let lasts_longer = |one: &Hold, other: &Hold| match (one.until, other.until) {
            (Some(one), Some(other)) => one > other,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let all = [pause, frozen, configured].into_iter().flatten();
        all.reduce(|longest, other| if lasts_longer(&other, &longest) { other } else { longest })
    }

    /// The moment from which nothing holds any more, as far as that is known now; `None` where it is unknown.
    pub fn free_from(policy: &Policy, pause: Option<&Pause>, now: Timestamp) -> Option<Timestamp> {
        let mut at = now;
        for _ in 0..CHAIN_LIMIT {
            match Hold::of(policy, pause, at) {
                None => return Some(at),
                Some(hold) => at = hold.until?,
            }
        }
        None
    }

    /// The next moment after `now` at which a hold begins or ends by itself.
    pub fn next_change(policy: &Policy, pause: Option<&Pause>, now: Timestamp) -> Option<Timestamp> {
        let pause_ends = pause.and_then(|pause| pause.until).filter(|until| *until > now);
        pause_ends.into_iter().chain(freeze::next_change(&policy.freezes, now)).min()
    }

    /// The reason for which all projects are held, where that is what holds this one.
    pub fn of_all(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.kind == HoldKind::Pause)?.strip_prefix(OF_ALL)
    }

    /// The person, as far as it is known.
    pub fn who(&self) -> Option<String> {
        who(self.by.as_deref(), self.actor.as_deref())
    }

    /// `paused by anna`, `frozen`, without its end and its reason.
    pub fn what(&self) -> String {
        match self.kind {
            HoldKind::Pause => {
                let who = self.who().unwrap_or_else(|| "somebody".to_owned());
                match self.pin {
                    Some(pin) => format!("rolled back to #{pin} by {who}"),
                    None => format!("paused by {who}"),
                }
            }
            HoldKind::Freeze => "frozen by a freeze window".to_owned(),
            HoldKind::Configuration => "paused in the server's configuration".to_owned(),
        }
    }
}

/// `paused by anna until 2026-12-01T18:00:00Z: the database is being repaired`.
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        if let Some(until) = self.until {
            write!(f, " until {until:.0}")?;
        }
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// A person in words, from the identity and the name that the client gives.
pub(super) fn who(by: Option<&str>, actor: Option<&str>) -> Option<String> {
    let identity = by.map(|by| by.replacen("token:", "token ", 1).replacen("oidc:", "", 1));
    match (actor, identity) {
        (Some(actor), Some(identity)) if identity == "local" => Some(actor.to_owned()),
        (Some(actor), Some(identity)) => Some(format!("{actor} ({identity})")),
        (Some(one), None) => Some(one.to_owned()),
        (None, Some(identity)) if identity == "local" => Some("a user without a token".to_owned()),
        (None, identity) => identity,
    }
}

/// Times as the wire has them: with three decimals.
pub(super) fn instant<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

fn optional_instant<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => instant(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::freeze::{Freeze, Window};
    use jiff::tz::TimeZone;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a test's time")
    }

    fn pause(until: Option<&str>) -> Pause {
        Pause {
            at: at("2026-01-14T09:00:00Z"),
            by: "token:ops".to_owned(),
            actor: Some("anna".to_owned()),
            reason: "repair".to_owned(),
            until: until.map(at),
            pin: None,
        }
    }

    /// Frozen from 10:00 to 12:00 on 14 January.
    fn frozen() -> Policy {
        let point = |text: &str| text.parse().expect("a test's point");
        let window = Window::between(point("2026-01-14 10:00"), point("2026-01-14 12:00")).expect("a test's window");
        let freeze = Freeze { window, zone: TimeZone::UTC, reason: None };
        Policy { freezes: [freeze].into(), ..Policy::default() }
    }

    #[test]
    fn of_several_holds_the_one_that_ends_last_is_told() {
        let configured = Policy { paused: true, ..frozen() };
        let kind = |policy: &Policy, pause: Option<&Pause>| {
            Hold::of(policy, pause, at("2026-01-14T10:30:00Z")).map(|hold| hold.kind)
        };
        let (short, long, endless) =
            (pause(Some("2026-01-14T11:00:00Z")), pause(Some("2026-01-14T13:00:00Z")), pause(None));
        assert_eq!(kind(&Policy::default(), None), None);
        assert_eq!(kind(&frozen(), None), Some(HoldKind::Freeze));
        assert_eq!(kind(&frozen(), Some(&short)), Some(HoldKind::Freeze));
        assert_eq!(kind(&frozen(), Some(&long)), Some(HoldKind::Pause));
        assert_eq!(kind(&configured, Some(&long)), Some(HoldKind::Configuration));
        assert_eq!(kind(&configured, Some(&endless)), Some(HoldKind::Pause), "somebody said why");
        let over = pause(Some("2026-01-14T10:30:00Z"));
        assert_eq!(kind(&Policy::default(), Some(&over)), None, "its end has come");
    }

    #[test]
    fn a_project_is_free_when_the_last_of_the_holds_that_follow_each_other_ends() {
        let free = |pause: Option<&Pause>, now: &str| Hold::free_from(&frozen(), pause, at(now));
        let into_the_window = pause(Some("2026-01-14T10:30:00Z"));
        assert_eq!(free(Some(&into_the_window), "2026-01-14T09:30:00Z"), Some(at("2026-01-14T12:00:00Z")));
        assert_eq!(free(None, "2026-01-14T09:30:00Z"), Some(at("2026-01-14T09:30:00Z")));
        assert_eq!(free(Some(&pause(None)), "2026-01-14T09:30:00Z"), None, "nobody said when");
        let next = |pause: Option<&Pause>, now: &str| Hold::next_change(&frozen(), pause, at(now));
        assert_eq!(next(None, "2026-01-14T09:30:00Z"), Some(at("2026-01-14T10:00:00Z")));
        assert_eq!(next(Some(&into_the_window), "2026-01-14T10:00:00Z"), Some(at("2026-01-14T10:30:00Z")));
        assert_eq!(next(Some(&into_the_window), "2026-01-14T10:30:00Z"), Some(at("2026-01-14T12:00:00Z")));
        assert_eq!(next(Some(&pause(None)), "2026-01-14T12:00:00Z"), None);
    }

    #[test]
    fn a_hold_is_told_with_the_person_the_end_and_the_reason() {
        let told = |pause: Pause| Hold::of(&Policy::default(), Some(&pause), pause.at).expect("it holds").to_string();
        let until = pause(Some("2026-01-14T18:00:00Z"));
        assert_eq!(told(until), "paused by anna (token ops) until 2026-01-14T18:00:00Z: repair");
        assert_eq!(told(Pause { by: "local".to_owned(), ..pause(None) }), "paused by anna: repair");
        assert_eq!(told(Pause { actor: None, ..pause(None) }), "paused by token ops: repair");
        assert_eq!(told(Pause { pin: Some(41), ..pause(None) }), "rolled back to #41 by anna (token ops): repair");
    }
}
