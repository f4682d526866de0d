//! What every engine promises, run whole on each of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use singletrack::{
    clock::Clock as _,
    model::{
        Caller, Changes, Command, Deployment, Edges, FailureCause, IdempotencyKey, Identity, Lapse, LeaseHolder,
        LineLoad, LinePolicy, Load, Mention, Named, NewNotification, NotificationEvent, NotificationId, Party, Pause,
        PhaseState, Place, Policy, Project, Report, RequestId, Revision, Rollbacks, RunBy, Slot, Spec, State, Status,
        Stream, Verdict,
        admission::{Admission, Cancellation, OnConflict, Submission},
        event::EventBody,
        lifecycle::{Entry, LOG_HEAD_LIMIT, LOG_TAIL_LIMIT},
    },
    queue::pause::PauseWish,
    store::{
        AgentCall, AuditQuery, HeldProject, HeldSlot, KnownAgent, ListQuery, Mark, NewAuditLine, Notification,
        NotificationQuery, NotificationState, ProjectFigures, ProjectState, Settlement, SlotStage, StoreError,
        StoreFigures, Watched,
    },
};

use crate::store_trial::{Trial, id, kept_by_all, name, spec};

/// Another deployment of the project `web`, of which only the id is known.
fn other(number: u64) -> Mention {
    Mention::unnamed(name("web"), id(number))
}

/// Somebody, with a name that no column takes as it is.
fn party() -> Party {
    let identity = Identity::Token { name: "ci \"x\"".to_owned() };
    Party { identity, actor: Some("alice \0 'o'".to_owned()) }
}

kept_by_all! {
    every_state_comes_back_as_it_was_recorded,
    every_field_comes_back_as_it_was_recorded,
    every_deployment_gets_the_next_number_of_its_project,
    the_counters_of_a_project_come_back,
    a_pause_comes_back_and_its_project_is_listed_as_held,
    a_pause_takes_the_slot_back_from_whoever_has_not_started,
    a_load_brings_what_it_asks_for_and_nothing_else,
    a_deployment_is_found_in_its_own_project_only,
    an_idempotency_key_brings_its_deployment_and_fingerprint,
    a_decision_that_panics_changes_nothing_and_stops_nobody,
    a_decision_that_cannot_be_recorded_changes_nothing_and_stops_nobody,
    a_decision_without_changes_is_answered_and_not_told,
    concurrent_submits_to_one_project_make_one_holder_and_an_unbroken_line,
    concurrent_work_on_many_projects_all_lands,
    commits_are_counted_with_what_shared_them,
    positions_count_who_is_served_before,
    whoever_leaves_the_line_leaves_all_others_as_they_were,
    a_build_that_waits_for_a_worker_is_not_taken_over_by_an_older_one,
    a_list_pages_newest_first,
    a_list_filters_by_status,
    projects_page_by_name,
    sealed_inputs_are_kept_until_the_deployment_is_final,
    a_project_shows_its_slot_line_and_last_outcome,
    what_is_live_is_the_last_success_whatever_ends_after_it,
    whoever_can_fall_silent_is_watched,
    what_waits_for_a_worker_is_claimable_in_the_order_of_arrival,
    events_resume_after_any_of_them,
    trimmed_output_leaves_head_tail_and_everything_else,
    marks_tell_the_last_change_of_what_exists,
    the_audit_log_is_read_by_what_its_lines_are_about,
    an_agent_is_there_while_a_call_of_it_is_parked,
    an_agents_call_is_over_with_its_window,
    figures_tell_how_slots_and_lines_stand_and_nothing_of_what_is_over,
    an_agent_is_known_by_its_newest_offer,
    a_claim_that_is_made_twice_takes_one_deployment,
    commits_are_told_in_order_before_they_are_answered,
    a_commit_is_told_though_its_caller_went_away,
    it_is_ready,
    notifications_come_with_their_commit_and_each_lane_is_sent_in_its_order,
    only_the_last_claim_of_a_notification_settles_it,
    a_notification_that_was_given_up_is_kept_tried_anew_or_let_go,
}

async fn the_audit_log_is_read_by_what_its_lines_are_about(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    trial.clock.advance(Duration::from_secs(60));
    let attempt = |project: Option<&str>, detail: &str, count| NewAuditLine {
        at: trial.clock.wall(),
        project: project.map(name),
        action: "refused",
        caller: None,
        address: Some("192.0.2.7".parse().unwrap()),
        request: Some(RequestId::made(count)),
        deployment: None,
        detail: detail.to_owned(),
        count,
    };
    let odd = "a NUL \0, a quote ', and \u{1f680}";
    let audit = trial.store.audit();
    audit.append(vec![attempt(Some("web"), odd, 3), attempt(None, "", 40_000)]).await.unwrap();
    audit.append(Vec::new()).await.unwrap();
    let all = audit.audit_page(AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap();
    let [last, middle, first] = &all.lines[..] else { panic!("{all:#?}") };
    assert_eq!(all.goes_on, None);
    assert!(last.number > middle.number && middle.number > first.number);
    assert_eq!(
        (first.action.as_str(), first.caller.as_deref(), first.deployment),
        ("submit", Some("server"), Some(id(1)))
    );
    assert_eq!((middle.detail.as_str(), middle.count, &middle.project), (odd, 3, &Some(name("web"))));
    assert_eq!((middle.address.as_deref(), &middle.caller), (Some("192.0.2.7"), &None));
    assert_eq!((middle.request.as_deref(), middle.at), (Some("0000000000000003"), trial.clock.wall()));
    assert_eq!((last.count, &last.project), (40_000, &None));

    let numbers = async |query: AuditQuery| {
        let page = audit.audit_page(query).await.unwrap();
        page.lines.iter().map(|line| line.number).collect::<Vec<_>>()
    };
    let some = || AuditQuery { limit: 10, ..AuditQuery::default() };
    let web = AuditQuery { project: Some(name("web")), ..some() };
    assert_eq!(numbers(web.clone()).await, [middle.number, first.number]);
    assert_eq!(numbers(AuditQuery { action: Some("submit".to_owned()), ..web.clone() }).await, [first.number]);
    assert_eq!(numbers(AuditQuery { before: Some(middle.number), ..web }).await, [first.number]);
    assert_eq!(numbers(AuditQuery { deployment: Some(id(1)), ..some() }).await, [first.number]);
    assert_eq!(numbers(AuditQuery { deployment: Some(id(2)), ..some() }).await, [0_u64; 0]);
    let minute_ago = trial.clock.wall() - jiff::SignedDuration::from_secs(1);
    assert_eq!(numbers(AuditQuery { since: Some(minute_ago), ..some() }).await, [last.number, middle.number]);
    assert_eq!(numbers(AuditQuery { until: Some(minute_ago), ..some() }).await, [first.number]);
    assert_eq!(numbers(AuditQuery { caller: Some("server".to_owned()), ..some() }).await, [first.number]);
    let page = audit.audit_page(AuditQuery { limit: 2, ..some() }).await.unwrap();
    assert_eq!((page.lines.len(), page.goes_on), (2, Some(middle.number)));
}

async fn every_state_comes_back_as_it_was_recorded(trial: Trial) {
    // One project for each state, so that nobody is in the way.
    trial.submit("ready", 1, OnConflict::Refuse).await;
    trial.submit("running", 2, OnConflict::Refuse).await;
    trial.claim("running", 2).await;
    trial.submit("waiting", 3, OnConflict::Refuse).await;
    trial.submit("waiting", 4, OnConflict::Wait).await;
    trial.submit("waiting", 5, OnConflict::Queue).await;
    trial.queue.attend(name("waiting"), id(4), Duration::from_secs(30)).await.unwrap();
    trial.submit("reserved", 6, OnConflict::Refuse).await;
    trial.submit("reserved", 7, OnConflict::Wait).await;
    trial.queue.cancel(&Caller::server(), name("reserved"), id(6), None, None).await.unwrap();
    trial.submit("done", 8, OnConflict::Refuse).await;
    let secret = trial.claim("done", 8).await;
    trial.clock.advance(Duration::from_millis(1500));
    trial.finish("done", 8, secret).await;

    assert_eq!(trial.deployment("ready", 1).await.state, State::Ready);
    assert!(matches!(trial.deployment("running", 2).await.state, State::Running(lease) if
        lease.holder == LeaseHolder::worker("worker-1") && lease.fencing_token == Revision(2) && lease.ttl == Duration::from_secs(60)));
    let window = Duration::from_secs(30);
    assert_eq!(trial.deployment("waiting", 4).await.state, State::Waiting(Place::Ticket { window }));
    assert_eq!(trial.deployment("waiting", 5).await.state, State::Waiting(Place::Queued));
    assert_eq!(trial.deployment("reserved", 7).await.state, State::Reserved);
    let done = trial.deployment("done", 8).await;
    assert_eq!(done.ended_at(), done.started_at.map(|at| at + Duration::from_millis(1500)));
    assert_eq!(done.status(), Status::Succeeded);
    assert!(done.lease().is_some_and(|lease| lease.secret == secret));

    // Every way to end, each by what brings it about.
    for (number, cause) in (100..).zip(FailureCause::ALL) {
        let project = format!("failed-{number}");
        trial.submit(&project, number, OnConflict::Refuse).await;
        let secret = trial.claim(&project, number).await;
        let verdict = Verdict::Failed { cause, message: format!("for {cause:?}"), phase: Some("migrate".to_owned()) };
        let told = trial.queue.finish(name(&project), id(number), secret, verdict).await.unwrap();
        assert_eq!(trial.deployment(&project, number).await, told);
    }
    // Who is first holds the slot, the other two are in line; one of them ends.
    type End = fn(&Deployment) -> Command;
    let ends: [(&str, u64, End); 5] = [
        ("CANCELLED", 1, |_| Command::Cancel {
            reason: Some("not today".to_owned()),
            superseded_by: None,
            by: Some(party()),
        }),
        ("SUPERSEDED", 1, |seen| Command::Cancel {
            reason: None,
            superseded_by: Some(Mention::unnamed(seen.project.clone(), id(99))),
            by: None,
        }),
        ("ABANDONED", 1, |seen| Command::Lapse { seen: seen.vital(), cause: Lapse::Silence }),
        ("EXPIRED", 2, |seen| Command::Lapse { seen: seen.vital(), cause: Lapse::Deadline }),
        ("RELEASED", 0, |_| Command::Release { reason: "stuck".to_owned(), by: Some(party()) }),
    ];
    for (index, (cause, place, end)) in (0..).zip(ends) {
        let project = format!("cancelled-{index}");
        let first = 1000 + 10 * index;
        for number in first..first + 3 {
            trial.submit(&project, number, OnConflict::Wait).await;
        }
        let target = id(first + place);
        let load = Load { deployments: vec![target], line: LineLoad::Head, ..Load::default() };
        let step = move |slot: &mut Slot| {
            let command = end(slot.deployment(target).unwrap());
            slot.step(target, command).cloned().unwrap()
        };
        let told = trial.decide(&project, load, step).await.unwrap();
        assert_eq!(told.status(), Status::Cancelled);
        let State::Finished { outcome, .. } = &told.state else { panic!("{told:?}") };
        assert_eq!(outcome.error_code(), Some(cause));
        assert_eq!(trial.deployment(&project, first + place).await, told);
    }
}

async fn every_field_comes_back_as_it_was_recorded(trial: Trial) {
    let full = Spec {
        pipeline: "destroy".to_owned(),
        ref_name: Some("main".to_owned()),
        commit: Some("3f2a".to_owned()),
        message: Some("a line\nand \"another\" \u{1f682}\0".to_owned()),
        actor: Some("alice".to_owned()),
        url: Some("https://ci.example/run/17".to_owned()),
        order: Some((1 << 53) - 1),
        inputs: BTreeMap::from([("region".to_owned(), "eu".to_owned()), (String::new(), "'; --".to_owned())]),
        artifact: Some("ab".repeat(32).parse().unwrap()),
        executor: RunBy::Submitter,
        rollback: true,
        override_pause: true,
        deadline_seconds: Some(86_400),
        retry_of: Some(id(77)),
        retry_of_named: Some(Named { number: 3, actor: Some("bob\0".to_owned()), commit: None }),
        pipeline_digest: Some("ab".repeat(32).parse().unwrap()),
        claim_within_seconds: Some(600),
        submitted_by: Some(Identity::Server),
        secret_inputs: BTreeMap::from([("token".to_owned(), "hmac-sha256:00".to_owned())]),
    };
    trial.submit_spec("web", 1, OnConflict::Refuse, full.clone()).await;
    let secret = trial.claim("web", 1).await;
    trial.clock.advance(Duration::from_millis(1));
    trial.queue.heartbeat(name("web"), id(1), secret).await.unwrap();
    let reports = vec![
        Report::Phase { name: "migrate".to_owned(), state: PhaseState::Started, message: Some("why".to_owned()) },
        Report::Phase { name: "migrate".to_owned(), state: PhaseState::RollingBack, message: None },
        Report::Phase {
            name: "migrate".to_owned(),
            state: PhaseState::RollbackFailed,
            message: Some("\u{1a}no\0".to_owned()),
        },
        Report::Progress { progress: Some(40), message: Some("half".to_owned()) },
        Report::Output { name: "url".to_owned(), value: "https://x".to_owned() },
        Report::Log { stream: Stream::Stderr, phase: None, lines: vec![String::new(), "\u{1b}[31mred\0".to_owned()] },
    ];
    trial.queue.report(name("web"), id(1), secret, None, reports).await.unwrap();
    let Party { identity, actor } = party();
    let caller = Caller::new(identity);
    let reason = Some("stop it".to_owned());
    trial.queue.cancel_as(&caller, actor, name("web"), id(1), reason, None).await.unwrap();
    let load = Load { deployments: vec![id(1)], ..Load::default() };
    let named = Named { number: 2, actor: Some("al\0ice".to_owned()), commit: Some("3f2a".to_owned()) };
    let successor = Mention { named: Some(named), ..other(2) };
    let command = Command::Cancel { reason: None, superseded_by: Some(successor.clone()), by: None };
    let told = trial.decide("web", load, |slot| slot.step(id(1), command).cloned().unwrap()).await.unwrap();

    let back = trial.deployment("web", 1).await;
    assert_eq!(back, told);
    assert_eq!(back.spec, full);
    assert_eq!((back.ticket, back.revision, back.pulse, back.event_count), (Revision(1), Revision(2), 2, 11));
    assert_eq!((back.progress, back.message.as_deref(), back.phase.as_deref()), (40, Some("half"), Some("migrate")));
    assert_eq!(back.outputs["url"], "https://x");
    let failed: Vec<_> = back.rollbacks.iter().flat_map(Rollbacks::failed).map(|it| (it.phase, it.message)).collect();
    assert_eq!(failed, [("migrate".to_owned(), "\u{1a}no\0".to_owned())]);
    assert_eq!((back.logs.total_bytes, back.logs.head_end_seq), (11, 9));
    assert_eq!(back.last_heartbeat_at, back.started_at.map(|at| at + Duration::from_millis(1)));
    let cancel = back.cancel.expect("it was asked to stop");
    assert_eq!((cancel.reason.as_deref(), cancel.superseded_by), (Some("stop it"), Some(successor)));
    assert_eq!(cancel.by, Some(party()), "the first one");
    let events = trial.events(1).await;
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=11).collect::<Vec<_>>());
    assert!(matches!(&events[7].body, EventBody::Output { name, .. } if name == "url"));
    assert!(matches!(&events[8].body, EventBody::Log { lines, .. } if lines[1] == "\u{1b}[31mred\0"));
    // The course is the same without output, progress and results.
    let course = trial.store.course(id(1), 0, 99).await.unwrap();
    let expected: Vec<_> = events.iter().filter(|event| event.body.is_of_course()).cloned().collect();
    assert!(course == expected && course.len() < events.len(), "{course:?}");
    assert_eq!(trial.store.course(id(1), expected[0].seq, 1).await.unwrap(), expected[1..2]);
    assert_eq!(events[9].body, EventBody::cancel(Some("stop it".to_owned()), None, Some(party())));
    assert_eq!(events[10].at, trial.queue.clock().wall());
}

async fn a_pause_comes_back_and_its_project_is_listed_as_held(trial: Trial) {
    let at = trial.queue.clock().wall();
    let pause = Pause {
        at,
        by: "oidc:github:repo:acme/web".to_owned(),
        actor: Some("an\0na".to_owned()),
        reason: "it is \"broken\" \u{1f682}".to_owned(),
        until: Some(at + Duration::from_secs(3600)),
        pin: Some(41),
    };
    let everything = || Load { line: LineLoad::All, ..Load::default() };
    let set = pause.clone();
    trial.decide("new", everything(), move |slot| slot.pause(set)).await.unwrap();
    trial.submit("web", 1, OnConflict::Refuse).await;
    trial.submit("free", 2, OnConflict::Refuse).await;
    let state = trial.store.project(name("new"), 9).await.unwrap().expect("a pause makes the project known");
    assert_eq!(state.project.pause, Some(pause.clone()));
    assert_eq!((state.project.deployment_count, state.holder), (0, None));
    let page = trial.store.projects(None, 9).await.unwrap();
    assert_eq!(page.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["free", "new", "web"]);
    assert_eq!(
        trial.store.held_projects().await.unwrap(),
        [HeldProject { project: name("new"), pause: Some(pause.clone()) }]
    );
    let before = trial.decide("new", everything(), move |slot| slot.resume(None)).await.unwrap();
    assert_eq!(before, Some(pause));
    assert_eq!(trial.store.held_projects().await.unwrap(), []);
    // Somebody waits for a free slot where the rules held the project until now.
    let held = trial.queue_with("web", Policy { paused: true, ..Policy::default() });
    trial.submit("web", 3, OnConflict::Queue).await;
    held.cancel(&Caller::server(), name("web"), id(1), None, None).await.unwrap();
    assert_eq!(trial.store.held_projects().await.unwrap(), [HeldProject { project: name("web"), pause: None }]);
    trial.queue.settle(name("web")).await.unwrap();
    assert_eq!(trial.deployment("web", 3).await.state, State::Ready);
    assert_eq!(trial.store.held_projects().await.unwrap(), []);
}

async fn a_pause_takes_the_slot_back_from_whoever_has_not_started(trial: Trial) {
    let wish = || PauseWish { actor: None, reason: "a trial".to_owned(), until: None };
    let caller = Caller::server();
    let pause = |project: &'static str| trial.queue.pause(&caller, name(project), wish());
    let resume = |project: &'static str| trial.queue.resume(&caller, name(project), None);
    trial.submit("ready", 1, OnConflict::Refuse).await;
    trial.submit("ready", 2, OnConflict::Wait).await;
    assert_eq!(pause("ready").await.unwrap().taken_back.map(|it| it.id), Some(id(1)));
    assert_eq!(trial.deployment("ready", 1).await.state, State::Waiting(Place::Queued));
    assert_eq!((trial.position("ready", 1).await, trial.position("ready", 2).await), (1, 2));
    assert!(matches!(
        &trial.events(1).await.last().unwrap().body,
        EventBody::Queue { position: 1, blocker: None, hold: Some(_), .. }
    ));
    assert_eq!(resume("ready").await.unwrap().holder.map(|it| it.id), Some(id(1)));
    assert_eq!(trial.deployment("ready", 1).await.state, State::Ready);

    trial.submit("reserved", 3, OnConflict::Refuse).await;
    trial.submit("reserved", 4, OnConflict::Wait).await;
    trial.queue.cancel(&Caller::server(), name("reserved"), id(3), None, None).await.unwrap();
    pause("reserved").await.unwrap();
    assert_eq!(trial.deployment("reserved", 4).await.state, State::Waiting(Place::Ticket { window: Duration::ZERO }));

    trial.submit("running", 5, OnConflict::Refuse).await;
    trial.submit("running", 6, OnConflict::Queue).await;
    let secret = trial.claim("running", 5).await;
    assert_eq!(pause("running").await.unwrap().taken_back, None);
    trial.finish("running", 5, secret).await;
    assert_eq!(trial.deployment("running", 6).await.state, State::Waiting(Place::Queued), "nobody is promoted");
    let claimed = trial.queue.claim(name("running"), id(6), LeaseHolder::worker("w")).await.unwrap();
    assert!(claimed.is_none());
    resume("running").await.unwrap();
    trial.claim("running", 6).await;
}

async fn every_deployment_gets_the_next_number_of_its_project(trial: Trial) {
    // Whatever becomes of a submit, only what is recorded is counted.
    for (number, project) in [(1, "web"), (2, "api"), (3, "web"), (4, "web")] {
        trial.submit(project, number, OnConflict::Wait).await;
    }
    trial.submit("web", 5, OnConflict::Refuse).await;
    trial.queue.cancel(&Caller::server(), name("web"), id(3), None, None).await.unwrap();
    trial.submit("web", 6, OnConflict::Queue).await;
    let wishes = (10..20).map(|number| trial.submit("web", number, OnConflict::Queue));
    join_all(wishes).await;
    let mut all = trial.store.list(name("web"), ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap();
    all.reverse();
    let numbers: Vec<_> = all.iter().map(|it| it.number).collect();
    assert_eq!(numbers, (1..=14).collect::<Vec<_>>(), "in the order of arrival, without a gap");
    assert_eq!(all[3].id, id(6), "what was refused took no number");
    for deployment in &all {
        assert_eq!(trial.store.numbered(name("web"), deployment.number).await.unwrap(), Some(deployment.id));
    }
    assert_eq!(trial.store.numbered(name("api"), 1).await.unwrap(), Some(id(2)));
    for (project, number) in [("api", 2), ("web", 15), ("web", 0), ("web", u64::MAX), ("none", 1)] {
        assert_eq!(trial.store.numbered(name(project), number).await.unwrap(), None, "{project}#{number}");
    }
}

async fn the_counters_of_a_project_come_back(trial: Trial) {
    for number in 1..=25 {
        let spec = Spec { order: Some(number), pipeline: format!("p{}", number % 2), ..spec() };
        trial.submit_spec("web", number, OnConflict::Refuse, spec).await;
        let secret = trial.claim("web", number).await;
        trial.clock.advance(Duration::from_millis(number));
        trial.finish("web", number, secret).await;
    }
    trial.submit("web", 30, OnConflict::Refuse).await;
    trial.claim("web", 30).await;
    trial.submit("web", 31, OnConflict::Wait).await;
    trial.submit("web", 32, OnConflict::Queue).await;
    trial.queue.cancel(&Caller::server(), name("web"), id(30), None, Some(id(31))).await.unwrap();
    let (seen, told) = (trial.clock.clone(), trial.deployment("web", 30).await);
    seen.advance(Duration::from_secs(75));
    trial
        .queue
        .reap(name("web"), id(30), told.vital(), Lapse::WorkerGone, trial.queue.clock().boot())
        .await
        .unwrap()
        .unwrap();

    let project = trial.store.project(name("web"), 0).await.unwrap().expect("it is there").project;
    assert_eq!(project.name, name("web"));
    assert_eq!(project.revision, Revision(25 * 3 + 2 + 2 + 2));
    assert_eq!(project.waiting_count, 1);
    let newest = trial.deployment("web", 25).await.mention();
    assert_eq!(newest.to_string(), "web#25");
    assert_eq!(project.last_started.as_ref().map(|last| (last.order, &last.deployment)), Some((25, &newest)));
    assert_eq!(project.deployment_count, 28);
    assert_eq!(project.last_outcome, Some(id(30)));
    assert_eq!(project.recent_runs.len(), 20);
    let last = project.recent_runs.last().unwrap();
    assert_eq!((&*last.pipeline, last.duration_ms), ("p1", 25));
    let loaded = loaded(&trial, "web", Load { line: LineLoad::Head, ..Load::default() }).await;
    assert_eq!(loaded.project, project, "a decision sees the same");
}

async fn a_load_brings_what_it_asks_for_and_nothing_else(trial: Trial) {
    for number in 1..=5 {
        trial.submit("web", number, OnConflict::Queue).await;
    }
    trial.submit("other", 10, OnConflict::Queue).await;
    trial.submit("other", 11, OnConflict::Queue).await;
    let numbers = |line: &[Deployment]| line.iter().map(|it| it.ticket.0).collect::<Vec<_>>();

    let nothing = loaded(&trial, "web", Load::default()).await;
    assert_eq!(nothing.project, Project::new(name("web")));
    assert_eq!((nothing.holder, nothing.line, nothing.deployments), (None, vec![], vec![]));

    let by_id = Load { deployments: vec![id(3), id(99), id(10), id(1)], ..Load::default() };
    let by_id = loaded(&trial, "web", by_id).await;
    assert_eq!(numbers(&by_id.deployments), [3, 1], "neither what does not exist nor another project's");
    assert_eq!((by_id.holder, by_id.line.len(), by_id.project.revision), (None, 0, Revision(0)));

    let head = loaded(&trial, "web", Load { line: LineLoad::Head, ..Load::default() }).await;
    assert_eq!(head.holder.as_ref().map(|it| it.id), Some(id(1)));
    assert_eq!(numbers(&head.line), [2]);
    assert_eq!((head.project.revision, head.project.waiting_count), (Revision(5), 4));

    let all = loaded(&trial, "web", Load { line: LineLoad::All, ..Load::default() }).await;
    assert_eq!(numbers(&all.line), [2, 3, 4, 5]);
    the_edges_of_a_line_are_loaded(&trial).await;

    let unknown = loaded(&trial, "unknown", Load { line: LineLoad::All, ..Load::default() }).await;
    assert_eq!((unknown.project.revision, unknown.holder, unknown.line), (Revision(0), None, vec![]));
}

/// The head, and whoever concerns somebody who starts or joins.
async fn the_edges_of_a_line_are_loaded(trial: &Trial) {
    let build = |order, rollback| Spec { order, rollback, ..spec() };
    // The holder goes forwards with 12.
    for (number, order, rollback) in [
        (20, Some(12), false),
        (21, None, false),
        (22, Some(11), false),
        (23, Some(15), false),
        (24, Some(14), false),
        (25, Some(99), true),
        (26, Some(10), false),
    ] {
        trial.submit_spec("built", number, OnConflict::Queue, build(order, rollback)).await;
    }
    let edges = async |is_start, above| {
        let load = Load { line: LineLoad::Edges(Edges { is_start, above }), ..Load::default() };
        let loaded = loaded(trial, "built", load).await;
        assert_eq!(loaded.holder.map(|it| it.id), Some(id(20)));
        let mut line: Vec<_> = loaded.line.iter().map(|it| it.ticket.0).collect();
        line.sort_unstable();
        line.dedup();
        line
    };
    assert_eq!(edges(false, None).await, [2]);
    assert_eq!(edges(true, None).await, [2, 3, 7], "what goes forwards with a lower order than the holder");
    assert_eq!(edges(false, Some(13)).await, [2, 4], "the highest one, declared rollbacks aside");
    assert_eq!(edges(false, Some(15)).await, [2], "none is higher");
    assert_eq!(edges(true, Some(13)).await, [2, 3, 4, 7]);
    trial.claim("built", 20).await;
    assert_eq!(edges(true, None).await, [2], "it has started, so it ends nobody any more");
}

async fn a_deployment_is_found_in_its_own_project_only(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    trial.submit("api", 2, OnConflict::Refuse).await;
    for (project, number, found) in [("web", 1, true), ("api", 1, false), ("web", 2, false), ("nowhere", 1, false)] {
        let placed = trial.store.deployment(name(project), id(number)).await.unwrap();
        assert_eq!(placed.is_some(), found, "{project} {number}");
    }
}

async fn an_idempotency_key_brings_its_deployment_and_fingerprint(trial: Trial) {
    let key: IdempotencyKey = "run-17/attempt-1".parse().unwrap();
    let wish = |number, fingerprint| Submission {
        id: id(number),
        project: name("web"),
        spec: spec(),
        key: Some((key.clone(), [fingerprint; 32])),
        on_conflict: OnConflict::Refuse,
        refusal: None,
        sealed: None,
        claim: None,
    };
    assert_eq!(trial.queue.submit(&Caller::server(), wish(1, 7)).await.unwrap().admission, Admission::Accepted(id(1)));
    let load = || Load { key: Some(key.clone()), ..Load::default() };
    let keyed = loaded(&trial, "web", load()).await.keyed.expect("it is known");
    assert_eq!((keyed.fingerprint, keyed.deployment.id), ([7; 32], id(1)));
    assert_eq!(loaded(&trial, "api", load()).await.keyed, None, "another project's keys are its own");
    assert_eq!(trial.queue.submit(&Caller::server(), wish(2, 7)).await.unwrap().admission, Admission::Replayed(id(1)));
    let reused = trial.queue.submit(&Caller::server(), wish(3, 8)).await.unwrap().admission;
    assert!(matches!(reused, Admission::Rejected(_)), "{reused:?}");
}

async fn a_decision_that_panics_changes_nothing_and_stops_nobody(trial: Trial) {
    let load = Load { line: LineLoad::Head, ..Load::default() };
    let failing = trial.decide::<()>("web", load, |_| panic!("on purpose"));
    let neighbour = trial.submit("api", 1, OnConflict::Refuse);
    let (failed, made) = futures_util::future::join(failing, neighbour).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    assert_eq!(made, Admission::Accepted(id(1)));
    assert_eq!(trial.store.project(name("web"), 0).await.unwrap(), None);
    assert_eq!(trial.submit("web", 2, OnConflict::Refuse).await, Admission::Accepted(id(2)));
}

async fn a_decision_that_cannot_be_recorded_changes_nothing_and_stops_nobody(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    let key: IdempotencyKey = "once".parse().unwrap();
    let wish = |number, project, fingerprint| Submission {
        id: id(number),
        project: name(project),
        spec: spec(),
        key: Some((key.clone(), [fingerprint; 32])),
        on_conflict: OnConflict::Queue,
        refusal: None,
        sealed: None,
        claim: None,
    };
    trial.queue.submit(&Caller::server(), wish(2, "web", 1)).await.unwrap();
    let before = trial.store.project(name("web"), 9).await.unwrap();
    trial.heard();

    // The same key again, by a decision that did not look; and one that changes counters which it did not load.
    let (again, other) = (wish(3, "web", 2), wish(4, "api", 3));
    let mistaken = trial.decide("web", Load { line: LineLoad::Head, ..Load::default() }, |slot| {
        singletrack::model::admission::submit(slot, None, again, &Default::default());
    });
    let blind = trial.decide("web", Load { deployments: vec![id(2)], ..Load::default() }, |slot| {
        slot.step(id(2), Command::Cancel { reason: None, superseded_by: None, by: None }).map(|_| ())
    });
    let caller = Caller::server();
    let (mistaken, blind, made) = futures_util::join!(mistaken, blind, trial.queue.submit(&caller, other));
    assert!(matches!(mistaken, Err(StoreError::Unavailable(_))), "{mistaken:?}");
    assert!(matches!(blind, Err(StoreError::Refused(_))), "it will never work: {blind:?}");
    assert_eq!(made.unwrap().admission, Admission::Accepted(id(4)));
    assert_eq!(trial.store.project(name("web"), 9).await.unwrap(), before);
    assert_eq!(trial.store.deployment(name("web"), id(3)).await.unwrap(), None);
    assert_eq!(trial.store.events(id(3), 0, 9).await.unwrap(), []);
    let heard: Vec<_> = trial.heard().into_iter().map(|(project, _)| project).collect();
    assert_eq!(heard, [name("api")], "what did not happen is not told");
}

async fn a_decision_without_changes_is_answered_and_not_told(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    trial.heard();
    let refused = trial.submit("web", 2, OnConflict::Refuse).await;
    assert!(matches!(refused, Admission::Conflict { ticket: None, .. }), "{refused:?}");
    assert_eq!(trial.heard(), []);
}

async fn concurrent_submits_to_one_project_make_one_holder_and_an_unbroken_line(trial: Trial) {
    let admitted = join_all((1..=200).map(|number| trial.submit("web", number, OnConflict::Queue))).await;
    assert!(admitted.iter().all(|it| matches!(it, Admission::Accepted(_))));
    let state = trial.store.project(name("web"), usize::MAX).await.unwrap().expect("it is there");
    assert_eq!((state.project.revision, state.project.waiting_count), (Revision(200), 199));
    assert_eq!(state.holder.map(|it| it.ticket), Some(Revision(1)));
    assert_eq!(state.line.iter().map(|it| it.ticket.0).collect::<Vec<_>>(), (2..=200).collect::<Vec<_>>());
    assert!(state.line.iter().all(Deployment::is_waiting));
}

async fn concurrent_work_on_many_projects_all_lands(trial: Trial) {
    let trial = &trial;
    join_all((0..50).map(|index| async move {
        let project = format!("project-{index:02}");
        for number in index * 10..index * 10 + 4 {
            trial.submit(&project, number, OnConflict::Refuse).await;
            let secret = trial.claim(&project, number).await;
            trial.finish(&project, number, secret).await;
        }
    }))
    .await;
    let states = trial.store.projects(None, 100).await.unwrap();
    assert_eq!(states.len(), 50);
    for (name, state) in states {
        let state = state.unwrap();
        assert_eq!((state.project.revision, state.holder), (Revision(12), None));
        let done = trial.store.list(name, ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
        assert_eq!(done.iter().filter(|it| it.status() == Status::Succeeded).count(), 4);
    }
}

async fn commits_are_counted_with_what_shared_them(trial: Trial) {
    let trial = &trial;
    let before = trial.store.commits();
    join_all((1..=20).map(|number| async move {
        trial.submit(&format!("project-{number}"), number, OnConflict::Refuse).await;
    }))
    .await;
    // A refused submit changes nothing, so it needs no commit.
    trial.submit("project-1", 21, OnConflict::Refuse).await;
    let after = trial.store.commits();
    assert_eq!(after.transaction_count - before.transaction_count, 20);
    assert!((1..=20).contains(&(after.commit_count - before.commit_count)), "{after:?}");
}

async fn positions_count_who_is_served_before(trial: Trial) {
    for number in 1..=5 {
        trial.submit("web", number, OnConflict::Queue).await;
    }
    trial.submit("api", 9, OnConflict::Queue).await;
    let positions = async |trial: &Trial| {
        let mut positions = Vec::new();
        for number in 1..=5 {
            positions.push(trial.position("web", number).await);
        }
        positions
    };
    assert_eq!(positions(&trial).await, [0, 1, 2, 3, 4]);
    trial.queue.cancel(&Caller::server(), name("web"), id(3), None, None).await.unwrap();
    assert_eq!(positions(&trial).await, [0, 1, 0, 2, 3]);
    trial.queue.cancel(&Caller::server(), name("web"), id(1), None, None).await.unwrap();
    assert_eq!(positions(&trial).await, [0, 0, 0, 1, 2]);
}

async fn whoever_leaves_the_line_leaves_all_others_as_they_were(trial: Trial) {
    let latest = Policy { line: LinePolicy::Latest, ..Policy::default() };
    let mut first = 1000;
    for (kind, policy) in [("all", Policy::default()), ("latest", latest), ("takeover", Policy::default())] {
        for (at, way) in (0..5).flat_map(|at| ["cancelled", "expired", "abandoned"].map(|way| (at, way))) {
            let project = format!("{kind}-{at}-{way}");
            let queue = trial.queue_with(&project, policy.clone());
            for number in 0..=5 {
                let wish = Submission {
                    id: id(first + number),
                    project: name(&project),
                    spec: Spec { deadline_seconds: Some(60), order: (number % 2 == 0).then_some(number + 1), ..spec() },
                    key: None,
                    on_conflict: OnConflict::Wait,
                    refusal: None,
                    sealed: None,
                    claim: None,
                };
                queue.submit(&Caller::server(), wish).await.unwrap();
            }
            if kind == "takeover" {
                // The last one goes before all others.
                let asked = queue
                    .cancel(&Caller::server(), name(&project), id(first), None, Some(id(first + 5)))
                    .await
                    .unwrap();
                assert!(matches!(asked, Cancellation::Requested(_)), "{asked:?}");
            }
            let line = async || trial.store.project(name(&project), 9).await.unwrap().expect("it is there");
            let mut before = line().await;
            let leaver = before.line.remove(at.min(before.line.len() - 1));
            let (target, seen) = (leaver.id, leaver.vital());
            match way {
                "cancelled" => drop(queue.cancel(&Caller::server(), name(&project), target, None, None).await.unwrap()),
                "expired" => drop(
                    queue
                        .reap(name(&project), target, seen, Lapse::Deadline, queue.clock().boot())
                        .await
                        .unwrap()
                        .unwrap(),
                ),
                _ => drop(
                    queue
                        .reap(name(&project), target, seen, Lapse::Silence, queue.clock().boot())
                        .await
                        .unwrap()
                        .unwrap(),
                ),
            }
            let after = line().await;
            assert_eq!((after.line, after.holder), (before.line, before.holder), "{project}");
            first += 10;
        }
    }
}

async fn a_build_that_waits_for_a_worker_is_not_taken_over_by_an_older_one(trial: Trial) {
    let build = |order| Spec { order: Some(order), ..spec() };
    trial.submit_spec("web", 12, OnConflict::Queue, build(12)).await;
    trial.submit_spec("web", 11, OnConflict::Queue, build(11)).await;
    let told = trial.events(11).await;
    let newer = trial.deployment("web", 12).await.mention();
    let fate = EventBody::queue(1, Some(newer.clone()), Some(newer));
    assert_eq!(told[1].body, fate, "it is told from the first on");
    let refused = trial.queue.cancel(&Caller::server(), name("web"), id(12), None, Some(id(11))).await.unwrap();
    let Cancellation::Rejected(rejection) = refused else { panic!("{refused:?}") };
    assert!(rejection.to_string().contains("(build 12), which has the slot"), "{rejection}");
    assert_eq!(trial.deployment("web", 12).await.state, State::Ready);
    trial.heard();
    trial.claim("web", 12).await;
    let heard = trial.heard();
    let [(_, changed)] = heard.as_slice() else { panic!("one commit: {heard:?}") };
    assert_eq!(changed.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [id(12), id(11)]);
    let State::Finished { outcome, .. } = trial.deployment("web", 11).await.state else { panic!("it goes on") };
    assert_eq!(outcome.error_code(), Some("SUPERSEDED"));
}

async fn a_list_pages_newest_first(trial: Trial) {
    for number in 1..=7 {
        trial.submit("web", number, OnConflict::Queue).await;
        trial.submit("api", 100 + number, OnConflict::Queue).await;
    }
    let page = async |before, limit| {
        let query = ListQuery { status: None, before, limit };
        let page = trial.store.list(name("web"), query).await.unwrap();
        page.iter().map(|it| it.ticket.0).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3).await, [7, 6, 5]);
    assert_eq!(page(Some(Revision(5)), 3).await, [4, 3, 2]);
    assert_eq!(page(Some(Revision(2)), 3).await, [1]);
    assert_eq!(page(Some(Revision(1)), 3).await, [0; 0]);
    assert_eq!(page(None, 0).await, [0; 0]);
    assert_eq!(page(Some(Revision(u64::MAX)), usize::MAX).await, [7, 6, 5, 4, 3, 2, 1]);
    let nowhere = trial.store.list(name("nowhere"), ListQuery { limit: 3, ..ListQuery::default() }).await.unwrap();
    assert_eq!(nowhere, []);
}

async fn a_list_filters_by_status(trial: Trial) {
    let verdicts = [
        Verdict::Succeeded { outputs: BTreeMap::new() },
        Verdict::Failed { cause: FailureCause::PhaseFailed, message: "no".to_owned(), phase: None },
        Verdict::Stopped,
    ];
    for (number, verdict) in (1..=9).zip(verdicts.iter().cycle()) {
        trial.submit("web", number, OnConflict::Refuse).await;
        let secret = trial.claim("web", number).await;
        trial.queue.finish(name("web"), id(number), secret, verdict.clone()).await.unwrap();
    }
    for number in 10..=13 {
        trial.submit("web", number, OnConflict::Queue).await;
    }
    let page = async |status, before, limit| {
        let query = ListQuery { status: Some(status), before, limit };
        let page = trial.store.list(name("web"), query).await.unwrap();
        page.iter().map(|it| it.id).collect::<Vec<_>>()
    };
    let ids = |numbers: &[u64]| numbers.iter().map(|number| id(*number)).collect::<Vec<_>>();
    assert_eq!(page(Status::Pending, None, 9).await, ids(&[13, 12, 11, 10]), "the holder too, while nobody works");
    assert_eq!(page(Status::Pending, None, 2).await, ids(&[13, 12]));
    assert_eq!(page(Status::Running, None, 9).await, ids(&[]));
    trial.claim("web", 10).await;
    let first_waiting = trial.deployment("web", 11).await.ticket;
    assert_eq!(page(Status::Pending, None, 9).await, ids(&[13, 12, 11]));
    assert_eq!(page(Status::Running, None, 9).await, ids(&[10]));
    assert_eq!(page(Status::Running, Some(first_waiting), 9).await, ids(&[10]));
    assert_eq!(page(Status::Running, Some(Revision(2)), 9).await, ids(&[]));
    assert_eq!(page(Status::Pending, Some(first_waiting), 9).await, ids(&[]));
    assert_eq!(page(Status::Succeeded, None, 2).await, ids(&[7, 4]));
    let fourth = trial.deployment("web", 4).await.ticket;
    assert_eq!(page(Status::Succeeded, Some(fourth), 2).await, ids(&[1]));
    assert_eq!(page(Status::Failed, None, 9).await, ids(&[8, 5, 2]));
    assert_eq!(page(Status::Cancelled, None, 9).await, ids(&[9, 6, 3]));
}

async fn projects_page_by_name(trial: Trial) {
    for (number, project) in (1..).zip(["web", "Web", "api", "api-2", "0"]) {
        trial.submit(project, number, OnConflict::Refuse).await;
    }
    let page = async |after: Option<&str>, limit| {
        let states = trial.store.projects(after.map(name), limit).await.unwrap();
        let is_whole = |state: &ProjectState| state.holder.is_some() && state.line.is_empty();
        assert!(states.iter().all(|(_, state)| state.as_ref().is_some_and(is_whole)));
        states.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3).await, ["0", "Web", "api"]);
    assert_eq!(page(Some("api"), 3).await, ["api-2", "web"]);
    assert_eq!(page(Some("zzz"), 3).await, [""; 0]);
}

async fn a_project_shows_its_slot_line_and_last_outcome(trial: Trial) {
    assert_eq!(trial.store.project(name("web"), 9).await.unwrap(), None);
    for number in 1..=5 {
        trial.submit("web", number, OnConflict::Wait).await;
    }
    let secret = trial.claim("web", 1).await;
    let state = trial.store.project(name("web"), 2).await.unwrap().expect("it is there");
    assert_eq!(state.holder, Some(trial.deployment("web", 1).await));
    assert_eq!(state.line, [trial.deployment("web", 2).await, trial.deployment("web", 3).await]);
    assert_eq!(state.last_outcome, None);
    let done = trial.finish("web", 1, secret).await;
    let state = trial.store.project(name("web"), 9).await.unwrap().expect("it is there");
    assert_eq!(state.holder.map(|it| (it.id, it.state)), Some((id(2), State::Reserved)));
    assert_eq!(state.line.len(), 3);
    assert_eq!(state.last_outcome, Some(done));
}

async fn sealed_inputs_are_kept_until_the_deployment_is_final(trial: Trial) {
    for number in 1..=2 {
        let wish = Submission {
            id: id(number),
            project: name("web"),
            spec: spec(),
            key: None,
            on_conflict: OnConflict::Queue,
            refusal: None,
            claim: None,
            sealed: Some(vec![0, 1, 255, number as u8]),
        };
        trial.queue.submit(&Caller::server(), wish).await.unwrap();
    }
    trial.submit("web", 3, OnConflict::Queue).await;
    let sealed = async |number| trial.store.sealed_inputs(id(number)).await.unwrap();
    let secret = trial.claim("web", 1).await;
    trial.queue.heartbeat(name("web"), id(1), secret).await.unwrap();
    assert_eq!(sealed(1).await, Some(vec![0, 1, 255, 1]), "it runs");
    assert_eq!((sealed(2).await, sealed(3).await, sealed(9).await), (Some(vec![0, 1, 255, 2]), None, None));
    trial.finish("web", 1, secret).await;
    assert_eq!((sealed(1).await, sealed(2).await), (None, Some(vec![0, 1, 255, 2])));
    trial.queue.cancel(&Caller::server(), name("web"), id(2), None, None).await.unwrap();
    assert_eq!(sealed(2).await, None, "it never ran");
}

async fn what_is_live_is_the_last_success_whatever_ends_after_it(trial: Trial) {
    let live = async || {
        let state = trial.store.project(name("web"), 9).await.unwrap().expect("it is there");
        assert_eq!(state.last_success.as_ref().map(|live| live.id), state.project.last_success);
        let page = trial.store.projects(None, 9).await.unwrap();
        let (_, listed) = page.into_iter().find(|(project, _)| *project == name("web")).expect("it is listed");
        assert_eq!(listed.expect("it is whole").last_success, state.last_success);
        state.last_success
    };
    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    assert_eq!(live().await, None, "it runs, and is not live yet");
    let first = trial.finish("web", 1, secret).await;
    assert_eq!(live().await, Some(first.clone()));
    // One fails, one is cancelled before it runs, and one while it runs.
    trial.submit("web", 2, OnConflict::Refuse).await;
    let secret = trial.claim("web", 2).await;
    let verdict = Verdict::Failed { cause: FailureCause::PhaseFailed, message: "no".to_owned(), phase: None };
    trial.queue.finish(name("web"), id(2), secret, verdict).await.unwrap();
    trial.submit("web", 3, OnConflict::Refuse).await;
    trial.queue.cancel(&Caller::server(), name("web"), id(3), None, None).await.unwrap();
    trial.submit("web", 4, OnConflict::Refuse).await;
    let secret = trial.claim("web", 4).await;
    trial.queue.cancel(&Caller::server(), name("web"), id(4), None, None).await.unwrap();
    trial.queue.finish(name("web"), id(4), secret, Verdict::Stopped).await.unwrap();
    assert_eq!(live().await, Some(first));
    trial.submit("web", 5, OnConflict::Refuse).await;
    let secret = trial.claim("web", 5).await;
    let next = trial.finish("web", 5, secret).await;
    assert_eq!(live().await, Some(next));
}

/// Fails unless what is watched of a deployment is what is stored of it.
pub fn assert_watches(watched: &Watched, stored: &Deployment) {
    let spec = &stored.spec;
    let expected = Watched {
        project: stored.project.clone(),
        id: stored.id,
        vital: stored.vital(),
        state: stored.state.clone(),
        executor: spec.executor,
        deadline: spec.deadline_seconds.filter(|_| stored.is_waiting()).map(Duration::from_secs),
        claim_within: spec.claim_within_seconds.filter(|_| stored.state == State::Ready).map(Duration::from_secs),
    };
    assert_eq!(*watched, expected);
}

async fn whoever_can_fall_silent_is_watched(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    trial.submit("web", 2, OnConflict::Wait).await;
    trial.submit("web", 3, OnConflict::Queue).await;
    let limited = Spec { deadline_seconds: Some(60), ..spec() };
    trial.submit_spec("web", 4, OnConflict::Queue, limited.clone()).await;
    trial.submit_spec("web", 5, OnConflict::Wait, limited).await;
    trial.submit("api", 6, OnConflict::Refuse).await;
    let secret = trial.claim("api", 6).await;
    trial.submit("done", 7, OnConflict::Refuse).await;
    trial.queue.cancel(&Caller::server(), name("done"), id(7), None, None).await.unwrap();

    let watched = async |trial: &Trial| {
        let watched = trial.store.watched().await.unwrap();
        let mut numbers = Vec::new();
        for it in watched {
            let stored = trial.store.deployment(it.project.clone(), it.id).await.unwrap().unwrap().deployment;
            assert_watches(&it, &stored);
            numbers.push(u64::from_be_bytes(it.id.as_bytes()[8..].try_into().unwrap()));
        }
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(watched(&trial).await, [1, 2, 4, 5, 6]);
    trial.finish("api", 6, secret).await;
    trial.queue.cancel(&Caller::server(), name("web"), id(1), None, None).await.unwrap();
    assert_eq!(trial.deployment("web", 2).await.state, State::Reserved);
    assert_eq!(watched(&trial).await, [2, 4, 5]);
}

async fn what_waits_for_a_worker_is_claimable_in_the_order_of_arrival(trial: Trial) {
    trial.submit("b", 1, OnConflict::Refuse).await;
    trial.submit("a", 2, OnConflict::Refuse).await;
    trial.submit("a", 3, OnConflict::Queue).await;
    let by_client = Spec { executor: RunBy::Submitter, ..spec() };
    trial.submit_spec("client", 4, OnConflict::Refuse, by_client).await;
    trial.submit("c", 5, OnConflict::Refuse).await;
    let claimable = async |offers: &[(&str, &str)], limit| {
        let offers = offers.iter().map(|(project, pipeline)| (name(project), vec![(*pipeline).to_owned()]));
        let claimable = trial.store.claimable(Arc::new(offers.collect()), limit).await.unwrap();
        assert!(claimable.iter().all(|it| it.spec == Spec { submitted_by: Some(Identity::Server), ..spec() }));
        claimable.into_iter().map(|it| (it.project.to_string(), it.id)).collect::<Vec<_>>()
    };
    let at = |project: &str, number| (project.to_owned(), id(number));
    let pipeline = spec().pipeline;
    let all = ["a", "b", "c", "client", "unknown"].map(|project| (project, &*pipeline));
    assert_eq!(claimable(&all, 9).await, [at("b", 1), at("a", 2), at("c", 5)]);
    assert_eq!(claimable(&all, 1).await, [at("b", 1)]);
    assert_eq!(claimable(&[], 9).await, []);
    assert_eq!(claimable(&[("c", &pipeline), ("a", &pipeline)], 9).await, [at("a", 2), at("c", 5)]);
    assert_eq!(claimable(&[("c", &pipeline), ("a", &pipeline)], 1).await, [at("a", 2)]);
    // Whoever wants another pipeline is in nobody's way.
    assert_eq!(claimable(&[("b", "another"), ("c", &pipeline), ("a", &pipeline)], 1).await, [at("a", 2)]);
    assert_eq!(claimable(&[("b", "another"), ("client", &pipeline)], 9).await, []);
    let secret = trial.claim("a", 2).await;
    assert_eq!(claimable(&all, 9).await, [at("b", 1), at("c", 5)]);
    trial.finish("a", 2, secret).await;
    assert_eq!(claimable(&all, 9).await, [at("b", 1), at("a", 3), at("c", 5)]);
}

async fn events_resume_after_any_of_them(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    trial.finish("web", 1, secret).await;
    let seqs = async |after, limit| {
        let events = trial.store.events(id(1), after, limit).await.unwrap();
        events.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(0, 99).await, [1, 2, 3, 4, 5]);
    assert_eq!(seqs(0, 2).await, [1, 2]);
    assert_eq!(seqs(3, 99).await, [4, 5]);
    assert_eq!(seqs(5, 99).await, [0; 0]);
    assert_eq!(seqs(u64::MAX, usize::MAX).await, [0; 0]);
    assert_eq!(trial.events(1).await[4].body, EventBody::Complete);
    let backwards = async |before, limit| {
        let events = trial.store.events_before(id(1), before, limit).await.unwrap();
        events.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(backwards(6, 99).await, [5, 4, 3, 2, 1]);
    assert_eq!(backwards(u64::MAX, 2).await, [5, 4]);
    assert_eq!(backwards(4, 2).await, [3, 2]);
    assert_eq!(backwards(1, 99).await, [0; 0]);
    assert_eq!(backwards(0, usize::MAX).await, [0; 0]);
    assert_eq!(trial.store.events_before(id(2), 9, 9).await.unwrap(), []);
    assert_eq!(trial.store.events(id(2), 0, 9).await.unwrap(), []);
}

async fn trimmed_output_leaves_head_tail_and_everything_else(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    let report =
        async |report: Report| trial.queue.report(name("web"), id(1), secret, None, vec![report]).await.unwrap();
    let line = "x".repeat((64 << 10) - 1);
    let batch = 4 * (line.len() as u64 + 1);
    let batches = (LOG_HEAD_LIMIT + 2 * LOG_TAIL_LIMIT) / batch;
    for number in 0..batches {
        if number % 8 == 0 {
            report(Report::Progress { progress: Some((number / 8) as u8), message: None }).await;
        }
        report(Report::Log { stream: Stream::Stdout, phase: None, lines: vec![line.clone(); 4] }).await;
    }
    let back = trial.deployment("web", 1).await;
    assert_eq!(back.logs.total_bytes, batches * batch);
    let events = trial.events(1).await;
    let logs: Vec<_> = events.iter().filter(|event| event.body.is_log()).map(|event| event.seq).collect();
    let kept = logs.len() as u64 * batch;
    assert!(kept >= LOG_HEAD_LIMIT + LOG_TAIL_LIMIT, "{kept} bytes are kept");
    assert!(kept <= LOG_HEAD_LIMIT + LOG_TAIL_LIMIT * 5 / 4 + batch, "{kept} bytes are kept");
    let head = logs.iter().take_while(|seq| **seq <= back.logs.head_end_seq).count() as u64;
    assert_eq!(head, LOG_HEAD_LIMIT / batch, "the head is whole");
    assert!(logs[head as usize] > back.logs.head_end_seq + 1, "the middle is cut");
    assert_eq!(*logs.last().unwrap(), back.event_count, "the tail is there");
    let progress = events.iter().filter(|event| matches!(event.body, EventBody::Progress { .. })).count() as u64;
    assert_eq!(progress, batches.div_ceil(8), "what is no output is never cut");
    // The story goes on, in order.
    let done = trial.finish("web", 1, secret).await;
    let after = trial.store.events(id(1), back.event_count, 9).await.unwrap();
    assert_eq!(after.last().map(|event| (event.seq, &event.body)), Some((done.event_count, &EventBody::Complete)));
}

async fn marks_tell_the_last_change_of_what_exists(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    trial.submit("api", 2, OnConflict::Refuse).await;
    trial.claim("api", 2).await;
    let mut marks = trial.store.marks(vec![id(2), id(9), id(1)]).await.unwrap();
    marks.sort_by_key(|(id, _)| *id);
    let mark = |revision, event_count, is_cancel_requested| Mark {
        revision: Revision(revision),
        event_count,
        is_cancel_requested,
    };
    assert_eq!(marks, [(id(1), mark(1, 2, false)), (id(2), mark(2, 3, false))]);
    trial.queue.cancel(&Caller::server(), name("api"), id(2), None, None).await.unwrap();
    assert_eq!(trial.store.marks(vec![id(2)]).await.unwrap(), [(id(2), mark(2, 4, true))], "no slot changed");
    assert_eq!(trial.store.marks(vec![]).await.unwrap(), []);
}

async fn commits_are_told_in_order_before_they_are_answered(trial: Trial) {
    let heard = |trial: &Trial| trial.heard().into_iter().flat_map(|(_, steps)| steps).collect::<Vec<_>>();
    trial.submit("web", 1, OnConflict::Queue).await;
    assert_eq!(heard(&trial), [(id(1), Revision(1), 2)]);
    trial.submit("web", 2, OnConflict::Queue).await;
    let secret = trial.claim("web", 1).await;
    trial.finish("web", 1, secret).await;
    let told = [(id(2), Revision(2), 2), (id(1), Revision(3), 3), (id(1), Revision(4), 5), (id(2), Revision(5), 3)];
    assert_eq!(heard(&trial), told, "who was promoted is told with who ended");
    join_all((10..60).map(|number| trial.submit("api", number, OnConflict::Queue))).await;
    let revisions: Vec<_> = heard(&trial).into_iter().map(|(_, revision, _)| revision.0).collect();
    assert_eq!(revisions, (1..=50).collect::<Vec<_>>());
}

async fn a_commit_is_told_though_its_caller_went_away(trial: Trial) {
    let trial = Arc::new(trial);
    for number in 1..=20 {
        let submitted = trial.submit("web", number, OnConflict::Queue);
        // Polled once, so that it is on its way; then the client hangs up.
        let mut submitted = Box::pin(submitted);
        let _ = futures_util::poll!(&mut submitted);
        drop(submitted);
    }
    // Everyone before it in the queue is told before this one is answered.
    trial.submit("web", 21, OnConflict::Queue).await;
    let mut told: Vec<_> = trial.heard().into_iter().flat_map(|(_, steps)| steps).map(|(id, ..)| id).collect();
    told.sort_unstable();
    assert_eq!(told, (1..=21).map(id).collect::<Vec<_>>());
    assert_eq!(trial.position("web", 21).await, 20);
}

async fn it_is_ready(trial: Trial) {
    assert_eq!(trial.store.ready().await, Ok(()));
    assert_eq!(trial.store.projects(None, 9).await.unwrap(), [], "asking leaves nothing behind");
}

/// What a decision with this load would see.
async fn loaded(trial: &Trial, project: &str, load: Load) -> singletrack::model::Loaded {
    singletrack::store::transact(&*trial.store, name(project), load, |loaded| (Changes::default(), loaded))
        .await
        .unwrap()
}

/// A call of an agent for some projects, each with the one pipeline.
fn call(worker: &str, projects: &[&str], pipeline: &str, window: Duration) -> AgentCall {
    let offers = projects.iter().map(|project| (name(project), vec![pipeline.to_owned()])).collect();
    AgentCall { id: uuid::Uuid::now_v7(), worker: worker.to_owned(), offers, window }
}

async fn agents(trial: &Trial, project: &str) -> Vec<KnownAgent> {
    trial.store.agents(name(project), trial.clock.now()).await.unwrap()
}

async fn came(trial: &Trial, call: &AgentCall) {
    trial.store.agent_came(call.clone(), trial.clock.now()).await.unwrap();
}

/// Waits until nothing of the agent is parked; an engine may note that later.
async fn gone(trial: &Trial, project: &str) -> KnownAgent {
    loop {
        let [agent] = agents(trial, project).await.try_into().expect("one agent");
        if !agent.is_parked {
            return agent;
        }
    }
}

const LONG: Duration = Duration::from_secs(600);

async fn an_agent_is_there_while_a_call_of_it_is_parked(trial: Trial) {
    assert_eq!(agents(&trial, "web").await, []);
    let (one, two) = (call("a", &["web", "api"], "deploy", LONG), call("a", &["web"], "deploy", LONG));
    came(&trial, &one).await;
    came(&trial, &two).await;
    for project in ["web", "api"] {
        let [agent] = agents(&trial, project).await.try_into().expect("one agent");
        assert!(agent.is_parked && agent.is_there() && agent.gone_for.is_zero(), "{agent:?}");
        assert_eq!((agent.worker.as_str(), agent.pipelines), ("a", vec!["deploy".to_owned()]));
    }
    assert_eq!(agents(&trial, "other").await, []);
    // The other call is parked still.
    trial.store.agent_left(one, trial.clock.now());
    gone(&trial, "api").await;
    let [agent] = agents(&trial, "web").await.try_into().expect("one agent");
    assert!(agent.is_parked, "{agent:?}");
    trial.store.agent_left(two, trial.clock.now());
    let left = gone(&trial, "web").await;
    // Not for long, so it counts as there.
    assert!(left.is_there() && left.gone_for < Duration::from_secs(5), "{left:?}");
}

async fn an_agents_call_is_over_with_its_window(trial: Trial) {
    let short = call("a", &["web"], "deploy", Duration::ZERO);
    came(&trial, &short).await;
    let [agent] = agents(&trial, "web").await.try_into().expect("one agent");
    assert!(!agent.is_parked && agent.is_there(), "{agent:?}");
    // Whoever says so late says nothing new.
    trial.store.agent_left(short, trial.clock.now());
    assert!(!gone(&trial, "web").await.is_parked);
}

async fn figures_tell_how_slots_and_lines_stand_and_nothing_of_what_is_over(trial: Trial) {
    let figures = async || -> StoreFigures { trial.store.figures(trial.clock.now()).await.unwrap() };
    assert_eq!(figures().await.projects, BTreeMap::new());
    let at = |seconds| trial.clock.wall() - Duration::from_secs(seconds);
    for (project, number) in [("web", 1), ("web", 2), ("web", 3), ("over", 4), ("ready", 5)] {
        trial.submit(project, number, OnConflict::Queue).await;
        trial.clock.advance(Duration::from_secs(1));
    }
    let (over, _) = (trial.claim("over", 4).await, trial.claim("web", 1).await);
    trial.finish("over", 4, over).await;
    trial.clock.advance(Duration::from_secs(10));
    let pause =
        Pause { at: at(0), by: "local".to_owned(), actor: None, reason: "a trial".to_owned(), until: None, pin: None };
    let set = pause.clone();
    let everything = Load { line: LineLoad::All, ..Load::default() };
    trial.decide("paused", everything, move |slot| slot.pause(set)).await.unwrap();
    came(&trial, &call("a", &["far", "web"], "deploy", LONG)).await;
    came(&trial, &call("b", &["far"], "deploy", LONG)).await;
    came(&trial, &call("b", &["far"], "deploy", LONG)).await;
    let slot = |stage, seconds| Some(HeldSlot { stage, since: at(seconds) });
    let nothing = ProjectFigures::default;
    let expected = BTreeMap::from([
        (name("far"), ProjectFigures { agent_count: 2, ..nothing() }),
        (name("paused"), ProjectFigures { pause: Some(pause), ..nothing() }),
        (name("ready"), ProjectFigures { slot: slot(SlotStage::Ready, 11), ..nothing() }),
        (
            name("web"),
            ProjectFigures {
                slot: slot(SlotStage::Running, 10),
                waiting_count: 2,
                waiting_since: Some(at(14)),
                agent_count: 1,
                ..nothing()
            },
        ),
    ]);
    assert_eq!(figures().await.projects, expected);
    // The slot is kept for the next one from the moment at which the one before it ended, and not from its submit.
    trial.queue.cancel(&Caller::server(), name("ready"), id(5), None, None).await.unwrap();
    let by = Caller::server();
    trial.queue.release(&by, name("web"), "a trial".to_owned(), None).await.unwrap();
    let later = figures().await.projects;
    assert_eq!(later[&name("web")].slot, slot(SlotStage::Ready, 0));
    assert_eq!((later[&name("web")].waiting_count, later.get(&name("ready"))), (1, None));
}

async fn an_agent_is_known_by_its_newest_offer(trial: Trial) {
    came(&trial, &call("a", &["web"], "old", Duration::ZERO)).await;
    came(&trial, &call("b", &["web"], "other", Duration::ZERO)).await;
    came(&trial, &call("a", &["web"], "new", LONG)).await;
    let known = agents(&trial, "web").await;
    let known: Vec<_> = known.iter().map(|agent| (agent.worker.as_str(), agent.pipelines.concat())).collect();
    assert_eq!(known, [("a", "new".to_owned()), ("b", "other".to_owned())]);
}

async fn a_claim_that_is_made_twice_takes_one_deployment(trial: Trial) {
    let trial = Arc::new(trial);
    let projects: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    for (number, project) in (1..).zip(&projects) {
        trial.submit(project, number, OnConflict::Refuse).await;
    }
    let holder = LeaseHolder::agent("agent", "claim");
    assert_eq!(trial.store.held(holder.clone()).await.unwrap(), None);
    // Each begins with another project, as if the others' answers had not come yet.
    let claims = projects.iter().map(|first| {
        let (trial, holder) = (trial.clone(), holder.clone());
        let offers = [(name(first), vec!["deploy".to_owned()])].into();
        tokio::spawn(async move {
            trial.queue.claim_any(&Caller::server(), &holder, &offers).await.unwrap().expect("there is work")
        })
    });
    let claimed: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
    let first = &claimed[0].deployment;
    assert!(claimed.iter().all(|claimed| claimed.deployment.id == first.id), "{claimed:#?}");
    let offers = projects.iter().map(|project| (name(project), vec!["deploy".to_owned()])).collect();
    assert_eq!(trial.store.claimable(Arc::new(offers), 100).await.unwrap().len(), projects.len() - 1);
    let held = trial.store.held(holder.clone()).await.unwrap().expect("it runs");
    assert_eq!((held.id, &held.project), (first.id, &first.project));
    let secret = claimed[0].secret.hash();
    let verdict = Verdict::Succeeded { outputs: Default::default() };
    trial.queue.finish(first.project.clone(), first.id, secret, verdict).await.unwrap();
    assert_eq!(trial.store.held(holder.clone()).await.unwrap(), None);
}

fn notification(rule: &str, event: NotificationEvent, deployment: u64, delay: Duration) -> NewNotification {
    let text = format!("{deployment:024x}{:08x}", event as u32 + 16 * rule.len() as u32);
    NewNotification {
        id: NotificationId::parse(&text).expect("an id"),
        rule: rule.into(),
        event,
        deployment: (!event.is_of_project()).then(|| id(deployment)),
        detail: event.is_of_project().then(|| "{\"reason\":\"a \\u0000 'b'\"}".to_owned()),
        at: Timestamp::from_millisecond(1_800_000_000_123).unwrap(),
        delay,
    }
}

/// Commits a deployment with these notifications.
async fn told(trial: &Trial, project: &str, number: u64, notifications: Vec<NewNotification>) {
    let (now, owned) = (trial.clock.wall(), name(project));
    let load = Load { line: LineLoad::Head, ..Load::default() };
    singletrack::store::transact(&*trial.store, owned.clone(), load, move |loaded| {
        let mut slot = Slot::of(loaded, now, &Policy::default());
        slot.admit(id(number), owned, spec(), Entry::Ready);
        let _ = slot.step(id(number), Command::Cancel { reason: None, superseded_by: None, by: None });
        (Changes { notifications, ..slot.into_changes() }, ())
    })
    .await
    .unwrap();
}

const LEASE_OF_A_ROW: Duration = Duration::from_secs(60);

async fn claimed_rows(trial: &Trial, rule: &str, lease: Duration) -> Vec<Notification> {
    trial.store.notifications().claim(rule.to_owned(), 10, lease, trial.clock.wall()).await.unwrap()
}

async fn settled(trial: &Trial, row: &Notification, settlement: Settlement) -> bool {
    trial.store.notifications().settle(row.clone(), settlement, trial.clock.wall()).await.unwrap()
}

async fn notifications_come_with_their_commit_and_each_lane_is_sent_in_its_order(trial: Trial) {
    use NotificationEvent::{Failed, Paused, Started, Succeeded, Waiting};
    let now = Duration::ZERO;
    let later = Duration::from_secs(3600);
    let first = vec![
        notification("a", Started, 1, now),
        notification("a", Succeeded, 1, now),
        notification("a", Waiting, 1, later),
        notification("bb", Started, 1, now),
        notification("a", Paused, 1, now),
    ];
    told(&trial, "web", 1, first.clone()).await;
    told(&trial, "api", 2, vec![notification("a", Failed, 2, now)]).await;
    let room = trial.store.notifications();
    let query = NotificationQuery { state: None, before: None, limit: 10 };
    let all = room.page(query).await.unwrap();
    assert_eq!(
        all.iter().map(|row| row.event).rev().collect::<Vec<_>>(),
        [Started, Succeeded, Waiting, Started, Paused, Failed]
    );
    let paused = &all[1];
    assert_eq!((&paused.detail, &paused.project, paused.deployment), (&first[4].detail, &name("web"), None));
    assert_eq!((&paused.id, paused.at, paused.state), (&first[4].id, first[4].at, NotificationState::Pending));
    assert_eq!(all[5].deployment, Some(id(1)));
    let page = room.page(NotificationQuery { before: Some(all[1].number), limit: 2, ..query }).await.unwrap();
    assert_eq!(page, all[2..4]);

    let rules = || vec!["a".to_owned(), "nobody's".to_owned()];
    let due = room.next_due(rules(), trial.clock.wall()).await.unwrap();
    assert_eq!(due.iter().map(|due| (&*due.rule, due.wait)).collect::<Vec<_>>(), [("a", now)]);
    let rows = claimed_rows(&trial, "a", LEASE_OF_A_ROW).await;
    assert_eq!(rows.iter().map(|row| row.event).collect::<Vec<_>>(), [Started, Paused, Failed]);
    assert!(rows.iter().all(|row| (row.attempt_count, row.claim_number) == (1, 1)));
    assert!(claimed_rows(&trial, "a", LEASE_OF_A_ROW).await.is_empty(), "they are claimed");
    let wait = room.next_due(rules(), trial.clock.wall()).await.unwrap()[0].wait;
    assert!(wait > now && wait <= LEASE_OF_A_ROW, "{wait:?}");
    // What failed keeps those behind it waiting.
    let error = Some("no \0 answer".to_owned());
    assert!(settled(&trial, &rows[0], Settlement::Later { wait: later, error }).await);
    assert!(claimed_rows(&trial, "a", LEASE_OF_A_ROW).await.is_empty());
    let again = room.by_id(rows[0].id.clone()).await.unwrap().unwrap();
    assert_eq!((again.error.as_deref(), again.attempt_count), (Some("no   answer"), 1));
    assert!(settled(&trial, &rows[2], Settlement::Done).await);
    assert_eq!(room.by_id(rows[2].id.clone()).await.unwrap(), None);
    let counts = room.counts().await.unwrap();
    assert_eq!((counts.pending_count, counts.dead_count), (5, 0));
}

async fn only_the_last_claim_of_a_notification_settles_it(trial: Trial) {
    let events = [NotificationEvent::Started, NotificationEvent::Succeeded];
    told(&trial, "web", 1, events.map(|event| notification("a", event, 1, Duration::ZERO)).to_vec()).await;
    // This claim is over at once.
    let first = claimed_rows(&trial, "a", Duration::ZERO).await.remove(0);
    let second = claimed_rows(&trial, "a", LEASE_OF_A_ROW).await.remove(0);
    assert_eq!((second.id.clone(), second.claim_number, second.attempt_count), (first.id.clone(), 2, 2));
    for settlement in [Settlement::Done, Settlement::Dead { error: "late".to_owned() }] {
        assert!(!settled(&trial, &first, settlement).await);
    }
    assert!(settled(&trial, &second, Settlement::Later { wait: Duration::ZERO, error: None }).await);
    // It was not tried.
    let third = claimed_rows(&trial, "a", LEASE_OF_A_ROW).await.remove(0);
    assert_eq!((third.claim_number, third.attempt_count), (3, 2));
    assert!(settled(&trial, &third, Settlement::Done).await);
    assert!(!settled(&trial, &third, Settlement::Done).await);
    let next = claimed_rows(&trial, "a", LEASE_OF_A_ROW).await.remove(0);
    assert_eq!(next.event, NotificationEvent::Succeeded);
}

async fn a_notification_that_was_given_up_is_kept_tried_anew_or_let_go(trial: Trial) {
    for number in 1..=4 {
        told(&trial, "web", number, vec![notification("a", NotificationEvent::Failed, number, Duration::ZERO)]).await;
    }
    told(&trial, "web", 5, vec![notification("gone", NotificationEvent::Failed, 5, Duration::ZERO)]).await;
    let room = trial.store.notifications();
    for row in claimed_rows(&trial, "a", LEASE_OF_A_ROW).await {
        assert!(settled(&trial, &row, Settlement::Dead { error: "x".repeat(5000) }).await);
    }
    let query = NotificationQuery { state: Some(NotificationState::Dead), before: None, limit: 10 };
    let dead = room.page(query).await.unwrap();
    assert_eq!(dead.len(), 4);
    assert!(dead.iter().all(|row| row.dead_at.is_some() && row.error.as_ref().unwrap().len() == 500));
    let retried = room.retry(dead[3].id.clone(), Caller::server(), trial.clock.wall()).await.unwrap().unwrap();
    assert_eq!((retried.state, retried.attempt_count, retried.dead_at), (NotificationState::Pending, 0, None));
    assert_eq!(claimed_rows(&trial, "a", LEASE_OF_A_ROW).await.len(), 1);
    assert_eq!(room.prune(None, 2).await.unwrap(), 1);
    let left: Vec<_> = room.page(query).await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(left, [dead[0].id.clone(), dead[1].id.clone()]);
    let now = trial.clock.wall();
    let soon = Timestamp::from_millisecond(4_000_000_000_000).unwrap();
    assert_eq!(room.prune(Some(soon), 100).await.unwrap(), 2);
    assert_eq!(room.give_up(vec!["a".to_owned()], soon, now).await.unwrap(), 1);
    let lost = room.page(query).await.unwrap();
    assert_eq!((&*lost[0].rule, lost.len()), ("gone", 1));
    let unknown = NotificationId::parse(&"f".repeat(32)).unwrap();
    assert_eq!(room.retry(unknown, Caller::server(), now).await.unwrap(), None);
}
