//! What is counted and timed, and where it stands.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Scraped, scraped_until};
use crate::harness::{Answer, TestServer, gated_config, send};

/// Submits to a project as a client that does the work itself.
async fn claimed(server: &TestServer, project: &str, body: Value) -> Answer {
    let mut wish = json!({ "executor": "client", "claim": true });
    wish.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let path = format!("/v1/projects/{project}/deployments");
    let request = server.request(Method::POST, &path).header("Idempotency-Key", wish.to_string().replace(' ', ""));
    send(request.json(&wish)).await
}

async fn worker_call(server: &TestServer, project: &str, id: &str, call: &str, secret: &str, body: Value) -> Answer {
    let path = format!("/v1/projects/{project}/deployments/{id}/{call}");
    send(server.request(Method::POST, &path).header("Singletrack-Lease", secret).json(&body)).await
}

#[tokio::test]
async fn every_series_is_there_before_anything_has_happened_and_counts_nothing() {
    let server = TestServer::start(&gated_config(""));
    let scraped = Scraped::of(&server).await;
    for name in [
        "deployment_wait_seconds_count",
        "deployment_duration_seconds_count",
        "deployments_submitted_total",
        "submit_conflicts_total",
        "line_length",
        "line_longest_wait_seconds",
        "slot_held_seconds",
        "agents",
    ] {
        for project in ["web", "_other"] {
            assert_eq!(scraped.value(&format!("singletrack_{name}"), &[("project", project)]), 0.0, "{name}");
        }
    }
    for (status, code) in [("SUCCEEDED", ""), ("FAILED", "WORKER_LOST"), ("CANCELLED", "SUPERSEDED")] {
        let labels = [("status", status), ("code", code), ("project", "web")];
        assert_eq!(scraped.value("singletrack_deployments_finished_total", &labels), 0.0);
    }
    for (name, label, values) in [
        ("slots_held", "state", &["reserved", "ready", "running"][..]),
        ("projects_held", "kind", &["pause", "freeze", "configuration"]),
    ] {
        for value in values {
            let labels = [("project", "web"), (label, *value)];
            assert_eq!(scraped.value(&format!("singletrack_{name}"), &labels), 0.0);
        }
    }
    for (name, label, values) in [
        ("cancel_requests_total", "kind", &["requested", "superseded"][..]),
        ("deployments_reaped_total", "code", &["ABANDONED", "EXPIRED", "UNCLAIMED", "WORKER_LOST"]),
        ("refused_requests_total", "code", &["UNAUTHORIZED", "MISSING_SCOPE", "TOO_MANY_ATTEMPTS", "TOKEN_REVOKED"]),
    ] {
        for value in values {
            assert_eq!(scraped.value(&format!("singletrack_{name}"), &[(label, *value)]), 0.0, "{name} {value}");
        }
    }
    for (path, _) in singletrack::http::route_table() {
        let count = scraped.value("singletrack_http_request_duration_seconds_count", &[("route", path)]);
        assert!(count <= 1.0, "{path}");
        assert!(!scraped.values("singletrack_http_requests_total", &[("route", path), ("status", "500")]).is_empty());
    }
    for name in ["slot_handoff_seconds_count", "store_commit_duration_seconds_count", "lost_lease_calls_total"] {
        assert_eq!(scraped.value(&format!("singletrack_{name}"), &[]), 0.0, "{name}");
    }
    let build = scraped.value("singletrack_build_info", &[("version", env!("CARGO_PKG_VERSION"))]);
    assert_eq!(build, 1.0);
    for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"] {
        assert!(scraped.value(&format!("process_{name}"), &[]) >= 0.0, "{name}");
    }
    assert!(scraped.value("process_resident_memory_bytes", &[]) > 1e6);
    assert!(scraped.value("process_open_fds", &[]) > 5.0);
    let (started, now) = (scraped.value("process_start_time_seconds", &[]), jiff::Timestamp::now().as_second() as f64);
    assert!((now - 600.0..=now + 5.0).contains(&started), "{started} is not a moment ago: {now}");
    assert!(scraped.value("singletrack_store_size_bytes", &[]) > 0.0);
    assert!(scraped.value("singletrack_store_free_bytes", &[]) > 0.0);
}

#[tokio::test]
async fn a_deploy_and_the_one_behind_it_are_counted_and_timed_from_submit_to_end() {
    let server = TestServer::gated();
    let first = server.at_the_gate().await;
    let second = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    assert_eq!(server.submit(json!({ "pipeline": "quick" })).await.status, 409);
    let web = [("project", "web")];
    let running = scraped_until(&server, |scraped| scraped.value("singletrack_line_length", &web) == 1.0).await;
    assert_eq!(running.value("singletrack_slots_held", &[("project", "web"), ("state", "running")]), 1.0);
    assert_eq!(running.value("singletrack_slots_held", &[("project", "web"), ("state", "ready")]), 0.0);
    assert!(running.value("singletrack_slot_held_seconds", &web) > 0.0);
    assert!(running.value("singletrack_line_longest_wait_seconds", &web) > 0.0);
    assert_eq!(running.value("singletrack_deployment_wait_seconds_count", &web), 1.0);
    assert_eq!(running.value("singletrack_deployment_duration_seconds_count", &web), 0.0);
    assert_eq!(
        running.value("singletrack_slot_handoff_seconds_count", &[]),
        0.0,
        "nobody handed the first one its slot"
    );
    server.open_gate();
    server.finished(&first).await;
    server.finished(&second).await;
    let scraped = Scraped::of(&server).await;
    for (name, count) in [
        ("deployments_submitted_total", 2.0),
        ("submit_conflicts_total", 1.0),
        ("deployment_wait_seconds_count", 2.0),
        ("deployment_duration_seconds_count", 2.0),
    ] {
        assert_eq!(scraped.value(&format!("singletrack_{name}"), &web), count, "{name}");
    }
    assert!(scraped.value("singletrack_deployment_wait_seconds_sum", &web) > 0.0);
    assert!(scraped.value("singletrack_deployment_duration_seconds_sum", &web) > 0.0);
    let succeeded = [("status", "SUCCEEDED"), ("code", ""), ("project", "web")];
    assert_eq!(scraped.value("singletrack_deployments_finished_total", &succeeded), 2.0);
    assert_eq!(scraped.value("singletrack_slot_handoff_seconds_count", &[]), 1.0);
    let commits = scraped.value("singletrack_store_commits_total", &[]);
    assert_eq!(scraped.value("singletrack_store_commit_duration_seconds_count", &[]), commits, "each commit is timed");
    assert!(scraped.value("singletrack_store_commit_duration_seconds_sum", &[]) > 0.0);
    let route = [("route", "/v1/projects/{project}/deployments")];
    let posts = [("route", "/v1/projects/{project}/deployments"), ("method", "POST")];
    assert_eq!(scraped.value("singletrack_http_request_duration_seconds_count", &route), 3.0);
    assert_eq!(scraped.values("singletrack_http_requests_total", &posts).iter().sum::<f64>(), 3.0);
    let idle = scraped_until(&server, |scraped| scraped.value("singletrack_line_length", &web) == 0.0).await;
    assert_eq!(idle.values("singletrack_slots_held", &web), [0.0; 3]);
    assert_eq!(idle.value("singletrack_slot_held_seconds", &web), 0.0);
}

#[tokio::test]
async fn cancels_supersedes_reaps_and_lost_leases_are_counted_by_what_they_were() {
    let limits = "[limits]\nlease = \"2s\"\nheartbeat = \"500ms\"\nkill_budget = \"500ms\"\nlock_delay = \"1s\"\n";
    let server = TestServer::start(&gated_config(limits));
    let quick = json!({ "pipeline": "quick", "onConflict": "queue" });
    // One that nobody keeps alive, and two behind it: the newer one ends the older one as it starts.
    let lost = claimed(&server, "web", json!({ "leaseSeconds": 2 })).await;
    assert_eq!(lost.status, 202, "{}", lost.text);
    let cancelled = server.accepted(quick.clone()).await;
    assert_eq!(server.cancel(&cancelled, json!({ "reason": "a trial" })).await.status, 202);
    let older = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "order": 1 })).await;
    let newer = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "order": 2 })).await;
    let takes = server.cancel(&lost.id(), json!({ "supersededBy": newer })).await;
    assert_eq!(takes.status, 202, "{}", takes.text);
    let ended = server.finished(&lost.id()).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST");
    assert_eq!(server.finished(&older).await["error"]["code"], "SUPERSEDED");
    assert_eq!(server.finished(&newer).await["status"], "SUCCEEDED");
    let secret = lost.body["lease"]["secret"].as_str().unwrap();
    let late = worker_call(&server, "web", &lost.id(), "heartbeat", secret, json!({})).await;
    assert_eq!(late.refusal(), (409, "LEASE_LOST"), "{}", late.text);
    let scraped = Scraped::of(&server).await;
    assert_eq!(scraped.value("singletrack_cancel_requests_total", &[("kind", "requested")]), 1.0);
    // The holder that was asked to make way, and the older one in line.
    assert_eq!(scraped.value("singletrack_cancel_requests_total", &[("kind", "superseded")]), 2.0);
    assert_eq!(scraped.value("singletrack_deployments_reaped_total", &[("code", "WORKER_LOST")]), 1.0);
    assert_eq!(scraped.value("singletrack_deployments_reaped_total", &[("code", "ABANDONED")]), 0.0);
    assert_eq!(scraped.value("singletrack_lost_lease_calls_total", &[]), 1.0);
    let finished =
        |code| scraped.value("singletrack_deployments_finished_total", &[("code", code), ("project", "web")]);
    assert_eq!((finished("CANCELLED"), finished("SUPERSEDED"), finished("WORKER_LOST")), (1.0, 1.0, 1.0));
}

#[tokio::test]
async fn a_pause_and_the_agents_that_ask_are_shown() {
    let config = "[projects.far]\nrun_by = \"agents\"\n[projects.web]\npaused = true\n";
    let server = TestServer::start(config);
    let asks = json!({ "worker": "w1", "claimId": "1", "projects": { "far": ["deploy"] } });
    let claim = server.post("/v1/claims?maxWaitSeconds=60", asks);
    let seen = async {
        let far = [("project", "far")];
        let with_agent = scraped_until(&server, |scraped| scraped.value("singletrack_agents", &far) == 1.0).await;
        let held = |kind| with_agent.value("singletrack_projects_held", &[("project", "web"), ("kind", kind)]);
        assert_eq!((held("pause"), held("freeze"), held("configuration")), (0.0, 0.0, 1.0));
        let pause = server.post("/v1/projects/far/pause", json!({ "reason": "a trial" })).await;
        assert_eq!(pause.status, 200, "{}", pause.text);
        let is_held = |scraped: &Scraped| {
            scraped.value("singletrack_projects_held", &[("project", "far"), ("kind", "pause")]) == 1.0
        };
        scraped_until(&server, is_held).await;
    };
    tokio::select! {
        answer = claim => panic!("the claim ended: {}", answer.text),
        () = seen => {}
    }
}

#[tokio::test]
async fn a_refusal_inside_a_handler_is_counted_once_as_one_at_the_door_is() {
    let token = singletrack::http::new_token().unwrap();
    let config = format!(
        "[[tokens]]\nname = \"ci\"\nsha256 = \"{}\"\nscopes = [\"submit\", \"read\"]\nprojects = [\"web\"]\n{}",
        data_encoding::HEXLOWER.encode(&token.sha256),
        gated_config("")
    );
    let server = TestServer::start(&config);
    let ci = crate::harness::client_with(&token.token);
    let post = async |path: &str, body: Value| {
        send(ci.request(Method::POST, format!("{}{path}", server.base)).json(&body)).await
    };
    // At the door: the scope of the route. Inside: a scope that a part of the body needs, and a foreign project.
    let at_the_door = post("/v1/projects/web/pause", json!({ "reason": "a trial" })).await;
    assert_eq!(at_the_door.refusal().0, 403, "{}", at_the_door.text);
    let inside = post("/v1/projects/web/deployments", json!({ "overridePause": true })).await;
    assert_eq!(inside.refusal(), at_the_door.refusal(), "{}", inside.text);
    let foreign = post("/v1/projects/other/deployments", json!({})).await;
    let scraped = Scraped::of(&server).await;
    let refused = |code| scraped.value("singletrack_refused_requests_total", &[("code", code)]);
    assert_eq!(refused(inside.refusal().1), 2.0);
    assert_eq!(refused(foreign.refusal().1), 1.0, "{}", foreign.text);
}
