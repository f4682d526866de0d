//! What webhooks say, and when.

use serde_json::json;

use super::{claimed, finish, kinds};
use crate::{
    harness::{
        TestServer, gated_config,
        receiver::{Receiver, SECRET},
    },
    live::on_each_engine,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_signed_and_tells_who_deployed_what_and_how_long_it_took() {
    let receiver = Receiver::start();
    let config = format!("public_url = \"https://deploys.example.com\"\n{}", receiver.webhook("all", ""));
    on_each_engine(&gated_config(&config), async |server| {
        let wish = json!({
            "pipeline": "quick", "actor": "alice", "ref": "main", "commit": "3f2a91c07e55", "message": "Faster search",
            "url": "https://ci.example.com/runs/7",
        });
        let id = server.accepted(wish).await;
        let [started, succeeded] = receiver.some(2).await.try_into().unwrap();
        assert_eq!((started.kind(), succeeded.kind()), ("deployment.started".into(), "deployment.succeeded".into()));
        assert_ne!(started.id(), succeeded.id());
        for sent in [&started, &succeeded] {
            sent.assert_signed_with(SECRET.as_bytes());
            assert_eq!((&*sent.method, &*sent.target), ("POST", "/all"));
            assert_eq!(sent.headers["content-type"], "application/json");
            let body = sent.json();
            let told = &body["data"]["deployment"];
            assert_eq!(
                (&body["data"]["project"], &told["id"], &told["number"]),
                (&json!("web"), &json!(id), &json!(1))
            );
            assert_eq!((&told["actor"], &told["ref"]), (&json!("alice"), &json!("main")));
            assert_eq!((&told["commit"], &told["message"]), (&json!("3f2a91c07e55"), &json!("Faster search")));
            assert_eq!(told["url"], "https://ci.example.com/runs/7");
            assert_eq!(body["data"]["link"], "https://deploys.example.com/projects/web/deployments/1");
        }
        let (started, succeeded) = (started.json(), succeeded.json());
        let (before, after) = (&started["data"]["deployment"], &succeeded["data"]["deployment"]);
        assert_eq!((&before["status"], &before["endedAt"]), (&json!("RUNNING"), &json!(null)));
        assert_eq!(after["status"], "SUCCEEDED");
        assert!(before["waitSeconds"].is_i64() && after["runSeconds"].is_i64(), "{started} {succeeded}");
        assert_eq!(succeeded["timestamp"], after["endedAt"]);
        assert!(receiver.has_more().await.is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_told_once_and_in_its_order() {
    let receiver = Receiver::start();
    on_each_engine(&gated_config(&receiver.webhook("all", "")), async |server| {
        // Failed.
        server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
        assert_eq!(kinds(&receiver, 1).await, ["deployment.started"]);
        let failed = receiver.next().await.json();
        assert_eq!(failed["type"], "deployment.failed");
        let told = &failed["data"]["deployment"];
        assert_eq!((&told["errorCode"], &told["phase"]), (&json!("PHASE_FAILED"), &json!("only")));
        assert!(told["errorMessage"].as_str().unwrap().contains('3'), "{told}");

        // Superseded: one that runs by a takeover, and an older one that waits by the start of the newer one.
        let (first, secret) = claimed(&server, json!({ "order": 1 })).await;
        assert_eq!(kinds(&receiver, 1).await, ["deployment.started"]);
        server.accepted(json!({ "pipeline": "quick", "order": 2, "onConflict": "queue" })).await;
        let newer = json!({ "pipeline": "quick", "order": 3, "actor": "bob", "onConflict": "queue" });
        let newer = server.accepted(newer).await;
        server.cancel(&first, json!({ "supersededBy": newer })).await;
        finish(&server, &first, &secret, json!({ "status": "CANCELLED" })).await;
        server.finished(&newer).await;
        let seen: Vec<_> = receiver.some(4).await.iter().map(|it| it.json()).collect();
        let of = |number: u64| {
            let of = seen.iter().filter(|body| body["data"]["deployment"]["number"] == number);
            of.map(|body| body["type"].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((of(2), of(3)), (vec!["deployment.superseded"], vec!["deployment.superseded"]), "{seen:#?}");
        assert_eq!(of(4), ["deployment.started", "deployment.succeeded"], "{seen:#?}");
        for body in seen.iter().filter(|body| body["type"] == "deployment.superseded") {
            let by = body["data"]["deployment"]["supersededBy"].as_str().unwrap();
            assert!(by.starts_with("web#4 of bob"), "{body}");
        }

        // Cancelled, with who and why.
        let (id, _) = claimed(&server, json!({ "order": 10 })).await;
        server.cancel(&id, json!({ "reason": "wrong branch", "actor": "carol" })).await;
        assert_eq!(kinds(&receiver, 1).await, ["deployment.started"]);

        // Released.
        let release = json!({ "reason": "the runner is gone", "evenIfAlive": true, "actor": "dora" });
        assert_eq!(server.post("/v1/projects/web/release", release).await.status, 200);
        let released = receiver.next().await.json();
        assert_eq!(released["type"], "deployment.released", "{released}");

        // Paused and resumed.
        server.post("/v1/projects/web/pause", json!({ "reason": "a *freeze*", "actor": "erin" })).await;
        let paused = receiver.next().await.json();
        assert_eq!((&paused["type"], &paused["data"]["project"]), (&json!("project.paused"), &json!("web")));
        assert_eq!(paused["data"]["pause"]["reason"], "a *freeze*");
        assert_eq!(paused["data"]["pause"]["actor"], "erin");
        server.post("/v1/projects/web/resume", json!({})).await;
        assert_eq!(kinds(&receiver, 1).await, ["project.resumed"]);

        // Cancelled while it waits.
        let (holder, secret) = claimed(&server, json!({ "order": 20 })).await;
        assert_eq!(kinds(&receiver, 1).await, ["deployment.started"]);
        let waiting = server.accepted(json!({ "onConflict": "queue", "order": 21 })).await;
        server.cancel(&waiting, json!({ "reason": "not now" })).await;
        let cancelled = receiver.next().await.json();
        assert_eq!(cancelled["type"], "deployment.cancelled");
        assert_eq!(cancelled["data"]["deployment"]["cancelReason"], "not now");
        assert_eq!(cancelled["data"]["deployment"]["startedAt"], json!(null));
        finish(&server, &holder, &secret, json!({ "status": "SUCCEEDED" })).await;
        assert_eq!(kinds(&receiver, 1).await, ["deployment.succeeded"]);
        assert!(receiver.has_more().await.is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_waits_too_long_is_told_of_and_one_that_does_not_is_not() {
    let receiver = Receiver::start();
    let rule = receiver.webhook("slow", "events = [\"superseded\"]\nwaits_longer_than = \"2s\"");
    on_each_engine(&gated_config(&rule), async |server| {
        // It starts at once.
        let (first, secret) = claimed(&server, json!({ "actor": "dave" })).await;
        let waiting = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "actor": "erin" })).await;
        let told = receiver.next().await.json();
        assert_eq!(told["type"], "deployment.waiting");
        let deployment = &told["data"]["deployment"];
        assert_eq!((&deployment["id"], &deployment["status"]), (&json!(waiting), &json!("PENDING")));
        assert!(deployment["waitsFor"].as_str().unwrap().contains("web#1"), "{deployment}");
        assert_eq!(deployment["position"], 1);
        finish(&server, &first, &secret, json!({ "status": "SUCCEEDED" })).await;
        server.finished(&waiting).await;
        assert!(super::rows(&server, "").await.is_empty());
        assert!(receiver.has_more().await.is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_rules_for_a_project_and_an_event_make_rows() {
    let receiver = Receiver::start();
    let rules = [
        receiver.webhook("failures", "projects = [\"we*\"]\nevents = [\"failed\"]"),
        receiver.webhook("others", "projects = [\"api\"]"),
    ];
    let server = TestServer::start(&gated_config(&rules.concat()));
    server.finished(&server.accepted(json!({ "pipeline": "quick" })).await).await;
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    let told = receiver.next().await;
    assert_eq!((told.kind(), &*told.target), ("deployment.failed".to_owned(), "/failures"));
    assert!(receiver.has_more().await.is_none());
    let api = server.post("/v1/projects/api/deployments", json!({ "executor": "client", "claim": true })).await;
    assert_eq!(api.status, 202);
    assert_eq!(receiver.next().await.target, "/others");
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_inputs_inputs_and_masked_outputs_never_leave() {
    let receiver = Receiver::start();
    let config = format!(
        "secret_inputs = [\"password\"]\n{}{}{}
        [[projects.web.pipelines.deploy.phases]]\nname = \"only\"\nrun = '''
echo \"::singletrack output url=https://web.example/$INPUT_PASSWORD::\"
echo \"::singletrack output other=plain-output::\"
echo \"it is $INPUT_PASSWORD\" >&2; exit 3
'''",
        receiver.webhook("hook", ""),
        receiver.rule("slack", "slack", ""),
        receiver.rule("teams", "teams", ""),
    );
    let server = TestServer::start(&config);
    let inputs = json!({ "password": "hunter2hunter2", "version": "plain-input" });
    server.finished(&server.accepted(json!({ "inputs": inputs })).await).await;
    for sent in receiver.some(6).await {
        let text = String::from_utf8(sent.body).unwrap();
        for never in ["hunter2hunter2", "plain-input", "plain-output", "***"] {
            assert!(!text.contains(never), "{never}: {text}");
        }
    }
}
