//! The schema refuses by itself what the program never does: the second line, should a program be wrong.

use singletrack::model::Caller;
use singletrack::model::admission::OnConflict;

use crate::{
    database::refused,
    harness::{TestServer, postgres},
    store_trial::{Trial, id, name},
};

#[tokio::test]
async fn the_database_refuses_what_must_never_be() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    for number in 1..=4 {
        trial.submit("web", number, OnConflict::Queue).await;
    }
    let secret = trial.claim("web", 1).await;
    trial.finish("web", 1, secret).await;
    trial.claim("web", 2).await;
    trial.queue.release(&Caller::server(), name("web"), "stuck".to_owned(), None).await.unwrap();
    // By now 1 succeeded, 2 failed, 3 is ready and 4 waits.
    let admin = cluster.client(&database).await;
    admin.batch_execute("SET search_path TO singletrack").await.unwrap();
    const SOUND: &str = "deployments_are_sound";
    let sets = [
        (4, "state = 'ready'", "deployments_holding"),
        (1, "pulse = pulse + 1", "a final deployment never changes"),
        (2, "cause_message = 'better'", "a final deployment never changes"),
        (3, "revision = revision - 1", "a deployment never goes back"),
        (3, "state = 'waiting'", "a deployment never goes back"),
        (3, "ticket = 99", "what a deployment is never changes"),
        (3, "short_number = 99", "what a deployment is never changes"),
        // A state has its columns, and no others.
        (3, "state = 'paused'", SOUND),
        (3, "state = 'running'", SOUND),
        (3, "state = 'succeeded'", SOUND),
        (3, "state = 'failed', ended_at = 1", SOUND),
        (3, "state = 'failed', ended_at = 1, cause = 'ABANDONED', cause_message = ''", SOUND),
        (3, "state = 'cancelled', ended_at = 1, cause = 'SUPERSEDED', cause_message = ''", SOUND),
        (3, "state = 'cancelled', cause = 'CANCELLED', cause_message = ''", SOUND),
        (3, "window_ms = 5", SOUND),
        (4, "window_ms = -1", SOUND),
        (3, "worker = 'w'", SOUND),
        (3, "lease_secret = '\\x00'", SOUND),
        (3, "progress = 101", SOUND),
        (3, "log_head_end_seq = event_count + 1", SOUND),
        (3, "cancel_reason = 'why'", SOUND),
    ];
    for (number, set, why) in sets {
        let refused = format!("UPDATE deployments SET {set} WHERE id = '{}'", id(number));
        let error = admin.batch_execute(&refused).await.expect_err(set);
        let told = error.as_db_error().unwrap();
        let named = told.constraint().unwrap_or_default();
        assert!(named == why || told.message().contains(why), "{set}: {told}");
    }
    // What a state has to have makes it good.
    let good = format!(
        "UPDATE deployments SET state = 'cancelled', ended_at = 1, cause = 'CANCELLED', cause_message = '' \
        WHERE id = '{}'",
        id(4)
    );
    assert_eq!(admin.execute(&good, &[]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_database_that_is_not_utf_8_is_refused_with_the_reason() {
    let cluster = postgres::shared();
    let admin = cluster.client("postgres").await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("in_{}", encoding.to_lowercase());
        let make =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        admin.batch_execute(&make).await.unwrap();
        let (code, told) = refused(&cluster.url(&name), &[]);
        assert_eq!(code, 69, "{told}");
        assert!(told.contains(encoding) && told.contains("ENCODING 'UTF8'"), "{told}");
        // What it says to do works.
        let advice = told.split_once("CREATE DATABASE").expect("a statement").1.lines().next().unwrap();
        admin.batch_execute(&format!("CREATE DATABASE{advice}")).await.unwrap();
        drop(TestServer::start_on(&cluster.url(&format!("{name}_utf8")), ""));
    }
}
