//! The limits of what others send stand at the server's door, and each is named by its refusal.

use std::fs;

use reqwest::Method;
use serde_json::{Map, Value, json};
use singletrack::model::bounds;

use crate::harness::{Answer, TestServer, gated_config, openapi, postgres, send};

/// A deployment of `web` that its client runs.
struct Run<'a> {
    server: &'a TestServer,
    id: String,
    secret: String,
}

impl<'a> Run<'a> {
    async fn take(server: &'a TestServer) -> Self {
        let taken = server.submit(json!({ "executor": "client", "claim": true })).await;
        assert_eq!(taken.status, 202, "{}", taken.text);
        let secret = taken.body["lease"]["secret"].as_str().unwrap().to_owned();
        Run { server, id: taken.id(), secret }
    }

    async fn call(&self, below: &str, body: &Value) -> Answer {
        let path = format!("/v1/projects/web/deployments/{}/{below}", self.id);
        send(self.server.request(Method::POST, &path).header("Singletrack-Lease", &self.secret).json(body)).await
    }

    async fn report(&self, first: u64, reports: Value) -> Answer {
        self.call("reports", &json!({ "first": first, "reports": reports })).await
    }
}

fn output(name: &str, value: &str) -> Value {
    json!({ "type": "output", "name": name, "value": value })
}

#[track_caller]
fn assert_limit(answer: &Answer, limit: &str) {
    assert_eq!(answer.refusal(), (400, "INVALID_BODY"), "{}", answer.text);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains(limit) && message.len() < 512, "{message}");
}

#[tokio::test]
async fn a_deployments_outputs_are_bounded_over_all_its_reports_and_its_end() {
    let server = TestServer::gated();
    let run = Run::take(&server).await;
    let large = "v".repeat(8000);
    let eight: Vec<_> = (0..8).map(|n| output(&format!("n{n}"), &large)).collect();
    assert_eq!(run.report(1, json!(eight)).await.status, 200);
    assert_limit(&run.report(9, json!([output("more", &large)])).await, "65536");
    let many: Vec<_> = (0..249).map(|n| output(&format!("m{n}"), "")).collect();
    assert_limit(&run.report(9, json!(many)).await, "256");
    let many: Map<_, _> = (0..257).map(|n| (format!("m{n}"), json!(""))).collect();
    assert_limit(&run.call("finish", &json!({ "status": "SUCCEEDED", "outputs": many })).await, "256");
    assert_limit(&run.call("finish", &json!({ "status": "SUCCEEDED", "outputs": { "more": large } })).await, "65536");

    // Nothing of what was refused was kept, and what fits is taken as ever.
    assert_eq!(run.report(9, json!([output("n0", "small"), output("fits", &large)])).await.body["last"], 10);
    let ended = run.call("finish", &json!({ "status": "SUCCEEDED", "outputs": { "version": "7" } })).await;
    let outputs = ended.body["result"]["outputs"].as_object().unwrap();
    assert_eq!((outputs.len(), &outputs["n0"], &outputs["version"]), (10, &json!("small"), &json!("7")));
}

#[tokio::test]
async fn every_text_of_a_worker_has_a_limit_that_its_refusal_names() {
    let server = TestServer::gated();
    let run = Run::take(&server).await;
    let (name, text) = ("n".repeat(129), "t".repeat(8193));
    let failed = |message: &str, phase: &str| {
        let error = json!({ "code": "PHASE_FAILED", "message": message, "phase": phase });
        json!({ "status": "FAILED", "error": error })
    };
    for (body, limit) in [
        (failed(&text, "apply"), "error.message is longer than 8192"),
        (failed("", &name), "1 to 128"),
        (failed("", ""), "1 to 128"),
        (failed("", "a\u{1b}[2J\0"), "without control characters"),
        (json!({ "status": "SUCCEEDED", "outputs": { "n": text } }), "8192"),
        (json!({ "status": "SUCCEEDED", "outputs": { "n": "a\0" } }), "control character"),
        (json!({ "status": "SUCCEEDED", "outputs": { &name: "v" } }), "1 to 128"),
    ] {
        assert_limit(&run.call("finish", &body).await, limit);
    }
    let lines = |lines: Vec<String>| json!({ "type": "log", "stream": "stdout", "lines": lines });
    let quarter = lines(vec!["l".repeat(64 << 10); 4]);
    for (reports, limit) in [
        (json!([{ "type": "phase", "name": name, "state": "started" }]), "1 to 128"),
        (json!([{ "type": "phase", "name": "a\u{9b}", "state": "started" }]), "without control characters"),
        (json!([{ "type": "phase", "name": "a", "state": "started", "message": text }]), "8192"),
        (json!([{ "type": "progress", "message": text }]), "8192"),
        (json!([output(&name, "v")]), "1 to 128"),
        (json!([output("n", &text)]), "8192"),
        (json!([output("n", "\u{1b}[2J")]), "control character"),
        (json!([lines(vec![String::new(); 4097])]), "4096 lines"),
        (json!([lines(vec!["l".repeat((256 << 10) + 1)])]), "262144 bytes"),
        (json!(vec![quarter.clone(); 9]), "2097152 bytes"),
        (json!([{ "type": "log", "stream": "stdout", "phase": name, "lines": [] }]), "1 to 128"),
    ] {
        assert_limit(&run.report(1, reports).await, limit);
    }
    assert_eq!(run.report(1, json!(vec![quarter; 8])).await.body["last"], 8, "what fits is taken");
    let before = server.deployment(&run.id, "").await.body;
    assert_eq!(
        (&before["phase"], &before["message"], before["progress"].as_u64()),
        (&Value::Null, &Value::Null, Some(0))
    );
}

#[tokio::test]
async fn nothing_that_a_worker_tells_in_words_can_move_a_terminal() {
    let server = TestServer::gated();
    let run = Run::take(&server).await;
    let wild = "\u{1b}[2J\u{1b}]0;title\u{7}one\0\u{9b}1mtwo\u{7f}";
    let told = run.report(
        1,
        json!([
            { "type": "phase", "name": "apply", "state": "started", "message": wild },
            { "type": "progress", "progress": 1, "message": wild },
            { "type": "log", "stream": "stdout", "phase": "apply", "lines": [wild, "", "plain\ttext"] },
            { "type": "log", "stream": "stdout", "lines": [] },
        ]),
    );
    assert_eq!(told.await.body["last"], 4);
    let error = json!({ "code": "PHASE_FAILED", "message": format!("{wild}\n{wild}"), "phase": "apply" });
    let ended = run.call("finish", &json!({ "status": "FAILED", "error": error })).await;
    assert_eq!(ended.body["error"]["message"], "one1mtwo\none1mtwo");
    let events = server.deployment(&run.id, "/events?maxWaitSeconds=0").await.body;
    let events = events["events"].as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("phase")[0]["message"], "one1mtwo");
    assert_eq!(of("progress")[0]["message"], "one1mtwo");
    assert_eq!((of("log").len(), &of("log")[0]["lines"]), (1, &json!(["one1mtwo", "", "plain\ttext"])));
}

/// What each engine must refuse and take alike.
async fn holds_its_door(store: &str) {
    let server = TestServer::start_on(store, &gated_config(""));
    let before = server.project().await;
    let long = |count: usize| "ä".repeat(count);
    for (field, limit) in
        [("pipeline", 128), ("ref", 1024), ("commit", 256), ("message", 4096), ("actor", 256), ("url", 2048)]
    {
        let client = json!({ "executor": "client", "claim": true, field: long(limit + 1) });
        assert_limit(&server.submit(client).await, &format!("{field} is longer than {limit} characters"));
    }
    let half = "v".repeat(32 << 10);
    for (inputs, limit) in [
        (json!({ "a": half, "b": half }), "more than 65536 bytes together"),
        (json!({ "a-b": "1", "a_b": "2" }), "a-b and a_b would both be the variable INPUT_A_B"),
        (json!({ "A.B": "1", "a_b": "2" }), "A.B and a_b would both be the variable INPUT_A_B"),
    ] {
        assert_limit(&server.submit(json!({ "inputs": inputs })).await, limit);
    }
    assert_eq!(server.project().await, before, "nothing of it was kept");

    // As large as it may be, it is taken: also into the index of those that run.
    let url = format!("https://{}", long(2040));
    let largest = json!({ "executor": "client", "claim": true, "pipeline": long(128), "ref": long(1024),
        "commit": long(256), "message": long(4096), "actor": "😀".repeat(256), "url": url,
        "inputs": { "a": "v".repeat((64 << 10) - 1) } });
    let taken = server.submit(largest).await;
    assert_eq!((taken.status, &taken.body["status"]), (202, &json!("RUNNING")), "{}", taken.text);
    assert_eq!(server.project().await["holder"]["ref"], long(1024));
}

#[tokio::test]
async fn what_a_submit_says_of_itself_is_bounded() {
    holds_its_door("sqlite:test.db").await;
}

#[tokio::test]
async fn what_a_submit_says_of_itself_is_bounded_on_postgresql_and_fits_its_indexes() {
    holds_its_door(&postgres::shared().store().await).await;
}

#[tokio::test]
async fn an_agent_offers_so_many_pipelines_and_no_more() {
    let agents = (0..11).map(|n| format!("[projects.p{n}]\nrun_by = \"agents\"\n")).collect::<String>();
    let server = TestServer::start(&agents);
    let pipelines: Vec<_> = (0..100).map(|n| format!("pipeline-{n}")).collect();
    let projects: Map<_, _> = (0..11).map(|n| (format!("p{n}"), json!(pipelines))).collect();
    let claim = |projects: Value| json!({ "worker": "w", "claimId": "c", "projects": projects, "capacity": 0 });
    assert_limit(&server.post("/v1/claims?maxWaitSeconds=0", claim(json!(projects))).await, "at most 1000");
    let one = server.post("/v1/claims?maxWaitSeconds=0", claim(json!({ "p0": pipelines }))).await;
    assert_eq!(one.refusal(), (408, "NOTHING_TO_DO"));
}

#[tokio::test]
async fn what_an_older_version_stored_beyond_the_limits_can_still_be_read_and_ended() {
    let server = TestServer::gated();
    let run = Run::take(&server).await;
    let large = "v".repeat(3 << 20);
    let store = rusqlite::Connection::open(server.path("test.db")).unwrap();
    let outputs = json!({ "large": large }).to_string();
    assert_eq!(store.execute("UPDATE deployments SET outputs = ?1", [outputs]).unwrap(), 1);
    drop(store);
    assert_eq!(run.call("heartbeat", &json!({})).await.status, 200);
    assert_eq!(run.report(1, json!([{ "type": "progress", "progress": 5 }])).await.status, 200);
    assert_limit(&run.report(2, json!([output("more", "v")])).await, "65536");
    let ended = run.call("finish", &json!({ "status": "SUCCEEDED" })).await;
    assert_eq!(ended.body["result"]["outputs"]["large"], large.as_str());
    assert_eq!(server.deployments().await.len(), 1);
    assert_eq!(server.get("/v1/projects").await.body["projects"][0]["lastOutcome"]["id"], run.id.as_str());
}

/// A whole number as the documentation writes it.
fn written(number: usize) -> String {
    let digits = number.to_string();
    let (head, tail) = digits.split_at(digits.len().saturating_sub(1) % 3 + 1);
    let mut text = head.to_owned();
    for group in tail.as_bytes().chunks(3) {
        text.push(',');
        text.push_str(std::str::from_utf8(group).unwrap());
    }
    text
}

#[test]
fn the_table_of_limits_and_the_description_say_what_the_code_does() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/limits.md")).unwrap();
    let says = |what: &str, limit: usize| {
        let row = table.lines().find(|line| line.starts_with(&format!("| {what} |")));
        let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row '{what}'"));
        assert!(row.split(['|', ' ', ';', ':']).any(|word| word.trim_end_matches(',') == written(limit)), "{row}");
    };
    says("a token's name", bounds::TOKEN_NAME);
    says("live tokens that were made at run time", bounds::LIVE_TOKENS);
    says("sessions of one token on the page", bounds::SESSIONS_OF_ONE);
    says("live sessions", bounds::LIVE_SESSIONS);
    says("patterns for projects of a token", bounds::TOKEN_PROJECTS);
    says("`pipeline`, the name of a phase or an output", bounds::NAME);
    says("`ref`", bounds::REF);
    says("`commit`", bounds::COMMIT);
    says("`actor`", bounds::ACTOR);
    says("`url`", bounds::URL);
    says("`message` of a submit", bounds::MESSAGE);
    says("inputs of a submit", bounds::INPUTS);
    says("the name of an input", bounds::INPUT_NAME);
    says("all names and values of a submit's inputs together", bounds::INPUTS_BYTES);
    says("the reason of a cancel or a release", bounds::REASON);
    says("reports in one call", bounds::REPORTS);
    says("`message` of a report, `error.message`", bounds::REPORT_TEXT);
    says("failed rollbacks that a deployment tells", bounds::ROLLBACKS);
    says("failed rollbacks that a deployment tells", bounds::ROLLBACK_TEXT);
    says("lines in one log report", bounds::LOG_LINES);
    says("lines in one log report", bounds::LOG_BYTES);
    says("lines of all log reports in one call together", bounds::CALL_LOG_BYTES);
    says("a line of output", bounds::LINE_BYTES);
    says("the value of an output", bounds::OUTPUT_VALUE);
    says("outputs of a deployment", bounds::OUTPUTS);
    says("all names and values of a deployment's outputs together", bounds::OUTPUTS_BYTES);
    says("an agent's name", bounds::AGENT_NAME);
    says("projects of an agent", bounds::AGENT_PROJECTS);
    says("pipelines of an agent in one project", bounds::AGENT_PIPELINES);
    says("pipelines of an agent in all", bounds::AGENT_PIPELINES_IN_ALL);

    says("lines of `tail`", bounds::TAIL_LINES);

    let states = |pointer: &str, limit: usize| {
        let found = openapi::description().pointer(&format!("/components/schemas/{pointer}"));
        assert_eq!(found, Some(&json!(limit)), "{pointer} in openapi.yaml");
    };
    let texts =
        [("pipeline", bounds::NAME), ("ref", bounds::REF), ("commit", bounds::COMMIT), ("actor", bounds::ACTOR)];
    for (field, limit) in texts.into_iter().chain([("url", bounds::URL), ("message", bounds::MESSAGE)]) {
        states(&format!("SubmitRequest/properties/{field}/maxLength"), limit);
    }
    states("SubmitRequest/properties/inputs/maxProperties", bounds::INPUTS);
    states("ReportsRequest/properties/reports/maxItems", bounds::REPORTS);
    states("Report/oneOf/0/properties/name/maxLength", bounds::NAME);
    states("Report/oneOf/1/properties/message/maxLength", bounds::REPORT_TEXT);
    states("Rollback/properties/failed/maxItems", bounds::ROLLBACKS);
    states("Report/oneOf/2/properties/value/maxLength", bounds::OUTPUT_VALUE);
    states("Report/oneOf/3/properties/lines/maxItems", bounds::LOG_LINES);
    states("FinishRequest/properties/outputs/maxProperties", bounds::OUTPUTS);
    states("FinishRequest/properties/error/properties/phase/maxLength", bounds::NAME);
    states("CancelBody/properties/reason/maxLength", bounds::REASON);
}
