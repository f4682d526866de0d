//! The outbox: what cannot be sent now is sent later, over restarts and deaths, or kept as given up.

use std::{net::TcpListener, time::Duration};

use serde_json::json;

use super::{as_somebody, claimed, finish, kinds, rows, until_rows};
use crate::{
    harness::{
        TestServer, gated_config, postgres,
        receiver::{Receiver, Reply, SECRET},
    },
    live::{on_each_engine, prints},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_missed_while_it_was_away_comes_after_a_restart_of_the_server() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("secret"), SECRET).unwrap();
    let rule = format!(
        "[[notify]]\nname = \"away\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/away\"\nsecret_file = \"{}\"\nallow_private = true\n",
        place.path().join("secret").display()
    );
    let mut server = TestServer::start(&gated_config(&rule));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let tried = until_rows(&server, "", |rows| rows.iter().any(|row| row["attempts"].as_u64() >= Some(1))).await;
    assert!(tried.iter().any(|row| row["error"].is_string()), "{tried:?}");
    assert!(server.terminate().success());
    let receiver = Receiver::at(&format!("127.0.0.1:{port}"));
    server.boot();
    assert_eq!(kinds(&receiver, 2).await, ["deployment.started", "deployment.succeeded"]);
    until_rows(&server, "", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_sends_sends_again_under_the_same_id() {
    let receiver = Receiver::start();
    receiver.answer("/hook", [Reply::Hang]);
    let mut server = TestServer::start(&gated_config(&receiver.webhook("hook", "")));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    let first = receiver.next().await;
    server.finished(&id).await;
    server.kill();
    server.boot();
    let [again, then] = receiver.some(2).await.try_into().unwrap();
    assert_eq!((first.id(), first.body.clone()), (again.id(), again.body.clone()));
    again.assert_signed_with(SECRET.as_bytes());
    assert_eq!((again.kind(), then.kind()), ("deployment.started".into(), "deployment.succeeded".into()));
    until_rows(&server, "", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_tried_again_and_the_wait_that_a_target_asks_for_is_kept() {
    let receiver = Receiver::start();
    on_each_engine(&gated_config(&receiver.webhook("hook", "events = [\"failed\"]")), async |server| {
        let wait = Reply::Http(503, "retry-after: 3\r\n", String::new());
        receiver.answer("/hook", [Reply::status(500), wait, Reply::status(200)]);
        server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
        let tried = receiver.some(3).await;
        assert!(tried.iter().all(|it| it.id() == tried[0].id() && it.body == tried[0].body));
        assert!(tried[2].sent_at() - tried[1].sent_at() >= 2, "{} {}", tried[1].sent_at(), tried[2].sent_at());
        until_rows(&server, "", <[_]>::is_empty).await;
        let metrics = server.get("/metrics").await.text;
        for line in [
            "singletrack_notifications_sent_total{kind=\"webhook\"} 1",
            "singletrack_notifications_failed_total{kind=\"webhook\"} 2",
            "singletrack_notifications_dead_total{kind=\"slack\"} 0",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_kept_listed_and_sent_when_somebody_wants_it() {
    let receiver = Receiver::start();
    let rule = receiver.webhook("hook", "events = [\"failed\"]\nattempts = 2");
    on_each_engine(&gated_config(&rule), async |server| {
        receiver.answer("/hook", [Reply::Http(500, "", "no <b>room</b>".to_owned()), Reply::status(500)]);
        let id = server.accepted(json!({ "pipeline": "broken" })).await;
        let first = receiver.next().await;
        receiver.next().await;
        let dead = until_rows(&server, "?state=dead", |rows| rows.len() == 1).await.remove(0);
        assert_eq!((&dead["deploymentId"], &dead["event"]), (&json!(id), &json!("failed")));
        assert_eq!((&dead["attempts"], &dead["nextAttemptAt"]), (&json!(2), &json!(null)));
        assert!(dead["deadAt"].is_string() && dead["error"].as_str().unwrap().contains("500"), "{dead}");
        assert!(rows(&server, "?state=pending").await.is_empty());
        assert_eq!(server.get("/v1/notifications?state=sent").await.refusal(), (400, "INVALID_PARAMETER"));

        let listed = prints(&server, &["notifications", "--dead"]);
        let name = dead["id"].as_str().unwrap();
        assert!(listed.contains(name) && listed.contains("web failed"), "{listed}");
        let told = prints(&server, &["notifications", "--retry", name]);
        assert!(told.contains("is tried anew"), "{told}");
        let again = receiver.next().await;
        assert_eq!((again.id(), again.body.clone()), (first.id(), first.body.clone()));
        until_rows(&server, "", <[_]>::is_empty).await;
        let audit = server.get("/v1/audit?action=notification_retry").await.body;
        assert_eq!(
            (&audit["entries"][0]["project"], &audit["entries"][0]["deploymentId"]),
            (&json!("web"), &json!(id))
        );
        let gone = server.post(&format!("/v1/notifications/{name}/retry"), json!({})).await;
        assert_eq!(gone.refusal(), (404, "NOT_FOUND"));
        assert_eq!(prints(&server, &["notifications"]), "no notification waits, and none was given up\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_outbox_go_on_and_show_a_caller_its_projects_only() {
    let receiver = Receiver::start();
    let (all, first) = crate::harness::a_token();
    let (few, second) = crate::harness::a_token();
    let second = second.replace("name = \"ci\"", "name = \"few\"");
    let tokens = format!("{first}\n{second}\nprojects = [\"api\"]\n");
    let rule = receiver.webhook("hook", "events = [\"started\"]\nattempts = 1");
    receiver.answer("/hook", vec![Reply::status(500); 5]);
    let server = TestServer::start(&format!("{tokens}{rule}"));
    let submit = async |project: &str| {
        let url = format!("{}/v1/projects/{project}/deployments", server.base);
        let wish = json!({ "executor": "client", "claim": true });
        let answer = crate::harness::send(crate::harness::client_with(&all).post(url).json(&wish)).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    };
    for project in ["web-1", "web-2", "api", "web-3", "web-4"] {
        submit(project).await;
        receiver.next().await;
    }
    let dead =
        async |query: &str| as_somebody(&server, &all, &format!("/v1/notifications?state=dead{query}")).await.body;
    while dead("").await["notifications"].as_array().unwrap().len() < 5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = dead(&format!("&limit=2{cursor}")).await;
        seen.extend(
            page["notifications"].as_array().unwrap().iter().map(|row| row["project"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["web-4", "web-3", "api", "web-2", "web-1"]);
    let own = as_somebody(&server, &few, "/v1/notifications").await.body;
    assert_eq!(own["notifications"].as_array().unwrap().len(), 1, "{own}");
    assert_eq!(own["notifications"][0]["project"], "api");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_does_not_answer_delays_no_deploy_and_no_other_target() {
    let (slow, fast) = (Receiver::start(), Receiver::start());
    slow.answer("/slow", vec![Reply::Hang; 100]);
    let rules = [slow.webhook("slow", ""), fast.webhook("fast", "")].concat();
    on_each_engine(&gated_config(&rules), async |server| {
        for _ in 0..6 {
            let (id, secret) = claimed(&server, json!({})).await;
            finish(&server, &id, &secret, json!({ "status": "SUCCEEDED" })).await;
        }
        let told = fast.some(12).await;
        for pair in 0..6 {
            let number = json!(pair + 1);
            let of: Vec<_> = told
                .iter()
                .filter(|it| it.json()["data"]["deployment"]["number"] == number)
                .map(|it| it.kind())
                .collect();
            assert_eq!(of, ["deployment.started", "deployment.succeeded"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_of_one_database_send_each_notification_once() {
    let receiver = Receiver::start();
    let store = postgres::shared().store().await;
    let config = gated_config(&receiver.webhook("hook", ""));
    let servers = [TestServer::start_on(&store, &config), TestServer::start_on(&store, &config)];
    for turn in 0..10 {
        let (id, secret) = claimed(&servers[turn % 2], json!({})).await;
        finish(&servers[(turn + 1) % 2], &id, &secret, json!({ "status": "SUCCEEDED" })).await;
    }
    let told = receiver.some(20).await;
    let ids: std::collections::BTreeSet<_> = told.iter().map(|it| it.id().to_owned()).collect();
    assert_eq!(ids.len(), 20);
    until_rows(&servers[0], "", <[_]>::is_empty).await;
    assert!(receiver.has_more().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_server_was_sending_is_sent_by_another_one() {
    let receiver = Receiver::start();
    receiver.answer("/hook", [Reply::Hang]);
    let store = postgres::shared().store().await;
    let config = gated_config(&receiver.webhook("hook", "events = [\"started\"]"));
    let (mut one, other) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    claimed(&one, json!({})).await;
    let first = receiver.next().await;
    one.kill();
    let again = receiver.next().await;
    assert_eq!(first.id(), again.id());
    until_rows(&other, "", <[_]>::is_empty).await;
}
