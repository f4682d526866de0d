//! `?dryRun=true`: the plan, and nothing else.

use serde_json::json;

use crate::harness::TestServer;

#[tokio::test]
async fn a_plan_needs_no_key_whatever_is_wished_and_stores_nothing() {
    let server = TestServer::gated();
    for on_conflict in ["refuse", "wait", "queue"] {
        let body = json!({ "pipeline": "quick", "onConflict": on_conflict });
        let answer = server.post("/v1/projects/web/deployments?dryRun=true", body).await;
        assert_eq!(answer.status, 200, "{on_conflict}: {}", answer.text);
        assert_eq!(answer.body["dryRun"], true);
    }
    let listed = server.get("/v1/projects/web/deployments").await.body;
    assert_eq!(listed["deployments"], json!([]));
}
