//! What is live, since when, and from what.

use serde_json::{Value, json};

use crate::harness::{TestServer, postgres};

const PROJECTS: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "only"
run = 'echo "::singletrack output url=http://web.example/$INPUT_VERSION::"'
[[projects.web.pipelines.broken.phases]]
name = "only"
run = "exit 3"
[[projects.api.pipelines.deploy.phases]]
name = "only"
run = "true"
"#;

/// What a command prints, where it goes well.
pub fn prints(server: &TestServer, args: &[&str]) -> String {
    let output = server.tool(args).env("SINGLETRACK_URL", &server.base).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command prints with `--json`, where it goes well.
pub fn json_of(server: &TestServer, args: &[&str]) -> Value {
    serde_json::from_str(&prints(server, &[args, &["--json"]].concat())).unwrap()
}

/// Runs a test on both engines that a server can have.
pub async fn on_each_engine(config: &str, test: impl AsyncFn(TestServer)) {
    test(TestServer::start(config)).await;
    let cluster = postgres::shared();
    let database = cluster.database().await;
    test(TestServer::start_on(&cluster.url(&database), config)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_is_told_with_commit_inputs_outputs_and_since_when() {
    on_each_engine(PROJECTS, async |server| {
        let told = prints(&server, &["current", "web"]);
        assert_eq!(told, "web: nothing is live yet: no deployment of it has succeeded\n");
        let wish = json!({ "commit": "abc123", "actor": "alice", "inputs": { "version": "7" } });
        let first = server.finished(&server.accepted(wish).await).await;
        let failed = server.finished(&server.accepted(json!({ "pipeline": "broken", "commit": "def456" })).await).await;
        assert_eq!((&first["status"], &failed["status"]), (&json!("SUCCEEDED"), &json!("FAILED")));

        let view = server.project().await;
        assert_eq!(view["current"], first);
        assert_eq!(view["lastOutcome"], failed);
        assert_eq!((&first["inputs"], &first["worker"].is_string()), (&json!({ "version": "7" }), &true));
        assert_eq!(json_of(&server, &["current", "web"]), json!({ "project": "web", "current": first }));
        assert_eq!(json_of(&server, &["current", "--project", "web"])["current"], first);
        let told = prints(&server, &["current", "web"]);
        assert!(told.starts_with("web#1 is live since "), "{told}");
        for line in
            ["source      abc123", "actor       alice", "input       version=7", "output      url=http://web.example/7"]
        {
            assert!(told.lines().any(|told| told == line), "{line}: {told}");
        }

        let all = json_of(&server, &["current"]);
        let lives = |project: &str| {
            let mut projects = all["projects"].as_array().unwrap().iter();
            projects.find(|it| it["project"] == project).map(|it| it["current"]["number"].clone()).unwrap()
        };
        assert_eq!((lives("web"), lives("api")), (json!(1), Value::Null));
        let table = prints(&server, &["current"]);
        assert!(
            table.lines().any(|line| line.starts_with("web") && line.contains("#1") && line.contains("alice")),
            "{table}"
        );
        let unknown = server.tool(&["current", "wbe"]).env("SINGLETRACK_URL", &server.base).output().unwrap();
        assert_eq!(unknown.status.code(), Some(2));
    })
    .await;
}

const GATED: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "only"
run = 'echo "deploying $SINGLETRACK_COMMIT $INPUT_VERSION"; flock --shared "$TEST_DIR/gate" true'
[[projects.web.pipelines.broken.phases]]
name = "only"
run = "exit 3"
"#;

/// Deploys this commit to its end, and answers its number.
async fn deployed(server: &TestServer, commit: &str) -> u64 {
    let wish = json!({ "commit": commit, "actor": "alice", "inputs": { "version": commit }, "onConflict": "queue" });
    let ended = server.finished(&server.accepted(wish).await).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    ended["number"].as_u64().unwrap()
}

/// Asks for a rollback.
async fn roll_back(server: &TestServer, mut body: Value) -> Value {
    body["leaveOpen"] = json!(true);
    let answer = server.post("/v1/projects/web/rollback", body).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.body
}

/// The error code with which a rollback is refused.
async fn refused(server: &TestServer, body: Value) -> String {
    let answer = server.post("/v1/projects/web/rollback", body).await;
    assert!(answer.status >= 400, "{}", answer.text);
    answer.refusal().1.to_owned()
}

/// The commit that is live.
async fn live(server: &TestServer) -> Value {
    server.project().await["current"]["commit"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_makes_the_success_before_the_live_one_live_and_the_next_rollback_goes_further_back() {
    on_each_engine(GATED, async |server| {
        assert_eq!(refused(&server, json!({})).await, "ROLLBACK_IMPOSSIBLE", "never deployed");
        deployed(&server, "a").await;
        assert_eq!(refused(&server, json!({})).await, "ROLLBACK_IMPOSSIBLE", "none before it");
        deployed(&server, "b").await;
        server.finished(&server.accepted(json!({ "pipeline": "broken", "commit": "x" })).await).await;
        deployed(&server, "c").await;

        let made = roll_back(&server, json!({ "reason": "it is slow", "actor": "bob" })).await;
        let back = server.finished(made["id"].as_str().unwrap()).await;
        assert_eq!(
            (&back["status"], &back["commit"], &back["inputs"]["version"]),
            (&json!("SUCCEEDED"), &json!("b"), &json!("b"))
        );
        assert_eq!((&back["retryOfDeployment"]["number"], &back["submittedBy"]["actor"]), (&json!(2), &json!("bob")));
        assert_eq!(live(&server).await, "b");
        // Not to the one that it went back from.
        let made = roll_back(&server, json!({})).await;
        server.finished(made["id"].as_str().unwrap()).await;
        assert_eq!(live(&server).await, "a");
        assert_eq!(refused(&server, json!({})).await, "ROLLBACK_IMPOSSIBLE", "nothing is before the first one");

        assert_eq!(refused(&server, json!({ "to": "3" })).await, "ROLLBACK_IMPOSSIBLE", "it failed");
        assert_eq!(refused(&server, json!({ "to": "1" })).await, "ROLLBACK_IMPOSSIBLE", "it is live already");
        assert_eq!(refused(&server, json!({ "to": "99" })).await, "NOT_FOUND");
        let made = roll_back(&server, json!({ "to": "web#4" })).await;
        server.finished(made["id"].as_str().unwrap()).await;
        assert_eq!(live(&server).await, "c");
        // What failed may have left a mixture, so that what is live may be deployed once more.
        server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
        let made = roll_back(&server, json!({ "to": "4" })).await;
        assert_eq!(server.finished(made["id"].as_str().unwrap()).await["commit"], "c");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_cancels_what_runs_goes_before_those_in_line_and_two_at_once_are_one() {
    on_each_engine(GATED, async |server| {
        deployed(&server, "a").await;
        deployed(&server, "b").await;
        server.close_gate();
        let running = server.accepted(json!({ "commit": "c" })).await;
        server.event(&running, |event| event["type"] == "log").await;
        let waiting = server.accepted(json!({ "commit": "d", "onConflict": "queue" })).await;

        let (one, other) = tokio::join!(
            roll_back(&server, json!({ "actor": "bob" })),
            roll_back(&server, json!({ "actor": "carol" }))
        );
        assert_eq!(one["id"], other["id"], "they want the same");
        let back = one["id"].as_str().unwrap();
        let stopped = server.finished(&running).await;
        assert_eq!((&stopped["error"]["code"], &stopped["supersededBy"]), (&json!("SUPERSEDED"), &one["id"]));
        server.event(back, |event| event["type"] == "log").await;
        // Another target is another rollback, and the newest one goes first.
        let further = roll_back(&server, json!({ "to": "2" })).await;
        assert_ne!(further["id"], one["id"]);
        assert_eq!(server.finished(back).await["status"], "CANCELLED");
        server.open_gate();
        let further = server.finished(further["id"].as_str().unwrap()).await;
        assert_eq!((&further["status"], &further["commit"]), (&json!("SUCCEEDED"), &json!("b")));
        server.finished(&waiting).await;
        let audit = server.get("/v1/audit?project=web").await.text;
        assert!(audit.contains("\"rollback\"") && audit.contains("rollback to #1"), "{audit}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_follows_its_rollback_and_ends_as_it_ends() {
    let server = TestServer::start(GATED);
    deployed(&server, "a").await;
    deployed(&server, "b").await;
    let run =
        |args: &[&str]| server.tool(args).env("SINGLETRACK_URL", &server.base).env("USER", "bob").output().unwrap();
    let output = run(&["rollback", "web", "--reason", "it is slow", "--json", "--no-pin"]);
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&result["commit"], &result["status"]), (&json!("a"), &json!("SUCCEEDED")));
    assert_eq!(result["submittedBy"], json!({ "identity": "local", "actor": "bob" }));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("web#3, a rollback to web#1 of alice at a, has the slot"), "{told}");
    assert!(told.contains("deploying a a"), "{told}");
    let output = run(&["rollback", "web"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("web#1 of alice at a is live, and no deployment of web succeeded before it"), "{told}");
    let output = run(&["rollback", "--to", "web#2", "--detach", "--no-pin"]);
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_stays_because_it_pauses_the_project_and_whoever_is_held_is_told_of_it() {
    on_each_engine(GATED, async |server| {
        deployed(&server, "a").await;
        deployed(&server, "b").await;
        server.close_gate();
        let running = server.accepted(json!({ "commit": "c" })).await;
        server.event(&running, |event| event["type"] == "log").await;
        let waiting = server.accepted(json!({ "commit": "d", "onConflict": "queue" })).await;
        let answer = server.post("/v1/projects/web/rollback", json!({ "reason": "it is slow", "actor": "bob" })).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        assert_eq!(server.finished(&running).await["error"]["code"], "SUPERSEDED");
        server.open_gate();
        assert_eq!(server.finished(&answer.id()).await["commit"], "a");
        // The one that waited, and the next push, are held.
        let later = server.submit(json!({ "commit": "e", "onConflict": "queue" })).await.id();
        let refused = server.submit(json!({ "commit": "f" })).await;
        assert_eq!(refused.refusal(), (409, "PROJECT_PAUSED"), "{}", refused.text);
        assert!(refused.text.contains("rolled back to #1 by bob: it is slow"), "{}", refused.text);
        let acts = server.get("/v1/audit").await.body["entries"].as_array().unwrap().clone();
        let of = |action: &str| acts.iter().filter(|entry| entry["action"] == action).count();
        assert_eq!((of("rollback"), of("pause"), of("override_pause")), (1, 1, 0), "it passes only its own pause");
        let view = server.project().await;
        assert_eq!((&view["hold"]["pin"], &view["hold"]["reason"]), (&json!(1), &json!("it is slow")), "{view}");
        assert_eq!(
            (&view["holder"], &view["lineLength"], &view["current"]["commit"]),
            (&Value::Null, &json!(2), &json!("a"))
        );
        for held in [&waiting, &later] {
            assert_eq!(server.deployment(held, "").await.body["status"], "PENDING");
        }
        // A refused rollback pauses nothing, and another one passes the pause.
        deny_nothing(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_says_so_ends_the_pause_of_a_rollback_and_goes_first() {
    on_each_engine(GATED, async |server| {
        deployed(&server, "a").await;
        deployed(&server, "b").await;
        let back = server.post("/v1/projects/web/rollback", json!({ "reason": "it is slow" })).await;
        server.finished(&back.id()).await;
        let held = server.accepted(json!({ "commit": "c", "onConflict": "queue" })).await;
        server.close_gate();
        let hotfix = server.accepted(json!({ "commit": "d", "onConflict": "queue", "overridePause": true })).await;
        server.event(&hotfix, |event| event["type"] == "log").await;
        // Whoever gets neither the slot nor a place ends nothing.
        let refused = server.submit(json!({ "commit": "e", "resume": true })).await;
        assert_eq!(refused.refusal(), (409, "DEPLOYMENT_IN_PROGRESS"), "{}", refused.text);
        assert_eq!(server.project().await["hold"]["pin"], json!(1), "it is held still");
        let fix = server.accepted(json!({ "commit": "f", "onConflict": "queue", "resume": true })).await;
        let view = server.project().await;
        assert_eq!((&view["hold"], &view["line"][0]["id"]), (&Value::Null, &json!(fix)), "{view}");
        server.open_gate();
        server.finished(&held).await;
        let started = async |id: &str| server.deployment(id, "").await.body["startedAt"].as_str().unwrap().to_owned();
        assert!(started(&fix).await < started(&held).await, "it goes before whoever was held");
        assert_eq!(server.project().await["current"]["commit"], "c");
        let audit = server.get("/v1/audit?action=resume").await.body;
        assert_eq!(audit["entries"].as_array().unwrap().len(), 1, "{audit}");
        assert!(audit["entries"][0]["detail"].as_str().unwrap().starts_with("with "), "{audit}");
    })
    .await;
}

/// A rollback that is refused leaves the pause as it is; the next one passes it.
async fn deny_nothing(server: &TestServer) {
    assert_eq!(refused(server, json!({ "to": "1", "reason": "again" })).await, "ROLLBACK_IMPOSSIBLE");
    assert_eq!(server.project().await["hold"]["reason"], "it is slow");
    let answer = server.post("/v1/projects/web/rollback", json!({ "to": "2", "reason": "b was right" })).await;
    assert_eq!(server.finished(&answer.id()).await["commit"], "b");
    let hold = server.project().await["hold"].clone();
    assert_eq!((&hold["pin"], &hold["reason"]), (&json!(2), &json!("b was right")));
}
