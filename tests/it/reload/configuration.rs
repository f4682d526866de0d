//! What a reload changes, and what it leaves alone.

use std::{fs, process::Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Place, TestServer, a_token, client_with, gated_config, send};

/// A pipeline `deploy` of `web` that waits at the gate and then writes this word.
fn witness(word: &str) -> String {
    format!(
        r#"
[projects.web.pipelines.deploy]
timeout = "5m"
[[projects.web.pipelines.deploy.phases]]
name = "gate"
run = """
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
"""
[[projects.web.pipelines.deploy.phases]]
name = "tell"
run = 'echo {word} >> "$TEST_DIR/witness"'
"#
    )
}

async fn reload(server: &TestServer) -> Answer {
    send(server.request(Method::POST, "/v1/admin/reload")).await
}

fn told(server: &TestServer) -> String {
    fs::read_to_string(server.path("witness")).unwrap_or_default()
}

#[tokio::test]
async fn what_runs_keeps_its_definition_and_what_waits_gets_the_one_at_its_claim() {
    let server = TestServer::start(&witness("old"));
    server.close_gate();
    let first = server.at_the_gate().await;
    let second = server.accepted(json!({ "onConflict": "queue" })).await;
    server.configure(&witness("new"));
    let answer = reload(&server).await;
    assert_eq!(
        answer.body,
        json!({
            "projects": { "added": [], "removed": [], "changed": ["web"] }, "keys": [], "waitsForRestart": [],
        })
    );
    server.open_gate();
    for id in [first, second] {
        assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    }
    assert_eq!(told(&server), "old\nnew\n");
}

#[tokio::test]
async fn a_signal_and_the_command_read_the_file_again_as_the_route_does() {
    let server = TestServer::start(&gated_config(""));
    assert_eq!(server.figure("config_last_reload_successful").await, 1.0);
    let with = |name: &str| gated_config(&format!("[projects.{name}]\nline = \"latest\""));
    server.reload_by_signal(&with("api"), |log| log.contains("projects_added=api")).await;
    assert_eq!(server.get("/v1/projects/api").await.body["policy"]["line"], "latest");
    server.configure(&with("docs"));
    let command = server.tool(&["reload", "--server", &server.base]).stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(command.stdout).unwrap();
    assert_eq!((command.status.code(), text.as_str()), (Some(0), "added projects: docs\nremoved projects: api\n"));
    assert_eq!(server.get("/v1/projects/api").await.refusal(), (404, "NOT_FOUND"));
    let again = server.tool(&["reload", "--server", &server.base]).stdout(Stdio::piped()).output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "read again: nothing has changed\n");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_every_problem_is_told_as_check_config_tells_it() {
    let server = TestServer::start(&gated_config(""));
    let read_at = server.figure("config_last_reload_success_timestamp_seconds").await;
    // A limit that contradicts another one, and an unknown key.
    let bad = gated_config("max_runing = 3\n[limits]\nlease = \"10s\"\nheartbeat = \"5s\"\n[projects.api]");
    server.reload_by_signal(&bad, |log| log.matches("nothing has changed").count() >= 2).await;
    let check = server.tool(&["check-config", "singletrack.toml"]).output().unwrap();
    assert_eq!(check.status.code(), Some(78));
    let checked = String::from_utf8(check.stderr).unwrap();
    let answer = reload(&server).await;
    assert_eq!(answer.refusal(), (409, "CONFIG_INVALID"), "{}", answer.text);
    let problems = answer.body["problems"].as_array().unwrap();
    assert!(problems.len() >= 2, "{}", answer.text);
    for problem in problems {
        let problem = problem.as_str().unwrap();
        assert!(checked.contains(problem), "{problem} is not in {checked}");
        assert!(server.log().contains(problem), "{problem} is not in the log");
    }
    assert_eq!(server.figure("config_last_reload_successful").await, 0.0);
    assert_eq!(server.figure("config_last_reload_success_timestamp_seconds").await, read_at);
    assert_eq!(server.get("/v1/projects/api").await.status, 404);
    assert_eq!(server.finished(&server.accepted(json!({ "pipeline": "quick" })).await).await["status"], "SUCCEEDED");

    let command = server.tool(&["reload", "--server", &server.base]).output().unwrap();
    let text = String::from_utf8(command.stderr).unwrap();
    assert_eq!(command.status.code(), Some(2), "{text}");
    assert!(problems.iter().all(|problem| text.contains(problem.as_str().unwrap())), "{text}");

    server.configure(&gated_config("[projects.api]"));
    assert_eq!(reload(&server).await.body["projects"]["added"], json!(["api"]));
    assert_eq!(server.figure("config_last_reload_successful").await, 1.0);
}

#[tokio::test]
async fn a_file_that_is_gone_is_no_empty_configuration() {
    let server = TestServer::start(&gated_config(""));
    fs::remove_file(server.path("singletrack.toml")).unwrap();
    let answer = reload(&server).await;
    assert_eq!(answer.refusal(), (409, "CONFIG_INVALID"), "{}", answer.text);
    assert_eq!(server.get("/v1/projects/web").await.status, 200);
}

#[tokio::test]
async fn keys_that_only_a_start_reads_are_named_until_the_restart_and_the_rest_holds_at_once() {
    let server = TestServer::start(&gated_config(""));
    let changed =
        "work_dir = \"elsewhere\"\nmax_running = 7\n[postgres]\nconnections = 3\n[artifacts]\nmax_bytes = \"1B\"";
    server.configure(&gated_config(changed));
    let answer = reload(&server).await;
    // The store and the address come from flags, which win over the file as they did at the start.
    assert_eq!(answer.body["waitsForRestart"], json!(["postgres", "work_dir"]), "{}", answer.text);
    assert_eq!(answer.body["keys"], json!(["max_running", "artifacts"]));
    let path = format!("/v1/artifacts/{}", "0".repeat(64));
    let upload = send(server.request(Method::PUT, &path).body("two")).await;
    assert_eq!(upload.refusal(), (413, "BODY_TOO_LARGE"), "{}", upload.text);
    let again = reload(&server).await;
    assert_eq!((&again.body["waitsForRestart"], &again.body["keys"]), (&json!(["postgres", "work_dir"]), &json!([])));
}

#[tokio::test]
async fn tokens_of_the_new_file_count_at_once_and_those_that_left_it_no_longer() {
    let ((old, old_table), (new, new_table)) = (a_token(), a_token());
    let mut server = TestServer::start(&gated_config(&old_table));
    server.client = client_with(&old);
    server.configure(&gated_config(&format!("allowed_hosts = [\"deploys.example.com\"]\n{new_table}")));
    assert_eq!(reload(&server).await.body["keys"], json!(["allowed_hosts", "tokens"]));
    assert_eq!(server.get("/v1/projects").await.refusal(), (401, "TOKEN_REVOKED"));
    server.client = client_with(&new);
    assert_eq!(server.get("/v1/projects").await.status, 200);
    let elsewhere = server.request(Method::GET, "/v1/projects").header("Host", "other.example.com");
    assert_eq!(send(elsewhere).await.refusal(), (403, "HOST_NOT_ALLOWED"));
}

#[tokio::test]
async fn the_last_token_cannot_leave_while_other_machines_can_call() {
    let (token, table) = a_token();
    let mut server = TestServer::start_at(Place::at("0.0.0.0"), "sqlite:test.db", &gated_config(&table));
    server.client = client_with(&token);
    server.base = server.base.replace("0.0.0.0", "127.0.0.1");
    server.configure(&gated_config(""));
    let answer = reload(&server).await;
    assert_eq!(answer.refusal(), (409, "CONFIG_INVALID"), "{}", answer.text);
    assert!(answer.text.contains("without tokens"), "{}", answer.text);
    assert_eq!(server.get("/v1/projects").await.status, 200, "the token still counts");
}

#[tokio::test]
async fn a_project_that_leaves_the_file_is_served_on_where_something_runs_or_waits() {
    let server = TestServer::start(&gated_config("[limits]\nunclaimed = \"2s\""));
    server.close_gate();
    let running = server.at_the_gate().await;
    let waiting = server.accepted(json!({ "onConflict": "queue", "pipeline": "quick" })).await;
    server.configure("[limits]\nunclaimed = \"2s\"\n[projects.api]");
    assert_eq!(reload(&server).await.body["projects"]["removed"], json!(["web"]));
    assert_eq!(server.project().await["lineLength"], 1, "it can still be looked at");
    assert_eq!(server.submit(json!({ "pipeline": "quick" })).await.refusal(), (404, "NOT_FOUND"));
    server.open_gate();
    assert_eq!(server.finished(&running).await["status"], "SUCCEEDED");
    let ended = server.finished(&waiting).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("FAILED"), &json!("UNCLAIMED")), "{ended}");
    let why = ended["error"]["message"].as_str().unwrap();
    assert!(why.contains("no pipeline quick of web any more"), "{why}");
}

#[tokio::test]
async fn a_pipeline_that_comes_back_in_time_runs_what_waited_for_it() {
    let server = TestServer::start(&gated_config(""));
    server.configure("[projects.api]");
    server.close_gate();
    let running = server.at_the_gate().await;
    let waiting = server.accepted(json!({ "onConflict": "queue", "pipeline": "quick" })).await;
    assert_eq!(reload(&server).await.status, 200);
    server.open_gate();
    assert_eq!(server.finished(&running).await["status"], "SUCCEEDED");
    assert_eq!(server.deployment(&waiting, "").await.body["status"], "PENDING", "nobody can run it");
    server.configure(&gated_config(""));
    assert_eq!(reload(&server).await.status, 200);
    assert_eq!(server.finished(&waiting).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn more_places_start_what_waits_for_a_place_at_once() {
    let two = "[[projects.api.pipelines.deploy.phases]]\nname = \"only\"\nrun = \"true\"";
    let server = TestServer::start(&gated_config(&format!("max_running = 1\n{two}")));
    server.close_gate();
    let first = server.at_the_gate().await;
    let second = server.post("/v1/projects/api/deployments", json!({})).await.id();
    server.configure(&gated_config(&format!("max_running = 2\n{two}")));
    assert_eq!(reload(&server).await.body["keys"], json!(["max_running"]));
    let ended = server.get(&format!("/v1/projects/api/deployments/{second}/completion?maxWaitSeconds=60")).await;
    assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);
    server.open_gate();
    assert_eq!(server.finished(&first).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_parked_poll_keeps_its_place_when_attendance_gets_shorter() {
    let server = TestServer::gated_with("[limits]\nattendance = \"6s\"");
    let holder = server.at_the_gate().await;
    let ticket = server.ticket("a-key").await;
    let (ended, ()) = tokio::join!(server.deployment(&ticket, "/turn?maxWaitSeconds=60"), async {
        server.parked(1).await;
        server.configure(&gated_config("[limits]\nattendance = \"1s\"\nfallback_poll = \"500ms\""));
        assert_eq!(reload(&server).await.body["keys"], json!(["limits"]));
        // Longer than the new limit, and than the two seconds after which the poll is noted anew.
        tokio::time::sleep(std::time::Duration::from_secs(8)).await;
        server.open_gate();
    });
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("PENDING")), "{}", ended.text);
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn only_known_projects_are_taken_where_the_configuration_says_so() {
    let ((all, all_table), (narrow, narrow_table)) = (a_token(), a_token());
    let narrow_table = narrow_table.replace("\"ci\"", "\"narrow\"");
    let tables = format!("{all_table}\n{narrow_table}\nprojects = [\"wbe\", \"api\"]\n[projects.api]");
    let mut server = TestServer::start(&gated_config(&tables));
    server.client = client_with(&all);
    // Before, any name works for `run`.
    let run = |name: &str, token: &str| {
        let args = ["run", "--project", name, "--server", &server.base, "--", "true"];
        server.tool(&args).env("SINGLETRACK_TOKEN", token).output().unwrap()
    };
    assert_eq!(run("made-before", &all).status.code(), Some(0));
    server.configure(&gated_config(&format!("known_projects_only = true\n{tables}")));
    assert_eq!(reload(&server).await.body["keys"], json!(["known_projects_only"]));
    for body in [json!({}), json!({ "executor": "client", "claim": true }), json!({ "onConflict": "queue" })] {
        for path in ["/v1/projects/wbe/deployments", "/v1/projects/wbe/deployments?dryRun=true"] {
            let refused = server.post(path, body.clone()).await;
            assert_eq!(refused.refusal(), (404, "UNKNOWN_PROJECT"), "{body}: {}", refused.text);
            assert!(refused.text.contains("did you mean 'web'?"), "{}", refused.text);
        }
    }
    let refused = run("wbe", &all);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("did you mean 'web'?") && text.contains("UNKNOWN_PROJECT"), "{text}");
    // Nobody learns the name of a project that its token may not see.
    let text = String::from_utf8(run("wbe", &narrow).stderr).unwrap();
    assert!(!text.contains("'web'") && text.contains("api"), "{text}");
    let names: Vec<Value> = server.get("/v1/projects").await.body["projects"].as_array().unwrap().clone();
    let names: Vec<_> = names.iter().map(|project| project["project"].as_str().unwrap()).collect();
    assert_eq!(names, ["api", "made-before", "web"], "nothing was made");
    // What was made before can be looked at, and gets no new deployments.
    assert_eq!(
        server.get("/v1/projects/made-before/deployments").await.body["deployments"].as_array().unwrap().len(),
        1
    );
    assert_eq!(run("made-before", &all).status.code(), Some(2));
    assert_eq!(run("web", &all).status.code(), Some(0));
}

#[tokio::test]
async fn what_waits_is_served_on_when_its_name_is_no_longer_known() {
    let server = TestServer::start("[projects.api]");
    let command = |project: &str, script: &str| {
        let args = ["run", "--project", project, "--server", &server.base, "--", "sh", "-c", script];
        let mut command = server.tool(&args);
        command.stderr(Stdio::null()).stdout(Stdio::null());
        command
    };
    server.close_gate();
    let mut first = command("free", "flock --shared \"$TEST_DIR/gate\" true").spawn().unwrap();
    let holder = || async { server.get("/v1/projects/free").await.body };
    while holder().await["holder"]["status"] != "RUNNING" {
        tokio::task::yield_now().await;
    }
    let mut second = command("free", "true").spawn().unwrap();
    while holder().await["lineLength"] != 1 {
        tokio::task::yield_now().await;
    }
    server.configure("known_projects_only = true\n[projects.api]");
    assert_eq!(reload(&server).await.status, 200);
    assert_eq!(command("free", "true").status().unwrap().code(), Some(2), "a newcomer is refused");
    server.open_gate();
    assert_eq!(first.wait().unwrap().code(), Some(0), "what runs goes on");
    assert_eq!(second.wait().unwrap().code(), Some(0), "what waits is served");
}
