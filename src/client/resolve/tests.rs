//! Whole conversations, a line each.

use serde_json::json;

use super::*;

const OURS: &str = "01998c6e-0000-7000-8000-000000000001";
const HOLDER: &str = "01998c6e-0000-7000-8000-00000000000a";
const NEXT_HOLDER: &str = "01998c6e-0000-7000-8000-00000000000b";

fn id(text: &str) -> DeploymentId {
    text.parse().expect("a test's id")
}

fn deployment(status: &str, queue_position: u64) -> Box<Deployment> {
    let deployment = json!({
        "id": OURS, "project": "web", "logicalId": "web", "pipeline": "deploy", "status": status,
        "queuePosition": queue_position, "phase": null, "progress": 0, "message": null, "ref": null,
        "commit": null, "actor": null, "url": null, "order": null, "dryRun": false, "result": null,
        "error": null, "supersededBy": null, "retryOf": null, "createdAt": "2026-01-01T00:00:00.000Z",
        "startedAt": null, "endedAt": null, "cancelRequestedAt": null, "lastHeartbeatAt": null, "revision": 1,
    });
    Box::new(serde_json::from_value(deployment).expect("a test's deployment"))
}

fn held(holder: &str, ticket: bool, relation: &str) -> Observation {
    let mut conflict = json!({
        "deploymentId": holder, "relation": relation, "blocking": {
            "actor": "alice", "ref": "main", "commit": null, "url": null, "pipeline": "deploy",
            "status": "RUNNING", "phase": null, "progress": 0, "startedAt": null, "lastHeartbeatAt": null,
            "cancelRequestedAt": null, "liveness": "alive", "eta": null,
        },
    });
    if ticket {
        conflict["ticket"] = json!(OURS);
        conflict["queuePosition"] = json!(1);
    }
    Observation::Held(Box::new(serde_json::from_value(conflict).expect("a test's conflict")))
}

fn accepted(status: &str, queue_position: u64) -> Observation {
    Observation::Accepted { deployment: deployment(status, queue_position), replayed: false }
}

fn still(holder: &str) -> Observation {
    Observation::StillWaiting { ticket: id(OURS), holder: Some(id(holder)) }
}

fn refused() -> Observation {
    let body = json!({"errorCode": "PROJECT_PAUSED"});
    let code = Some(crate::wire::ErrorCode::ProjectPaused);
    Observation::Refused(Box::new(ServerRefusal {
        status: 409,
        code,
        with_token: false,
        message: "paused".to_owned(),
        body,
    }))
}

fn next_holder() -> Mention {
    Mention::unnamed("web".parse().expect("a name"), id(NEXT_HOLDER))
}

/// A word for each action, so that a whole conversation is one line.
fn word(action: &Action) -> String {
    match action {
        Action::Submit => "submit".to_owned(),
        Action::Preempt { target, ticket } => {
            assert_eq!(*ticket, id(OURS));
            format!("preempt {}", if *target == id(HOLDER) { "holder" } else { "next" })
        }
        Action::AwaitTurn(ticket) => {
            assert_eq!(*ticket, id(OURS));
            "turn".to_owned()
        }
        Action::Follow(_) => "follow".to_owned(),
        Action::Leave { id: ours, until_final, overtaker } => {
            assert_eq!(*ours, id(OURS));
            assert!(overtaker.is_none() || !until_final);
            if *until_final { "leave+wait" } else { "leave" }.to_owned()
        }
        Action::Finish(verdict) => match &**verdict {
            Ending::Ended { deployment, replayed } => {
                format!("end {}{}", deployment.status.as_str(), if *replayed { " replayed" } else { "" })
            }
            Ending::Detached(_) => "end detached".to_owned(),
            Ending::Blocked(_) => "end blocked".to_owned(),
            Ending::Inside(_) => "end inside".to_owned(),
            Ending::Overtaken { .. } => "end overtaken".to_owned(),
            Ending::Refused(_) => "end refused".to_owned(),
            Ending::Faulted(_) => "end fault".to_owned(),
            Ending::Stopped { why, reached, .. } => {
                let reached = match reached {
                    Reached::Nothing => "nothing",
                    Reached::Line(_) => "line",
                    Reached::Slot(_) => "slot",
                };
                format!("end {why:?} at {reached}")
            }
        },
    }
}

fn conversation(wish: Wish, seen: Vec<Observation>) -> String {
    conversation_inside(None, wish, seen)
}

fn conversation_inside(inside: Option<DeploymentId>, wish: Wish, seen: Vec<Observation>) -> String {
    let (mut resolver, first) = Resolver::new(wish, inside);
    let mut words = vec![word(&first)];
    words.extend(seen.into_iter().map(|seen| word(&resolver.next(seen))));
    words.join(" · ")
}

const WAIT: Wish = Wish::Wait { preempt: false };
const FAIL: Wish = Wish::Fail { detach: false };
const TAKE: Wish = Wish::Wait { preempt: true };

#[test]
fn each_conversation_goes_its_way() {
    use Observation as O;
    let ours = || id(OURS);
    for (name, wish, seen, expected) in [
        (
            "the slot is free",
            WAIT,
            vec![accepted("PENDING", 0), O::Ended(deployment("SUCCEEDED", 0))],
            "submit · follow · end SUCCEEDED",
        ),
        (
            "the slot is held: one more submit, no third",
            WAIT,
            vec![
                held(HOLDER, true, "other"),
                still(HOLDER),
                still(NEXT_HOLDER),
                O::TurnCame(deployment("PENDING", 0)),
                accepted("PENDING", 0),
                O::Ended(deployment("FAILED", 0)),
            ],
            "submit · turn · turn · turn · submit · follow · end FAILED",
        ),
        (
            "the slot that was kept is lost to a slow network: back in line on the same ticket",
            WAIT,
            vec![
                held(HOLDER, true, "other"),
                O::TurnCame(deployment("PENDING", 0)),
                held(NEXT_HOLDER, true, "other"),
                O::TurnCame(deployment("CANCELLED", 0)),
            ],
            "submit · turn · submit · turn · end CANCELLED",
        ),
        (
            "the predecessor is cancelled",
            TAKE,
            vec![
                held(HOLDER, true, "other"),
                O::Preempted { ticket: ours() },
                still(HOLDER),
                O::TurnCame(deployment("PENDING", 0)),
                accepted("RUNNING", 0),
                O::Ended(deployment("SUCCEEDED", 0)),
            ],
            "submit · preempt holder · turn · turn · submit · follow · end SUCCEEDED",
        ),
        (
            "the policy lets the predecessor finish, but the next holder is asked for again",
            TAKE,
            vec![
                held(HOLDER, true, "other"),
                O::PreemptRefused { ticket: ours() },
                still(HOLDER),
                still(NEXT_HOLDER),
                O::PreemptRefused { ticket: ours() },
            ],
            "submit · preempt holder · turn · turn · preempt next · turn",
        ),
        (
            "without a wish to wait the first conflict is the end",
            FAIL,
            vec![held(HOLDER, false, "other")],
            "submit · end blocked",
        ),
        (
            "another job of the same CI run is waited for",
            WAIT,
            vec![held(HOLDER, true, "self"), still(HOLDER)],
            "submit · turn · turn",
        ),
        (
            "handed over to a free slot",
            Wish::Fail { detach: true },
            vec![accepted("PENDING", 0)],
            "submit · end detached",
        ),
        ("handed over", Wish::Detach, vec![accepted("PENDING", 3)], "submit · end detached"),
        (
            "queued and followed",
            Wish::Queue,
            vec![accepted("PENDING", 3), O::Ended(deployment("SUCCEEDED", 0))],
            "submit · follow · end SUCCEEDED",
        ),
        (
            "an earlier run of the job did it already",
            WAIT,
            vec![O::Accepted { deployment: deployment("SUCCEEDED", 0), replayed: true }],
            "submit · end SUCCEEDED replayed",
        ),
        (
            "superseded in line",
            WAIT,
            vec![held(HOLDER, true, "other"), O::TurnCame(deployment("CANCELLED", 0))],
            "submit · turn · end CANCELLED",
        ),
        (
            "overtaken in line, and not willing to wait for that",
            WAIT,
            vec![
                held(HOLDER, true, "other"),
                O::Overtaken { id: ours(), by: next_holder() },
                O::Left(Some(deployment("CANCELLED", 0))),
            ],
            "submit · turn · leave · end overtaken",
        ),
        (
            "overtaken while it is queued",
            Wish::Queue,
            vec![accepted("PENDING", 2), O::Overtaken { id: ours(), by: next_holder() }, O::Left(None)],
            "submit · follow · leave · end overtaken",
        ),
        ("refused", WAIT, vec![refused()], "submit · end refused"),
        (
            "refused at the re-submit",
            WAIT,
            vec![held(HOLDER, true, "other"), O::TurnCame(deployment("PENDING", 0)), refused()],
            "submit · turn · submit · end refused",
        ),
        (
            "the answer to the re-submit was lost and the deployment runs already",
            WAIT,
            vec![held(HOLDER, true, "other"), O::TurnCame(deployment("RUNNING", 0))],
            "submit · turn · follow",
        ),
    ] {
        assert_eq!(conversation(wish, seen), expected, "{name}");
    }
}

#[test]
fn a_command_never_waits_for_the_deployment_that_runs_it() {
    let inside = Some(id(HOLDER));
    let seen = vec![held(HOLDER, true, "other"), Observation::Left(None)];
    assert_eq!(conversation_inside(inside, WAIT, seen), "submit · leave · end inside");
    let seen = vec![held(HOLDER, true, "other"), Observation::Left(None)];
    assert_eq!(conversation_inside(inside, TAKE, seen), "submit · leave · end inside");
    let seen = vec![held(HOLDER, false, "other")];
    assert_eq!(conversation_inside(inside, FAIL, seen), "submit · end inside");
    let seen = vec![held(NEXT_HOLDER, true, "other")];
    assert_eq!(conversation_inside(inside, WAIT, seen), "submit · turn");
}

#[test]
fn whoever_stops_leaves_nothing_behind() {
    use Observation as O;
    let at = O::Stopped;
    for (name, wish, seen, expected) in [
        ("before any answer", WAIT, vec![at(StopReason::Signal)], "submit · end Signal at nothing"),
        (
            "in line",
            WAIT,
            vec![held(HOLDER, true, "other"), at(StopReason::Deadline), O::Left(None)],
            "submit · turn · leave · end Deadline at line",
        ),
        (
            "with the slot kept, before the re-submit is answered",
            WAIT,
            vec![
                held(HOLDER, true, "other"),
                O::TurnCame(deployment("PENDING", 0)),
                at(StopReason::Signal),
                O::Left(None),
            ],
            "submit · turn · submit · leave · end Signal at line",
        ),
        (
            "running",
            WAIT,
            vec![accepted("RUNNING", 0), at(StopReason::Deadline), O::Left(Some(deployment("CANCELLED", 0)))],
            "submit · follow · leave+wait · end Deadline at slot",
        ),
        (
            "queued",
            Wish::Queue,
            vec![accepted("PENDING", 2), at(StopReason::Deadline), O::Left(None)],
            "submit · follow · leave · end Deadline at line",
        ),
        (
            "while it leaves",
            WAIT,
            vec![accepted("RUNNING", 0), at(StopReason::Deadline), at(StopReason::Signal)],
            "submit · follow · leave+wait · end Deadline at slot",
        ),
    ] {
        assert_eq!(conversation(wish, seen), expected, "{name}");
    }
}

#[test]
fn a_place_in_line_of_a_held_project_is_kept_though_nobody_is_in_the_way() {
    let held = || {
        let conflict = json!({ "ticket": OURS, "queuePosition": 1, "hold": { "kind": "pause", "reason": "repair" } });
        Observation::Held(Box::new(serde_json::from_value(conflict).expect("a test's conflict")))
    };
    for preempt in [false, true] {
        let (mut resolver, _) = Resolver::new(Wish::Wait { preempt }, Some(id(HOLDER)));
        assert_eq!(word(&resolver.next(held())), "turn");
        let nobody = Observation::StillWaiting { ticket: id(OURS), holder: None };
        assert_eq!(word(&resolver.next(nobody)), "turn");
        assert_eq!(word(&resolver.next(still(HOLDER))), if preempt { "preempt holder" } else { "turn" });
    }
}
