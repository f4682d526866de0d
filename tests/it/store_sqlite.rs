//! What the embedded engine promises beside the contract: its file, its lock, its schema, and what it does when the disk
//! is full.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use futures_util::future::join_all;

use rusqlite::Connection;
use singletrack::{
    model::{
        Caller, EventBody, Report, Status, Stream,
        admission::{Admission, OnConflict},
    },
    queue::WorkerError,
    store::{ListQuery, Store, StoreError},
};

use crate::{
    harness::mounts::{in_a_mount_namespace, is_inside, mount, unmount},
    store_trial::{Trial, id, name, open},
};

fn refusal(path: &Path) -> String {
    match open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(StoreError::Unusable(message)) => message,
        Err(other) => panic!("{other:?}"),
    }
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("singletrack.db");
    (directory, path)
}

#[test]
fn a_second_server_is_refused_and_told_who_has_the_file() {
    let (directory, path) = fresh();
    let first = open(&path).unwrap();
    let told = refusal(&path);
    let pid = std::process::id();
    assert!(told.ends_with(&format!(
        "singletrack.db is in use by another singletrack server (pid {pid}); stop it or give this one another --store"
    )));
    // Another name of the same file is no way around.
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(refusal(&link).contains("is in use"));
    drop(first);
    drop(open(&path).unwrap());
}

#[tokio::test]
async fn a_store_that_is_opened_again_holds_everything() {
    let trial = Trial::sqlite();
    for number in 1..=3 {
        trial.submit("web", number, OnConflict::Wait).await;
    }
    let secret = trial.claim("web", 1).await;
    trial.finish("web", 1, secret).await;
    trial.submit("api", 9, OnConflict::Refuse).await;
    let before = (
        trial.store.project(name("web"), 9).await.unwrap(),
        trial.store.project(name("api"), 9).await.unwrap(),
        trial.store.deployment(name("web"), id(1)).await.unwrap(),
        trial.events(1).await,
    );
    let trial = trial.reopened();
    let after = (
        trial.store.project(name("web"), 9).await.unwrap(),
        trial.store.project(name("api"), 9).await.unwrap(),
        trial.store.deployment(name("web"), id(1)).await.unwrap(),
        trial.events(1).await,
    );
    assert_eq!(before, after);
    trial.queue.cancel(&Caller::server(), name("web"), id(2), None, None).await.unwrap();
    assert_eq!(trial.deployment("web", 2).await.status(), Status::Cancelled);
    assert_eq!(trial.position("web", 3).await, 0, "its turn has come");
}

#[tokio::test]
async fn a_closed_store_has_finished_what_was_queued_and_answers_that_it_is_closed() {
    let (_directory, path) = fresh();
    let store = std::sync::Arc::new(open(&path).unwrap());
    let clock = crate::store_trial::HandClock::start();
    let queue = singletrack::queue::Queue::new(store.clone(), clock, Default::default());
    let submits: Vec<_> = (1..=50)
        .map(|number| {
            let queue = queue.clone();
            let wish = singletrack::model::admission::Submission {
                id: id(number),
                project: name("web"),
                spec: crate::store_trial::spec(),
                key: None,
                on_conflict: OnConflict::Queue,
                refusal: None,
                sealed: None,
                claim: None,
            };
            let mut submit = Box::pin(async move { queue.submit(&Caller::server(), wish).await });
            // On its way before the store is closed.
            let _ = futures_util::FutureExt::now_or_never(&mut submit);
            submit
        })
        .collect();
    store.close();
    for submit in submits {
        submit.await.unwrap();
    }
    let closed = StoreError::Unavailable("the store is closed".to_owned());
    assert_eq!(store.ready().await, Err(closed.clone()));
    assert_eq!(store.project(name("web"), 0).await, Err(closed));
    drop((store, queue));
    let files: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!files.iter().any(|it| it.to_string_lossy().contains("-wal")), "all is in the one file: {files:?}");
    let store = open(&path).unwrap();
    let all = store.list(name("web"), ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap();
    assert_eq!(all.len(), 50);
}

#[tokio::test]
async fn the_log_starts_anew_while_decisions_go_on() {
    const CLIENTS: u64 = 4;
    let trial = Trial::sqlite();
    let log = trial.path().with_extension("db-wal");
    let log_bytes = || fs::metadata(&log).unwrap().len();
    let at_first = log_bytes();
    let written = async |client: u64| {
        let project = format!("web-{client}");
        trial.submit(&project, client, OnConflict::Refuse).await;
        let secret = trial.claim(&project, client).await;
        let mut longest = 0;
        for _ in 0..400 {
            let lines = vec!["x".repeat(32 << 10)];
            let output = Report::Log { stream: Stream::Stdout, phase: None, lines };
            trial.queue.report(name(&project), id(client), secret, None, vec![output]).await.unwrap();
            longest = longest.max(log_bytes());
        }
        trial.finish(&project, client, secret).await;
        longest
    };
    let longest = join_all((1..=CLIENTS).map(written)).await.into_iter().max().unwrap();
    let whole = CLIENTS * 400 * (32 << 10);
    assert!(longest < whole / 2, "{longest} bytes of log, {at_first} at first, for {whole} bytes of output");
    let trial = trial.reopened();
    for client in 1..=CLIENTS {
        let told = trial.deployment(&format!("web-{client}"), client).await;
        assert_eq!((told.status(), told.logs.total_bytes), (Status::Succeeded, 400 * ((32 << 10) + 1)));
    }
}

#[test]
fn what_it_makes_is_its_owners_only() {
    let (directory, path) = fresh();
    let _store = open(&path).unwrap();
    for file in fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
}

#[test]
fn what_is_no_store_is_refused_and_left_as_it_is() {
    let (directory, _) = fresh();
    let at = |name: &str| directory.path().join(name);

    assert!(refusal(directory.path()).contains("is a directory; give a file in it, such as "));
    let nowhere = refusal(&at("no/such/singletrack.db"));
    assert!(nowhere.contains("no/such does not exist; make it, or give another place with --store"), "{nowhere}");
    assert!(refusal(Path::new("")).contains("names no file"));

    fs::write(at("notes.txt"), "remember the milk\n".repeat(100)).unwrap();
    assert!(refusal(&at("notes.txt")).contains("is not a SQLite database, and was left as it is"));
    assert_eq!(fs::read_to_string(at("notes.txt")).unwrap(), "remember the milk\n".repeat(100));

    Connection::open(at("foreign.db")).unwrap().execute_batch("CREATE TABLE milk (litres)").unwrap();
    let before = fs::read(at("foreign.db")).unwrap();
    assert!(refusal(&at("foreign.db")).contains("is a database of another program"));
    assert_eq!(fs::read(at("foreign.db")).unwrap(), before);
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let (_directory, path) = fresh();
    drop(open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    // The first page after its header: the schema.
    bytes[100..2000].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let told = refusal(&path);
    assert!(told.contains("is damaged") && told.contains("restore it from a backup"), "{told}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let (_directory, path) = fresh();
    drop(open(&path).unwrap());
    let known: i64 = pragma(&path, "user_version");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", known + 1).unwrap();
    let told = refusal(&path);
    assert!(told.contains("was written by a newer singletrack (its schema is version "), "{told}");
    assert_eq!(pragma(&path, "user_version"), known + 1);
}

#[test]
fn a_schema_that_was_made_otherwise_is_refused() {
    let (_directory, path) = fresh();
    drop(open(&path).unwrap());
    Connection::open(&path).unwrap().execute("UPDATE migrations SET checksum = zeroblob(32)", []).unwrap();
    let told = refusal(&path);
    assert!(told.contains("step 1 of the schema of "), "{told}");
}

fn pragma(path: &Path, name: &str) -> i64 {
    Connection::open(path).unwrap().pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn the_schema_itself_refuses_what_must_never_happen() {
    let trial = Trial::sqlite();
    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    let output = Report::Log { stream: Stream::Stdout, phase: None, lines: vec!["a line".to_owned()] };
    trial.queue.report(name("web"), id(1), secret, None, vec![output]).await.unwrap();
    trial.finish("web", 1, secret).await;
    trial.submit("web", 2, OnConflict::Refuse).await;
    trial.claim("web", 2).await;
    trial.submit("web", 3, OnConflict::Wait).await;
    let key = singletrack::model::admission::Submission {
        id: id(4),
        project: name("web"),
        spec: crate::store_trial::spec(),
        key: Some(("key".parse().unwrap(), [7; 32])),
        on_conflict: OnConflict::Queue,
        refusal: None,
        sealed: None,
        claim: None,
    };
    trial.queue.submit(&Caller::server(), key).await.unwrap();
    trial.queue.release(&Caller::server(), name("web"), "stuck".to_owned(), None).await.unwrap();
    // By now: 1 succeeded, 2 failed, 3 is reserved, 4 waits.
    let path = trial.path();
    drop(trial.store.projects(None, 9).await.unwrap());
    let file = Connection::open(&path).unwrap();
    file.pragma_update(None, "foreign_keys", true).unwrap();

    let refused = [
        // I1: one holder.
        ("UPDATE deployments SET state = 'ready' WHERE number = 4", "UNIQUE constraint failed: deployments.project"),
        // I2: finality.
        ("UPDATE deployments SET pulse = pulse + 1 WHERE number = 1", "a final deployment never changes"),
        ("UPDATE deployments SET cause_message = 'better' WHERE number = 2", "a final deployment never changes"),
        ("DELETE FROM deployments WHERE number = 1", "only old final deployments are ever removed"),
        // Nothing goes back.
        ("UPDATE deployments SET revision = revision - 1 WHERE number = 3", "a deployment never goes back"),
        ("UPDATE deployments SET event_count = event_count - 1 WHERE number = 3", "a deployment never goes back"),
        ("UPDATE deployments SET state = 'waiting' WHERE number = 3", "a deployment never goes back"),
        ("UPDATE deployments SET ticket = 99 WHERE number = 3", "what a deployment is never changes"),
        ("UPDATE projects SET revision = revision - 1", "a project's revision never falls"),
        ("UPDATE projects SET name = 'api'", "a project's revision never falls and its name never changes"),
        ("DELETE FROM projects", "a project is only removed after it was forgotten"),
        // A state has its columns, and no others.
        ("UPDATE deployments SET state = 'paused' WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET state = 'running' WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET state = 'succeeded' WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET state = 'failed', ended_at = 1 WHERE number = 3", "CHECK constraint failed"),
        (
            "UPDATE deployments SET state = 'failed', ended_at = 1, cause = 'ABANDONED', cause_message = '' WHERE number = 3",
            "CHECK constraint failed",
        ),
        (
            "UPDATE deployments SET state = 'cancelled', ended_at = 1, cause = 'SUPERSEDED', cause_message = '' \
             WHERE number = 3",
            "CHECK constraint failed",
        ),
        ("UPDATE deployments SET window_ms = 5 WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET worker = 'w' WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET progress = 101 WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET cancel_reason = 'why' WHERE number = 3", "CHECK constraint failed"),
        ("UPDATE deployments SET pulse = 'many' WHERE number = 3", "cannot store TEXT value in INTEGER column"),
        // One ticket, one key, one id.
        (
            "INSERT INTO deployments SELECT 99, randomblob(16), project, ticket, revision, 'waiting', NULL, executor, 0, 0, \
             1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, NULL, \
             NULL, spec, outputs, 1, 99, NULL, NULL, NULL, NULL, NULL FROM deployments WHERE number = 4",
            "UNIQUE constraint failed: deployments.project, deployments.ticket",
        ),
        (
            "INSERT INTO deployments SELECT 99, randomblob(16), project, 99, 99, 'waiting', NULL, executor, 0, 0, \
             1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, NULL, \
             NULL, spec, outputs, 1, short_number, NULL, NULL, NULL, NULL, NULL FROM deployments WHERE number = 4",
            "UNIQUE constraint failed: deployments.project, deployments.short_number",
        ),
        ("UPDATE deployments SET short_number = 99 WHERE number = 3", "what a deployment is never changes"),
        ("UPDATE projects SET deployment_count = 1", "a deployment's number is never given twice"),
        ("INSERT INTO idempotency_keys VALUES (1, 'key', zeroblob(32), 1)", "UNIQUE constraint failed"),
        ("UPDATE idempotency_keys SET deployment = 1", "an idempotency key names one deployment for ever"),
        ("DELETE FROM idempotency_keys", "names one deployment for as long as that is kept"),
        // I5: events.
        ("INSERT INTO events VALUES (1, 7, 0, 'status', NULL, '{}')", "nothing happens after the last event"),
        ("INSERT INTO events VALUES (3, 2, 0, 'status', NULL, '{}')", "events are numbered without a gap"),
        ("INSERT INTO events VALUES (3, 5, 0, 'status', NULL, '{}')", "events are numbered without a gap"),
        ("INSERT INTO events VALUES (3, 1, 0, 'status', NULL, '{}')", "UNIQUE constraint failed: events.deployment"),
        ("INSERT INTO events VALUES (3, 4, 0, 'log', NULL, '{}')", "CHECK constraint failed"),
        ("INSERT INTO events VALUES (99, 1, 0, 'status', NULL, '{}')", "FOREIGN KEY constraint failed"),
        ("UPDATE events SET body = '{}' WHERE deployment = 3", "what happened never changes"),
        ("DELETE FROM events WHERE deployment = 1", "only output is ever cut"),
        // Blocks of output.
        ("INSERT INTO output_blocks VALUES (3, 1, 1, 9, x'00')", "only finished output is compressed"),
        (
            "INSERT INTO output_blocks VALUES (1, 99, 99, 9, x'00'); DELETE FROM output_blocks",
            "output is removed by retention only",
        ),
        (
            "INSERT INTO output_blocks VALUES (1, 99, 99, 9, x'00'); UPDATE output_blocks SET body = x'11'",
            "what happened never changes",
        ),
        // With a permit, retention may remove final deployments only, and redaction may change words only.
        (
            "INSERT INTO permits VALUES ('remove'); DELETE FROM deployments WHERE number = 3",
            "only old final deployments",
        ),
        (
            "INSERT INTO permits VALUES ('redact'); UPDATE deployments SET state = 'failed' WHERE number = 1",
            "a final deployment never changes",
        ),
        (
            "INSERT INTO permits VALUES ('redact'); UPDATE events SET at = 1 WHERE deployment = 1",
            "what happened never changes",
        ),
        (
            "INSERT INTO permits VALUES ('redact'); UPDATE deployments SET ticket = 9 WHERE number = 1",
            "what a deployment is never changes",
        ),
        // The audit log.
        ("UPDATE audit SET detail = 'nothing'", "the audit log is appended only"),
        ("DELETE FROM audit", "the audit log is appended only"),
    ];
    for (statement, why) in refused {
        let attempt = file.unchecked_transaction().unwrap();
        let refusal = attempt.execute_batch(statement).expect_err(statement).to_string();
        assert!(refusal.contains(why), "{statement}\n    {refusal}");
    }
    // And what may happen does: output is cut.
    let cut = file.execute("DELETE FROM events WHERE deployment = 1 AND type = 'log'", []).unwrap();
    assert_eq!(cut, 1);
}

/// Runs `the_disk_fills_up` on a disk of 48 MiB of its own.
#[test]
fn a_full_disk_costs_output_and_nothing_else() {
    in_a_mount_namespace("store_sqlite::the_disk_fills_up");
}

#[tokio::test]
#[ignore = "it is run by the test above, on a small disk"]
async fn the_disk_fills_up() {
    if !is_inside() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path();
    mount(&["-t", "tmpfs", "-o", "size=48m", "tmpfs", disk.to_str().unwrap()]);
    let [ballast, filler] = ["singletrack.db.ballast", "filler"].map(|name| disk.join(name));
    // Something else on the disk grows.
    fs::write(&filler, vec![1; 24 << 20]).unwrap();
    let trial = Trial::sqlite_at(disk);
    assert!(fs::metadata(&ballast).unwrap().blocks() * 512 >= 8 << 20, "the room is really taken");

    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    let report = async |reports| trial.queue.report(name("web"), id(1), secret, None, reports).await;
    let output = || Report::Log { stream: Stream::Stdout, phase: None, lines: vec!["x".repeat(256 << 10)] };
    let mut kept = 0;
    let refusal = loop {
        // In one batch with somebody else's submit, who must not notice.
        let neighbour = format!("neighbour-{kept}");
        let neighbour = trial.submit(&neighbour, 1000 + kept, OnConflict::Refuse);
        let (reported, submitted) = futures_util::join!(report(vec![output()]), neighbour);
        assert_eq!(submitted, Admission::Accepted(id(1000 + kept)));
        match reported {
            Ok(_) => kept += 1,
            Err(refusal) => break refusal,
        }
        assert!(kept < 1000, "the disk never fills up");
    };
    assert_eq!(refusal, WorkerError::Store(StoreError::Full));
    assert!(!ballast.exists(), "the room is given up");
    let told = trial.deployment("web", 1).await;
    assert_eq!(told.logs.total_bytes, kept * ((256 << 10) + 1), "what was acknowledged is there, and no more");

    // Output gives way; a crowd of everything else goes through, in one batch with it.
    let others = join_all((2..200).map(async |number| {
        let refused = report(vec![output()]).await;
        assert_eq!(refused, Err(WorkerError::Store(StoreError::Full)));
        let project = format!("project-{number}");
        trial.submit(&project, number, OnConflict::Refuse).await;
        let secret = trial.claim(&project, number).await;
        trial.queue.heartbeat(name(&project), id(number), secret).await.unwrap();
        trial.finish(&project, number, secret).await.status()
    }))
    .await;
    assert!(others.iter().all(|status| *status == Status::Succeeded));
    let progress = Report::Progress { progress: Some(50), message: None };
    report(vec![progress]).await.unwrap();
    assert_eq!(trial.store.ready().await, Ok(()));

    // There is room again, and output is kept again.
    fs::remove_file(&filler).unwrap();
    report(vec![output()]).await.unwrap();
    assert!(ballast.exists(), "the room is taken again");
    let done = trial.finish("web", 1, secret).await;
    let last = trial.store.events(id(1), done.event_count - 3, 9).await.unwrap();
    assert!(last[0].body.is_log(), "{last:?}");
    assert_eq!(last.last().map(|event| (event.seq, &event.body)), Some((done.event_count, &EventBody::Complete)));
    drop(trial);
    unmount(disk);
}
