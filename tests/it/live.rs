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
