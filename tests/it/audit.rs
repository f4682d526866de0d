//! The audit log: who did what, from where, and with which request.

use std::{collections::BTreeMap, process::Command};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Answer, SINGLETRACK, TestServer, client_with, gated_config, postgres, send},
    live::{on_each_engine, prints},
};

/// Workers fall silent soon.
const SHORT: &str = "[limits]\nlease = \"2s\"\nheartbeat = \"300ms\"\nkill_budget = \"500ms\"\nlock_delay = \"1s\"\n";

/// A token of this name, and its table with `more` in it.
fn token(name: &str, more: &str) -> (String, String) {
    let made = Command::new(SINGLETRACK).args(["token", "new", "--name", name]).output().unwrap();
    assert!(made.status.success());
    let (token, told) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    let table = told[told.find("[[tokens]]").unwrap()..].trim_end().to_owned();
    (token.trim().to_owned(), format!("{table}\n{more}\n"))
}

/// Somebody with a token.
struct Person<'a> {
    server: &'a TestServer,
    client: reqwest::Client,
}

impl Person<'_> {
    fn with<'a>(server: &'a TestServer, token: &str) -> Person<'a> {
        Person { server, client: client_with(token) }
    }

    async fn get(&self, path: &str) -> Answer {
        send(self.client.get(format!("{}{path}", self.server.base))).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.client.post(format!("{}{path}", self.server.base)).json(&body)).await
    }

    /// The lines of the audit log, the last one first.
    async fn audit(&self, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/audit?limit=500{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body["entries"].as_array().unwrap().clone()
    }
}

/// What the server tells on a page without a token.
async fn lines(server: &TestServer, query: &str) -> Vec<Value> {
    let answer = server.get(&format!("/v1/audit?limit=500{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["entries"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_tokens_the_log_tells_who_did_what_from_where_and_with_which_request() {
    let ((alice, first), (bob, second)) = (token("alice", ""), token("bob", "scopes = [\"read\", \"submit\"]"));
    on_each_engine(&gated_config(&format!("{first}{second}")), async |server| {
        let (alice, bob) = (Person::with(&server, &alice), Person::with(&server, &bob));
        let deployments = "/v1/projects/web/deployments";
        let submitted = bob.post(deployments, json!({ "executor": "client", "claim": true, "actor": "alice" })).await;
        assert_eq!(submitted.status, 202, "{}", submitted.text);
        let one = format!("{deployments}/{}", submitted.id());
        let refused = bob.post(&format!("{one}/cancel"), json!({})).await;
        assert_eq!(refused.refusal(), (403, "MISSING_SCOPE"));
        let cancelled = alice.post(&format!("{one}/cancel"), json!({ "reason": "wrong branch" })).await;
        assert_eq!(cancelled.status, 202, "{}", cancelled.text);
        let release = json!({ "reason": "the runner is gone", "evenIfAlive": true });
        let released = alice.post("/v1/projects/web/release", release).await;
        assert_eq!(released.status, 200, "{}", released.text);

        assert_eq!(bob.get("/v1/audit").await.refusal(), (403, "MISSING_SCOPE"));
        let log = alice.audit("").await;
        let of = |answer: &Answer, action: &str| {
            let id = answer.header("x-request-id").to_owned();
            let line = log.iter().find(|line| line["requestId"] == *id && line["action"] == action);
            let line = line.unwrap_or_else(|| panic!("no {action} of request {id}: {log:#?}"));
            assert_eq!((&line["address"], &line["project"]), (&json!("127.0.0.1"), &json!("web")), "{line}");
            line.clone()
        };
        let submit = of(&submitted, "submit");
        assert_eq!((&submit["caller"], &submit["deploymentNumber"]), (&json!("token:bob"), &json!(1)), "{submit}");
        assert_eq!(submit["deploymentId"], submitted.id());
        let cancel = of(&cancelled, "cancel");
        assert_eq!((&cancel["caller"], &cancel["detail"]), (&json!("token:alice"), &json!("wrong branch")), "{cancel}");
        let release = of(&released, "release");
        assert_eq!((&release["caller"], &release["deploymentNumber"]), (&json!("token:alice"), &json!(1)), "{release}");
        assert_eq!(release["detail"], "the runner is gone");
        let attempt = of(&refused, "refused");
        assert_eq!((&attempt["caller"], &attempt["count"]), (&json!("token:bob"), &json!(1)), "{attempt}");
        assert!(attempt["detail"].as_str().unwrap().starts_with("MISSING_SCOPE: POST "), "{attempt}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_narrow_the_log_and_each_is_checked() {
    on_each_engine(&gated_config(""), async |server| {
        let first = server.accepted(json!({ "pipeline": "quick" })).await;
        server.finished(&first).await;
        let other =
            server.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await.id();
        let cancel = format!("/v1/projects/other/deployments/{other}/cancel");
        assert_eq!(server.post(&cancel, json!({})).await.status, 202);
        let actions = async |query: &str| -> Vec<(String, String)> {
            let word = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
            lines(&server, query).await.iter().map(|line| (word(line, "action"), word(line, "project"))).collect()
        };
        let all = [("cancel", "other"), ("submit", "other"), ("submit", "web")];
        let expected = |wanted: &[usize]| -> Vec<(String, String)> {
            wanted.iter().map(|at| (all[*at].0.to_owned(), all[*at].1.to_owned())).collect()
        };
        for (query, wanted) in [
            ("", &[0, 1, 2][..]),
            ("&project=web", &[2]),
            ("&project=nobody", &[]),
            (&format!("&deployment={other}"), &[0, 1]),
            (&format!("&deployment={other}&project=web"), &[]),
            ("&action=submit", &[1, 2]),
            ("&action=submit&project=other", &[1]),
            ("&caller=local", &[0, 1, 2]),
            ("&caller=token:ci", &[]),
            ("&since=1h", &[0, 1, 2]),
            ("&since=2100-01-01", &[]),
            ("&until=2100-01-01", &[0, 1, 2]),
            ("&until=1h", &[]),
        ] {
            assert_eq!(actions(query).await, expected(wanted), "{query}");
        }
        for query in
            ["since=yesterday", "until=x", "limit=0", "limit=501", "cursor=t1", "deployment=1", "action=", "who=me"]
        {
            let refused = server.get(&format!("/v1/audit?{query}")).await;
            assert_eq!(refused.status, 400, "{query}: {}", refused.text);
        }
        assert_eq!(server.get("/v1/audit?project=%2Fx").await.refusal(), (400, "INVALID_PROJECT"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_each_line_once_while_lines_are_added() {
    on_each_engine(&gated_config(""), async |server| {
        let submit = async || {
            let id = server.accepted(json!({ "pipeline": "quick" })).await;
            server.finished(&id).await;
        };
        for _ in 0..20 {
            submit().await;
        }
        let before: Vec<_> = lines(&server, "").await.iter().map(|line| line["number"].as_u64().unwrap()).collect();
        assert_eq!(before.len(), 20);
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/v1/audit?limit=6&project=web{cursor}")).await.body;
            paged.extend(page["entries"].as_array().unwrap().iter().map(|line| line["number"].as_u64().unwrap()));
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            submit().await;
        }
        assert_eq!(paged, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_refused_attempts_are_a_few_lines_that_say_how_many_there_were() {
    const TASKS: usize = 8;
    const EACH: usize = 1_250;
    let (admin, table) = token("admin", "");
    on_each_engine(&gated_config(&table), async |server| {
        let begin = Person::with(&server, &admin).audit("").await.len();
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..TASKS {
            let url = format!("{}/v1/projects/web/release", server.base);
            sending.spawn(async move {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                for number in 0..EACH {
                    let attempt = client.post(&url).bearer_auth(format!("st_wrong{number}"));
                    let status = attempt.send().await.unwrap().status().as_u16();
                    assert!([401, 429].contains(&status), "{status}");
                }
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent.unwrap();
        }
        let mut log = Vec::new();
        // A moment's attempts may be written while others come.
        for _ in 0..3 {
            log = Person::with(&server, &admin).audit("&action=refused").await;
        }
        let count: u64 = log.iter().map(|line| line["count"].as_u64().unwrap()).sum();
        assert_eq!(usize::try_from(count).unwrap(), TASKS * EACH, "{log:#?}");
        assert!(log.len() - begin <= 60, "{} lines", log.len());
        assert!(log.iter().all(|line| line["caller"].is_null() && line["address"] == "127.0.0.1"), "{log:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_some_projects_reads_the_lines_of_these_alone() {
    let ((all, first), (some, second)) = (token("all", ""), token("some", "projects = [\"web\"]"));
    on_each_engine(&gated_config(&format!("{first}{second}")), async |server| {
        let (all, some) = (Person::with(&server, &all), Person::with(&server, &some));
        for project in ["web", "secret"] {
            let submitted = all
                .post(&format!("/v1/projects/{project}/deployments"), json!({ "executor": "client", "claim": true }))
                .await;
            assert_eq!(submitted.status, 202, "{}", submitted.text);
        }
        assert_eq!(server.get("/v1/projects").await.refusal(), (401, "UNAUTHORIZED"));
        let foreign = some.get("/v1/projects/secret").await;
        assert_eq!(foreign.refusal(), (404, "NOT_FOUND"));
        let log = all.audit("").await;
        let line = log.iter().find(|line| line["requestId"] == *foreign.header("x-request-id")).expect("it is told");
        assert_eq!(
            (&line["action"], &line["caller"], &line["project"]),
            (&json!("refused"), &json!("token:some"), &json!("secret"))
        );
        assert!(log.iter().any(|line| line["project"].is_null()), "what names no project is told to those who see all");
        let own = some.audit("").await;
        assert!(!own.is_empty() && own.iter().all(|line| line["project"] == "web"), "{own:#?}");
        for query in ["&project=secret", "&project=nobody"] {
            assert_eq!(some.audit(query).await, Vec::<Value>::new(), "{query}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_write_and_read_one_log() {
    let config = gated_config("");
    let database = postgres::shared().store().await;
    let (a, b) = (TestServer::start_on(&database, &config), TestServer::start_on(&database, &config));
    let path = "/v1/projects/other/deployments";
    let submitted = a.post(path, json!({ "executor": "client", "claim": true })).await;
    let cancelled = b.post(&format!("{path}/{}/cancel", submitted.id()), json!({ "reason": "at b" })).await;
    let refused = a.request(Method::GET, "/v1/projects").header("Host", "evil.example");
    let refused = send(refused).await;
    assert_eq!(refused.refusal(), (403, "HOST_NOT_ALLOWED"));
    // Each server writes its own refused attempts before it answers.
    let (from_a, from_b) = (lines(&a, "").await, lines(&b, "").await);
    assert_eq!(from_a, from_b);
    let requests: Vec<_> = from_a.iter().rev().map(|line| line["requestId"].as_str().unwrap()).collect();
    let expected = [&submitted, &cancelled, &refused].map(|answer| answer.header("x-request-id").to_owned());
    assert_eq!(requests, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_or_removes_a_line_on_postgresql() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let server = TestServer::start_on(&cluster.url(&database), &gated_config(""));
    server.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
    let client = cluster.client(&database).await;
    client.batch_execute("SET search_path TO singletrack").await.unwrap();
    for tampering in ["UPDATE audit SET detail = 'x'", "DELETE FROM audit", "TRUNCATE audit"] {
        let refused = client.batch_execute(tampering).await.unwrap_err();
        let told = refused.as_db_error().unwrap().message().to_owned();
        assert!(told.contains("the audit log is appended only"), "{tampering}: {told}");
    }
    assert_eq!(lines(&server, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_takes_and_what_the_reaper_ends_is_told() {
    let config = format!("{SHORT}\n[projects.web]\nrun_by = \"agents\"\n");
    on_each_engine(&config, async |server| {
        let id = server.accepted(json!({})).await;
        let wish = json!({ "worker": "builder-1", "claimId": "c1", "projects": { "web": ["deploy"] } });
        let claimed = server.post("/v1/claims?maxWaitSeconds=10", wish).await;
        assert_eq!(claimed.status, 200, "{}", claimed.text);
        let ended = server.finished(&id).await;
        assert_eq!(ended["error"]["code"], "WORKER_LOST");
        let path = format!("/v1/projects/web/deployments/{id}/finish");
        let late = server.request(Method::POST, &path).json(&json!({ "status": "SUCCEEDED" }));
        let secret = claimed.body["lease"]["secret"].as_str().unwrap();
        let late = send(late.header("Singletrack-Lease", secret)).await;
        assert_eq!(late.refusal(), (409, "LEASE_LOST"));
        let log = lines(&server, &format!("&deployment={id}")).await;
        let told: Vec<_> = log
            .iter()
            .rev()
            .map(|line| ["action", "caller", "detail"].map(|name| line[name].as_str().unwrap().to_owned()))
            .collect();
        let told: Vec<_> = told.iter().map(|line| line.each_ref().map(String::as_str)).collect();
        assert_eq!(
            told[..3],
            [["submit", "local", ""], ["claim", "local", "builder-1"], ["reap", "server", "WORKER_LOST"]]
        );
        assert_eq!(told[3][..2], ["late_result", "local"], "{told:?}");
        // A secret that is none leaves no line, however often it comes.
        let nothing = "0".repeat(64);
        let forged = server.request(Method::POST, &path).json(&json!({ "status": "SUCCEEDED" }));
        assert_eq!(send(forged.header("Singletrack-Lease", nothing)).await.refusal(), (409, "LEASE_LOST"));
        assert_eq!(lines(&server, &format!("&deployment={id}")).await.len(), 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_a_table_for_people_and_one_object_a_line_for_programs() {
    on_each_engine(&gated_config(""), async |server| {
        assert_eq!(prints(&server, &["audit"]), "no lines\n");
        for number in 1..=3 {
            let id = server.accepted(json!({ "pipeline": "quick", "actor": "alice" })).await;
            server.finished(&id).await;
            assert!(server.get("/v1/audit").await.body["entries"][0]["deploymentNumber"] == number);
        }
        server.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
        let reason = json!({ "reason": "nobody is there", "evenIfAlive": true });
        assert_eq!(server.post("/v1/projects/other/release", reason).await.status, 200);
        let table = prints(&server, &["audit"]);
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["WHEN", "WHO", "ACTION", "WHAT", "DETAIL", "FROM", "REQUEST"]);
        assert!(
            table.lines().nth(1).unwrap().contains("local  release  other#1  nobody is there  127.0.0.1"),
            "{table}"
        );
        assert_eq!(words.len(), 6, "{table}");
        let objects: Vec<Value> = prints(&server, &["audit", "--json", "--project", "web", "--limit", "2"])
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let numbers: Vec<_> = objects.iter().map(|line| line["deploymentNumber"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [3, 2]);
        let of_one = prints(&server, &["audit", "--project", "web", "--deployment", "2", "--since", "1h", "--json"]);
        assert_eq!(of_one.lines().count(), 1, "{of_one}");
        let more = prints(&server, &["audit", "--limit", "1", "--action", "submit", "--caller", "local"]);
        assert!(more.contains("there are more"), "{more}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_told_from_its_creation_to_its_use_after_it_was_revoked() {
    let (admin, table) = token("admin", "");
    on_each_engine(&gated_config(&table), async |server| {
        let admin = Person::with(&server, &admin);
        let made = admin.post("/v1/tokens", json!({ "name": "temp", "scopes": ["read"] })).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let temp = Person::with(&server, made.body["token"].as_str().unwrap());
        assert_eq!(temp.get("/v1/projects").await.status, 200);
        assert_eq!(admin.post("/v1/tokens/temp/revoke", json!({})).await.status, 200);
        assert_eq!(temp.get("/v1/projects").await.refusal(), (401, "TOKEN_REVOKED"));
        let log = admin.audit("").await;
        let told: Vec<_> = log.iter().rev().map(|line| (line["action"].as_str().unwrap(), &line["caller"])).collect();
        let (by_admin, by_temp) = (json!("token:admin"), json!("token:temp"));
        assert_eq!(told, [("token_create", &by_admin), ("token_revoke", &by_admin), ("refused", &by_temp)]);
        assert!(log.iter().all(|line| line["project"].is_null()), "{log:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_told_with_what_it_changed_and_whoever_asked_for_it() {
    on_each_engine(&gated_config(""), async |server| {
        server.configure(&gated_config("[projects.new]\nline_limit = 3\n"));
        let reloaded = server.post("/v1/admin/reload", json!({})).await;
        assert_eq!(reloaded.status, 200, "{}", reloaded.text);
        server.configure("nonsense = true\n");
        assert_eq!(server.post("/v1/admin/reload", json!({})).await.refusal(), (409, "CONFIG_INVALID"));
        server.configure(&gated_config(""));
        server.signal(rustix::process::Signal::HUP);
        let told = loop {
            let told = lines(&server, "&action=reload").await;
            if told.len() == 3 {
                break told;
            }
            tokio::task::yield_now().await;
        };
        let told: Vec<_> =
            told.iter().map(|line| ["caller", "detail"].map(|name| line[name].as_str().unwrap())).collect();
        assert_eq!(told[0], ["server", "SIGHUP: projects removed: new"]);
        assert!(
            told[1][0] == "local" && told[1][1].starts_with("nothing has changed: ") && told[1][1].contains("nonsense")
        );
        assert_eq!(told[2], ["local", "projects added: new"]);
    })
    .await;
}

/// What becomes of each call that may change something: the line that it leaves, or why it leaves none.
const CALLS: &[(&str, &str, Result<&str, &str>)] = &[
    ("post", "/v1/projects/{project}/deployments", Ok("submit")),
    ("post", "/v1/projects/{project}/deployments/{id}/cancel", Ok("cancel")),
    (
        "post",
        "/v1/projects/{project}/deployments/{id}/heartbeat",
        Err("a sign of life of the lease's holder, each second"),
    ),
    ("post", "/v1/projects/{project}/deployments/{id}/reports", Err("the holder's output, which the deployment keeps")),
    (
        "post",
        "/v1/projects/{project}/deployments/{id}/finish",
        Err("the deployment keeps its end; what comes too late leaves late_result"),
    ),
    ("post", "/v1/projects/{project}/pause", Ok("pause")),
    ("post", "/v1/projects/{project}/resume", Ok("resume")),
    ("put", "/v1/projects/{project}/order", Ok("order")),
    ("delete", "/v1/projects/{project}", Ok("forget")),
    ("post", "/v1/projects/{project}/release", Ok("release")),
    ("post", "/v1/projects/{project}/rollback", Ok("rollback")),
    ("post", "/v1/projects/{project}/deployments/{id}/redact", Ok("redact")),
    ("post", "/v1/claims", Ok("claim")),
    ("post", "/v1/admin/reload", Ok("reload")),
    ("post", "/v1/notifications/{id}/retry", Ok("notification_retry")),
    ("post", "/v1/tokens", Ok("token_create")),
    ("post", "/v1/tokens/{token}/revoke", Ok("token_revoke")),
    ("put", "/v1/artifacts/{sha256}", Err("bytes under their own name; the submit that uses them names them")),
];

#[test]
fn every_call_that_changes_something_leaves_a_line_or_says_why_not() {
    let known: BTreeMap<_, _> = CALLS.iter().map(|(method, path, line)| ((*path, *method), *line)).collect();
    let served: Vec<_> = singletrack::http::route_table()
        .into_iter()
        .flat_map(|(path, methods)| methods.iter().map(move |(method, _)| (path, *method)))
        .filter(|(_, method)| !["get", "head"].contains(method))
        .collect();
    let unknown: Vec<_> = served.iter().filter(|call| !known.contains_key(*call)).collect();
    assert!(unknown.is_empty(), "say in CALLS what line of the audit log these leave: {unknown:?}");
    // The actions that are promised stand in the code that records them, and on the page for operators.
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let code: String = crate::tidy::Source::all().into_iter().map(|source| source.text).collect();
    for action in served.iter().filter_map(|call| known[call].ok()) {
        assert!(code.contains(&format!("\"{action}\"")), "no code records the action {action}");
        assert!(page.contains(&format!("| `{action}` |")), "docs/operations.md does not explain the action {action}");
    }
}
