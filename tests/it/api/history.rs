//! A project's history, filtered and a page at a time, on both stores.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{self, TestServer, gated_config};

const HISTORY: &str = "/v1/projects/web/deployments";

/// Each function is run against a server with each of the stores that last.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::harness::TestServer::gated_with(super::MORE)).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::on_postgres().await).await;
            })*
        }
    };
}

on_both_stores! {
    a_history_is_filtered_by_actor_ref_status_and_time,
    a_cursor_stands_where_it_stood_whatever_arrives,
    a_search_that_finds_little_goes_on_where_it_ended,
}

const MORE: &str = "[projects.web]\nline_limit = 5000";

async fn on_postgres() -> TestServer {
    let server = TestServer::start_on(&harness::postgres::shared().store().await, &gated_config(MORE));
    server.close_gate();
    server
}

async fn ended(server: &TestServer, pipeline: &str, actor: &str, name: &str) -> Value {
    let id = server.accepted(json!({ "pipeline": pipeline, "actor": actor, "ref": name })).await;
    server.finished(&id).await
}

fn ids(page: &Value) -> Vec<String> {
    page["deployments"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list.
async fn all(server: &TestServer, query: &str) -> Vec<String> {
    all_from(server, query, String::new()).await
}

/// Those from a cursor on.
async fn all_from(server: &TestServer, query: &str, mut cursor: String) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let page = server.get(&format!("{HISTORY}?{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        found.extend(ids(&page.body));
        match page.body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

async fn a_history_is_filtered_by_actor_ref_status_and_time(server: TestServer) {
    let mut made = Vec::new();
    for (pipeline, actor, name) in [
        ("quick", "alice", "main"),
        ("broken", "bob", "main"),
        ("quick", "alice", "feature/a"),
        ("quick", "bob", "main"),
        ("broken", "alice", "main"),
        ("quick", "Alice", "main"),
    ] {
        made.push(ended(&server, pipeline, actor, name).await);
    }
    let at = |index: usize| made[index]["createdAt"].as_str().unwrap();
    for (query, expected) in [
        ("actor=alice", &[4, 2, 0][..]),
        ("actor=bob&ref=main", &[3, 1]),
        ("ref=feature%2Fa", &[2]),
        ("actor=alice&status=SUCCEEDED", &[2, 0]),
        ("status=FAILED&ref=main", &[4, 1]),
        ("actor=ali", &[]),
        ("actor=", &[]),
        ("since=1h", &[5, 4, 3, 2, 1, 0]),
        (&format!("since={}", at(3)), &[5, 4, 3]),
        (&format!("since={}&actor=alice", at(2)), &[4, 2]),
        ("since=2100-01-01", &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|index: &usize| made[*index]["id"].as_str().unwrap()).collect();
        for limit in ["", "&limit=1", "&limit=2", "&limit=100"] {
            assert_eq!(all(&server, &format!("{query}{limit}")).await, expected, "{query}{limit}");
        }
    }
}

async fn a_cursor_stands_where_it_stood_whatever_arrives(server: TestServer) {
    let mut made = Vec::new();
    for number in 0..6 {
        let actor = if number % 2 == 0 { "alice" } else { "bob" };
        made.push(ended(&server, "quick", actor, "main").await["id"].as_str().unwrap().to_owned());
    }
    let queries = [("limit=2", &[3, 2, 1, 0][..]), ("limit=2&actor=alice", &[0])];
    let mut cursors = Vec::new();
    for (query, _) in queries {
        let first = server.get(&format!("{HISTORY}?{query}")).await.body;
        cursors.push(first["nextCursor"].as_str().unwrap().to_owned());
    }
    ended(&server, "quick", "alice", "main").await;
    for ((query, expected), cursor) in queries.into_iter().zip(cursors) {
        assert!(cursor.parse::<u64>().is_err(), "nobody is to count with it: {cursor}");
        let expected: Vec<_> = expected.iter().map(|index: &usize| made[*index].clone()).collect();
        assert_eq!(all_from(&server, query, format!("&cursor={cursor}")).await, expected, "{query}");
        let again = server.get(&format!("{HISTORY}?{query}&cursor={cursor}")).await.body;
        assert_eq!(ids(&again), expected[..expected.len().min(2)], "a page can be asked for again");
    }
}

async fn a_search_that_finds_little_goes_on_where_it_ended(server: TestServer) {
    let rare = ended(&server, "quick", "rare", "main").await["id"].as_str().unwrap().to_owned();
    for _ in 0..43 {
        let body = json!({ "onConflict": "queue", "actor": "often" });
        let made = join_all((0..50).map(|_| server.submit(body.clone()))).await;
        assert!(made.iter().all(|answer| answer.status == 202));
    }
    let first = server.get(&format!("{HISTORY}?actor=rare")).await.body;
    assert_eq!(ids(&first), [""; 0], "one request looks at so many, and no more");
    assert!(first["nextCursor"].is_string());
    assert_eq!(all(&server, "actor=rare").await, [rare]);
    server.open_gate();
}
