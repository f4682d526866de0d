//! The checker, tried: it has nothing against a good history, and names the rule that a bad one breaks.

use super::{
    checks::violations,
    history::{History, Kept, KeptEvent, Span, Told},
};

/// Three deployments of `web`: the first two ran one after the other, the third runs.
///
/// | revision | |
/// |---|---|
/// | 1, 2 | a is admitted, and starts |
/// | 3, 4 | b and c stand in line |
/// | 5, 6, 7 | a ends, b gets the slot and starts |
/// | 8, 9, 10 | b ends, c gets the slot and starts |
fn good() -> History {
    let kept = vec![
        kept("a", 1, Some(2), 5, "SUCCEEDED"),
        kept("b", 3, Some(7), 8, "FAILED"),
        kept("c", 4, Some(10), 10, "RUNNING"),
    ];
    let mut told: Vec<Told> = ["a", "b", "c"].map(submitted).into();
    told.extend([
        deployment("a", "RUNNING", 2, 10, 11),
        deployment("b", "PENDING", 3, 12, 13),
        Told::Conflict { at: span(14, 15), project: "web".into(), holder: "a".into() },
        Told::Leased { at: span(10, 11), project: "web".into(), id: "a".into(), fencing_token: 2 },
        Told::Called { at: span(16, 17), id: "a".into(), is_own: true, is_accepted: true },
        Told::Reported { id: "a".into(), line: "a's line".into(), is_accepted: true },
        deployment("a", "SUCCEEDED", 5, 20, 21),
        Told::Called { at: span(22, 23), id: "a".into(), is_own: true, is_accepted: false },
        Told::Reported { id: "a".into(), line: "too late".into(), is_accepted: false },
        deployment("a", "SUCCEEDED", 5, 24, 25),
        Told::Leased { at: span(30, 31), project: "web".into(), id: "b".into(), fencing_token: 7 },
        Told::Called { at: span(32, 33), id: "b".into(), is_own: false, is_accepted: false },
        deployment("c", "PENDING", 9, 40, 41),
        streamed("a", &[1, 2, 3, 4]),
    ]);
    History { kept, told }
}

fn kept(id: &str, ticket: u64, fencing_token: Option<u64>, revision: u64, status: &str) -> Kept {
    let is_final = matches!(status, "SUCCEEDED" | "FAILED" | "CANCELLED");
    let kinds = ["status", "queue", "log", if is_final { "complete" } else { "status" }];
    let events = (1..).zip(kinds).map(|(seq, kind)| KeptEvent {
        seq,
        kind: kind.to_owned(),
        lines: if kind == "log" { vec![format!("{id}'s line")] } else { Vec::new() },
    });
    Kept {
        project: "web".to_owned(),
        id: id.to_owned(),
        ticket,
        revision,
        status: status.to_owned(),
        holds_slot: status == "RUNNING",
        fencing_token,
        event_count: 4,
        events: events.collect(),
        is_trimmed: false,
        key: Some(format!("key-{id}")),
        commit: Some(format!("key-{id}")),
    }
}

fn span(sent: u64, answered: u64) -> Span {
    Span { sent, answered }
}

fn deployment(id: &str, status: &str, revision: u64, sent: u64, answered: u64) -> Told {
    let (project, id, status) = ("web".to_owned(), id.to_owned(), status.to_owned());
    Told::Deployment { at: Some(span(sent, answered)), project, id, status, revision }
}

fn submitted(id: &str) -> Told {
    Told::Submitted { project: "web".into(), key: format!("key-{id}"), id: id.into() }
}

fn streamed(id: &str, seqs: &[u64]) -> Told {
    let kinds = ["status", "queue", "log", "complete"];
    let events = seqs.iter().map(|seq| (*seq, kinds[usize::try_from(*seq).unwrap() - 1].to_owned()));
    Told::Streamed { id: id.to_owned(), events: events.collect() }
}

#[test]
fn a_good_history_is_found_good() {
    assert_eq!(violations(&good()), Vec::<String>::new());
    assert_eq!(violations(&History::default()), Vec::<String>::new());
}

#[test]
fn each_broken_rule_is_named() {
    type Harm = fn(&mut History);
    let cases: &[(&str, &str, Harm)] = &[
        ("I1", "two hold the slot", |it| {
            it.kept[1] = kept("b", 3, Some(7), 7, "RUNNING");
        }),
        ("I1", "one starts before the other has ended", |it| it.kept[0].revision = 8),
        ("I1", "one starts while the other runs", |it| {
            (it.kept[0].revision, it.kept[1].fencing_token) = (7, Some(5));
        }),
        ("I1", "the slot is nobody's while somebody waits", |it| {
            it.kept[2] = kept("c", 4, None, 4, "PENDING");
        }),
        ("I1", "a conflict names one that had ended", |it| {
            it.told.push(Told::Conflict { at: span(26, 27), project: "web".into(), holder: "a".into() });
        }),
        ("I1", "a conflict names another project's", |it| {
            it.told.push(Told::Conflict { at: span(1, 2), project: "api".into(), holder: "a".into() });
        }),
        ("I2", "an end became another", |it| it.told.push(deployment("a", "FAILED", 5, 20, 21))),
        ("I2", "an end was taken back", |it| it.told.push(deployment("a", "RUNNING", 2, 26, 27))),
        ("I3", "what was told is gone", |it| it.told.push(deployment("d", "PENDING", 11, 50, 51))),
        ("I3", "a submit is gone", |it| it.told.push(submitted("d"))),
        ("I3", "a revision is gone", |it| it.told.push(deployment("c", "PENDING", 12, 50, 51))),
        ("I3", "a start is gone", |it| it.told.push(deployment("c", "RUNNING", 9, 42, 43))),
        ("I3", "a lease is gone", |it| {
            let (project, id) = ("web".to_owned(), "c".to_owned());
            it.told.push(Told::Leased { at: span(42, 43), project, id, fencing_token: 11 });
        }),
        ("I3", "an accepted line is gone", |it| it.kept[0].events[2].lines.clear()),
        ("I3", "revisions fall", |it| it.told.push(deployment("c", "PENDING", 4, 42, 43))),
        ("I4", "another's lease is good enough", |it| {
            it.told.push(Told::Called { at: span(42, 43), id: "c".into(), is_own: false, is_accepted: true });
        }),
        ("I4", "a call is taken after the end", |it| {
            it.told.push(Told::Called { at: span(26, 27), id: "a".into(), is_own: true, is_accepted: true });
        }),
        ("I4", "a refused line is there", |it| it.kept[0].events[2].lines.push("too late".into())),
        ("I4", "fencing tokens fall", |it| {
            let (project, id) = ("web".to_owned(), "a".to_owned());
            it.told.push(Told::Leased { at: span(42, 43), project, id, fencing_token: 2 });
        }),
        ("I5", "an event is missing", |it| _ = it.kept[0].events.remove(1)),
        ("I5", "the last event is missing", |it| _ = it.kept[0].events.pop()),
        ("I5", "there are two ends", |it| it.kept[0].events[2].kind = "complete".into()),
        ("I5", "an end where there is none", |it| it.kept[2].events[3].kind = "complete".into()),
        ("I5", "a line is there twice", |it| it.kept[0].events[2].lines.push("a's line".into())),
        ("I5", "a stream skips an event", |it| it.told.push(streamed("a", &[1, 2, 4]))),
        ("I5", "a stream repeats an event", |it| it.told.push(streamed("a", &[1, 2, 2, 3, 4]))),
        ("I5", "a stream is out of order", |it| it.told.push(streamed("a", &[1, 3, 2, 4]))),
        ("I8", "who came later is served first", |it| {
            (it.kept[1].ticket, it.kept[2].ticket) = (4, 3);
        }),
        ("I9", "one wish was granted twice", |it| {
            it.kept.push(Kept { commit: Some("key-c".into()), key: None, ..kept("d", 11, None, 11, "PENDING") });
        }),
        ("I9", "a key means another deployment", |it| {
            it.told.push(Told::Submitted { project: "web".into(), key: "key-a".into(), id: "b".into() });
        }),
    ];
    for (rule, what, harm) in cases {
        let mut history = good();
        harm(&mut history);
        let found = violations(&history);
        assert!(found.iter().any(|it| it.split(':').next().unwrap().contains(rule)), "{what} ({rule}): {found:#?}");
    }
}

#[test]
fn what_a_command_printed_is_a_fact() {
    let printed = r#"{"project":"web","id":"a","status":"SUCCEEDED","revision":5,"progress":100}"#;
    let facts = Told::parse(printed).unwrap();
    assert_eq!(facts.len(), 1);
    assert_eq!(violations(&History { told: facts, ..good() }), Vec::<String>::new());
    let facts = Told::parse(&printed.replace('5', "6")).unwrap();
    assert!(!violations(&History { told: facts, ..good() }).is_empty());
    let fact = deployment("a", "RUNNING", 2, 10, 11);
    let told = serde_json::to_string_pretty(&fact).unwrap();
    assert_eq!(Told::parse(&format!("{told}\n{told}")).unwrap(), [fact.clone(), fact]);
    assert_eq!(Told::parse(r#"{"errorCode":"LINE_FULL","status":409}"#).unwrap(), []);
    assert!(Told::parse("nonsense").is_err());
}
