//! GitHub's and GitLab's deployments.

use serde_json::json;

use super::{claimed, finish};
use crate::harness::{
    TestServer, gated_config,
    receiver::{Receiver, Reply, SECRET},
};

fn forge(receiver: &Receiver, kind: &str, more: &str) -> String {
    format!(
        "[[notify]]\nname = \"{kind}\"\nkind = \"{kind}\"\nurl = \"{}/api\"\nrepository = \"acme/web\"\nsecret_file = \"{}\"\nallow_private = true\n{more}\n",
        receiver.url,
        receiver.secret_file().display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn github_gets_one_deployment_with_a_status_for_each_event() {
    let receiver = Receiver::start();
    let rule = forge(&receiver, "github", "environment = \"production\"");
    let server = TestServer::start(&gated_config(&rule));
    let list = "/api/repos/acme/web/deployments?";
    let known = |id: u64| Reply::json(&json!([{ "id": id }]));
    receiver.answer(list, [Reply::json(&json!([])), known(42), known(43), known(43)]);
    receiver.answer("/api/repos/acme/web/deployments/", vec![Reply::Http(201, "", "{}".to_owned()); 4]);
    receiver.answer("/api/repos/acme/web/deployments", [Reply::Http(201, "", r#"{"id":42}"#.to_owned())]);
    let wish = json!({ "commit": "3f2a91c", "ref": "main", "actor": "alice", "url": "https://ci.example/7" });
    let (id, secret) = claimed(&server, wish).await;
    let [asked, made, status] = receiver.some(3).await.try_into().unwrap();
    assert_eq!((&*asked.method, &*made.method, &*status.method), ("GET", "POST", "POST"));
    assert!(asked.target.contains(&format!("task=singletrack%3A{id}")), "{}", asked.target);
    assert_eq!(asked.headers["authorization"], format!("Bearer {SECRET}"));
    let body = made.json();
    assert_eq!((&body["ref"], &body["environment"]), (&json!("3f2a91c"), &json!("production")));
    assert_eq!((&body["auto_merge"], &body["required_contexts"]), (&json!(false), &json!([])));
    assert_eq!(status.target, "/api/repos/acme/web/deployments/42/statuses");
    let body = status.json();
    assert_eq!((&body["state"], &body["log_url"]), (&json!("in_progress"), &json!("https://ci.example/7")));
    finish(&server, &id, &secret, json!({ "status": "SUCCEEDED", "outputs": { "url": "https://web.example/" } })).await;
    let [_, status] = receiver.some(2).await.try_into().unwrap();
    let body = status.json();
    assert_eq!((&body["state"], &body["environment_url"]), (&json!("success"), &json!("https://web.example/")));
    // One that never started was never there.
    let (holder, secret) = claimed(&server, json!({ "commit": "aaa" })).await;
    receiver.some(2).await;
    let waiting = server.accepted(json!({ "onConflict": "queue", "commit": "bbb" })).await;
    server.cancel(&waiting, json!({})).await;
    finish(
        &server,
        &holder,
        &secret,
        json!({ "status": "FAILED", "error": { "code": "PHASE_FAILED", "message": "x" } }),
    )
    .await;
    let told = receiver.some(2).await;
    assert_eq!(told[1].json()["state"], "failure");
    super::until_rows(&server, "", <[_]>::is_empty).await;
    assert!(receiver.has_more().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn gitlab_gets_a_deployment_of_its_environment_and_where_to_see_it() {
    let receiver = Receiver::start();
    let server = TestServer::start(&gated_config(&forge(&receiver, "gitlab", "")));
    let base = "/api/projects/acme%2Fweb";
    let running =
        json!([{ "id": 6, "sha": "other", "status": "success" }, { "id": 7, "sha": "3f2a91c", "status": "running" }]);
    receiver.answer(&format!("{base}/deployments?"), [Reply::json(&json!([])), Reply::json(&running)]);
    receiver.answer(&format!("{base}/environments?"), [Reply::json(&json!([{ "id": 3, "external_url": null }]))]);
    let (id, secret) = claimed(&server, json!({ "commit": "3f2a91c", "ref": "main" })).await;
    let [asked, made] = receiver.some(2).await.try_into().unwrap();
    assert_eq!((&*asked.method, &*made.method), ("GET", "POST"));
    assert!(asked.target.contains("environment=web"), "{}", asked.target);
    assert_eq!(made.headers["private-token"], SECRET);
    assert_eq!(
        made.json(),
        json!({ "environment": "web", "sha": "3f2a91c", "ref": "main", "tag": false, "status": "running" })
    );
    finish(&server, &id, &secret, json!({ "status": "SUCCEEDED", "outputs": { "url": "https://web.example/" } })).await;
    let [_, put, found, shown] = receiver.some(4).await.try_into().unwrap();
    assert_eq!((&*put.method, &*put.target), ("PUT", &*format!("{base}/deployments/7")));
    assert_eq!(put.json(), json!({ "status": "success" }));
    assert!(found.target.starts_with(&format!("{base}/environments?name=web")), "{}", found.target);
    assert_eq!((&*shown.method, shown.json()), ("PUT", json!({ "external_url": "https://web.example/" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_without_a_commit_is_given_up_at_once_and_says_why() {
    let receiver = Receiver::start();
    receiver.answer("/api", vec![Reply::json(&json!([])); 4]);
    let server = TestServer::start(&gated_config(&forge(&receiver, "github", "events = [\"started\"]")));
    claimed(&server, json!({})).await;
    let dead = super::until_rows(&server, "?state=dead", |rows| rows.len() == 1).await;
    assert!(dead[0]["error"].as_str().unwrap().contains("names neither a commit nor a ref"), "{dead:?}");
    assert_eq!(dead[0]["attempts"], 1);
}
