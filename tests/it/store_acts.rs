//! Administrative writes of the embedded engine: each in a transaction of its own, and never in the decisions' way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{FutureExt, future::join_all};
use rusqlite::Connection;
use singletrack::{
    model::{Changes, Load},
    store::{Store, StoreError, sqlite::SqliteStore},
};

use crate::store_trial::{name, open};

fn store(directory: &tempfile::TempDir) -> Arc<SqliteStore> {
    Arc::new(open(&directory.path().join("singletrack.db")).unwrap())
}

fn note(db: &Connection, action: &str) -> rusqlite::Result<i64> {
    db.execute_batch("CREATE TABLE IF NOT EXISTS tried (action TEXT NOT NULL)")?;
    db.execute("INSERT INTO tried VALUES (?1)", [action])?;
    Ok(db.last_insert_rowid())
}

async fn noted(store: &SqliteStore) -> Vec<String> {
    let read = |db: &Connection| {
        db.prepare("SELECT action FROM tried ORDER BY rowid")?.query_map([], |row| row.get(0))?.collect()
    };
    store.act(read).await.unwrap()
}

#[tokio::test]
async fn an_act_answers_its_value_after_its_commit_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let acting = store(&directory);
    assert_eq!(acting.act(|db| note(db, "one")).await.unwrap(), 1);
    // Another connection sees what is committed only.
    let other = Connection::open(directory.path().join("singletrack.db")).unwrap();
    let seen: i64 = other.query_row("SELECT count(*) FROM tried", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 1);
    drop((other, acting));
    assert_eq!(noted(&store(&directory)).await, ["one"]);
}

#[tokio::test]
async fn of_an_act_that_fails_or_panics_nothing_is_left_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let acts = (
        store.act(|db| note(db, "first")),
        store.act(|db| {
            note(db, "half")?;
            db.execute("UPDATE revision_floor SET revision = -1", [])
        }),
        store.act(|db| -> rusqlite::Result<()> {
            note(db, "half")?;
            panic!("on purpose")
        }),
        store.act(|db| note(db, "last")),
    );
    let (first, forbidden, panicked, last) = futures_util::join!(acts.0, acts.1, acts.2, acts.3);
    assert!(first.is_ok() && last.is_ok(), "{first:?} {last:?}");
    assert!(matches!(&forbidden, Err(StoreError::Unavailable(why)) if why.contains("never falls")), "{forbidden:?}");
    assert!(matches!(panicked, Err(StoreError::Unavailable(_))), "{panicked:?}");
    assert_eq!(noted(&store).await, ["first", "last"]);
    store.close();
    let refused = store.act(|db| note(db, "late")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_waits_for_one_act_at_most_however_many_are_queued() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let (tell_begun, begun) = std::sync::mpsc::channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let blocking = store.act(move |_| {
        tell_begun.send(()).unwrap();
        gate.recv().unwrap();
        Ok(())
    });
    let blocking = tokio::spawn(blocking);
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();

    // While the writer is busy, many acts queue up, and one decision behind them.
    let done = Arc::new(AtomicUsize::new(0));
    let acts = (0..100).map(|_| {
        let done = done.clone();
        let mut act = Box::pin(store.act(move |_| Ok(done.fetch_add(1, Ordering::SeqCst))));
        // In the queue before the decision.
        let _ = (&mut act).now_or_never();
        act
    });
    let acts: Vec<_> = acts.collect();
    let (decided, seen) = (done.clone(), Arc::new(AtomicUsize::new(usize::MAX)));
    let told = seen.clone();
    let decide = Box::new(move |_| {
        told.store(decided.load(Ordering::SeqCst), Ordering::SeqCst);
        Changes::default()
    });
    let mut decision = store.transact(name("web"), Load::default(), decide);
    let _ = (&mut decision).now_or_never();
    go_on.send(()).unwrap();
    decision.await.unwrap();
    assert!(seen.load(Ordering::SeqCst) <= 2, "{seen:?} of 100 acts were carried out before the decision");
    join_all(acts).await;
    blocking.await.unwrap().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 100);
}
