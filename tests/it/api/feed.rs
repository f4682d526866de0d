//! How projects stand, over one connection: everything that changes is told, whatever is between, and only to whom it concerns.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::{TestServer, client_with, gated_config, openapi, postgres, stream::EventStream};

const THREE: &str = "
[[projects.api.pipelines.quick.phases]]
name = \"only\"
run = \"true\"
[[projects.docs.pipelines.quick.phases]]
name = \"only\"
run = \"true\"
";

/// A frame of a feed.
#[derive(Debug)]
struct Told {
    id: Option<String>,
    name: String,
    data: Value,
}

/// A reader who keeps what it was told.
struct Reader {
    stream: EventStream,
    /// The schema of what is told of a project.
    schema: &'static str,
    last: Option<String>,
    projects: BTreeMap<String, Value>,
}

impl Reader {
    async fn of(server: &TestServer, path: &str, after: Option<&str>) -> Self {
        let mut request = server.request(Method::GET, path).header("Accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let schema = if path == "/v1/events" { "ProjectSummary" } else { "ProjectView" };
        Reader { stream: EventStream::open(request).await, schema, last: None, projects: BTreeMap::new() }
    }

    /// The next frame, which is kept; `None` at the end.
    async fn next(&mut self) -> Option<Told> {
        loop {
            let text = self.stream.next_text().await?;
            if text.starts_with(": ") {
                continue;
            }
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            let data = serde_json::from_str(field("data: ").unwrap()).unwrap();
            let (id, name) = (field("id: ").map(str::to_owned), field("event: ").unwrap().to_owned());
            let told = Told { id, name, data };
            self.keep(&told);
            return Some(told);
        }
    }

    fn keep(&mut self, told: &Told) {
        let project = || told.data["project"].as_str().unwrap().to_owned();
        match told.name.as_str() {
            "restart" => self.projects.clear(),
            "project" => {
                openapi::validate(
                    &format!("/components/schemas/{}", self.schema),
                    &told.data,
                    "a project that is told",
                );
                self.projects.insert(project(), told.data.clone());
            }
            "gone" => _ = self.projects.remove(&project()),
            name => assert_eq!(name, "current"),
        }
        self.last = told.id.clone().or(self.last.take());
    }

    /// Reads until all are told.
    async fn current(mut self) -> Self {
        while self.next().await.expect("it goes on").name != "current" {}
        self
    }

    /// Reads until this is true of a project.
    async fn sees(&mut self, project: &str, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(seen) = self.projects.get(project).filter(|seen| is(seen)) {
                return seen.clone();
            }
            self.next().await.expect("it goes on");
        }
    }
}

fn is_held_by(id: &str) -> impl Fn(&Value) -> bool {
    move |seen| seen["holder"]["id"] == id
}

fn ended(id: &str) -> impl Fn(&Value) -> bool {
    move |seen| seen["holder"].is_null() && seen["lastOutcome"]["id"] == id && seen["lineLength"] == 0
}

#[tokio::test]
async fn one_stream_tells_how_all_projects_stand_and_what_changes() {
    let server = TestServer::start(&gated_config(THREE));
    server.close_gate();
    let mut reader = Reader::of(&server, "/v1/events", None).await;
    let first: Vec<_> =
        [reader.next().await, reader.next().await].into_iter().flatten().map(|told| told.name).collect();
    assert_eq!(first, ["restart", "project"]);
    let mut reader = reader.current().await;
    assert_eq!(reader.projects.keys().collect::<Vec<_>>(), ["api", "docs", "web"]);
    let id = server.at_the_gate().await;
    reader.sees("web", |seen| is_held_by(&id)(seen) && seen["holder"]["status"] == "RUNNING").await;
    let waiting = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    reader.sees("web", |seen| seen["lineLength"] == 1).await;
    server.post("/v1/projects/docs/pause", json!({ "reason": "an audit" })).await;
    reader.sees("docs", |seen| seen["hold"]["reason"] == "an audit").await;
    server.open_gate();
    server.finished(&waiting).await;
    let told = reader.sees("web", ended(&waiting)).await;
    let listed = server.get("/v1/projects").await.body;
    assert_eq!(Some(&told), listed["projects"].as_array().unwrap().last(), "what is told is what is listed");
}

#[tokio::test]
async fn a_reader_that_comes_back_is_told_what_it_missed_and_nothing_else() {
    let server = TestServer::start(&gated_config(THREE));
    let reader = Reader::of(&server, "/v1/events", None).await.current().await;
    let last = reader.last.clone().unwrap();
    drop(reader);
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let mut back = Reader::of(&server, "/v1/events", Some(&last)).await;
    back.sees("web", ended(&id)).await;
    assert_eq!(back.projects.keys().collect::<Vec<_>>(), ["web"], "the others did not change");
    let page = server.get(&format!("/v1/events?after={last}")).await.body;
    assert_eq!((&page["restart"], &page["more"], &page["gone"]), (&json!(false), &json!(false), &json!([])));
    assert_eq!(page["projects"].as_array().unwrap().len(), 1, "{page}");
    assert!(ended(&id)(&page["projects"][0]), "{page}");
}

#[tokio::test]
async fn a_restart_and_a_reload_begin_anew_by_themselves() {
    let mut server = TestServer::start(&gated_config(THREE));
    let mut reader = Reader::of(&server, "/v1/events", None).await.current().await;
    server.configure(&gated_config(""));
    assert_eq!(server.request(Method::POST, "/v1/admin/reload").send().await.unwrap().status(), 200);
    while reader.next().await.expect("it goes on").name != "current" {}
    assert_eq!(reader.projects.keys().collect::<Vec<_>>(), ["web"], "the configuration has no others any more");
    assert!(server.terminate().success());
    while reader.next().await.is_some() {}
    server.boot();
    let last = reader.last.unwrap();
    let mut back = Reader::of(&server, "/v1/events", Some(&last)).await;
    assert_eq!(back.next().await.unwrap().name, "restart", "another process counts anew");
    let page = server.get(&format!("/v1/events?after={last}")).await.body;
    assert_eq!((&page["restart"], &page["projects"][0]["project"]), (&json!(true), &json!("web")), "{page}");
}

#[tokio::test]
async fn a_list_of_many_projects_is_taken_up_in_its_middle() {
    let many: String = (0..120)
        .map(|number| format!("[[projects.p{number:03}.pipelines.x.phases]]\nname = \"x\"\nrun = \"true\"\n"))
        .collect();
    let server = TestServer::start(&many);
    let mut reader = Reader::of(&server, "/v1/events", None).await;
    while reader.projects.len() < 70 {
        reader.next().await.unwrap();
    }
    let last = reader.last.clone().unwrap();
    let back = Reader::of(&server, "/v1/events", Some(&last)).await.current().await;
    assert_eq!(back.projects.len(), 50, "those that were told are not told again");
    let (mut polled, mut after) = (0, String::new());
    loop {
        let page = server.get(&format!("/v1/events?maxWaitSeconds=0{after}")).await.body;
        polled += page["projects"].as_array().unwrap().len();
        after = format!("&after={}", page["last"].as_str().unwrap());
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(polled, 120);
    let nothing = server.get(&format!("/v1/events?maxWaitSeconds=0{after}")).await.body;
    assert_eq!((&nothing["projects"], &nothing["restart"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn one_project_is_told_with_its_line() {
    let server = TestServer::start(&gated_config(THREE));
    server.close_gate();
    let path = "/v1/projects/web/events";
    let mut reader = Reader::of(&server, path, None).await.current().await;
    let id = server.at_the_gate().await;
    reader.sees("web", is_held_by(&id)).await;
    let waiting = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "actor": "bob" })).await;
    let seen = reader.sees("web", |seen| seen["lineLength"] == 1).await;
    assert_eq!((&seen["line"][0]["id"], &seen["line"][0]["actor"]), (&json!(waiting), &json!("bob")));
    let last = reader.last.clone().unwrap();
    // The other projects' changes are not its own.
    server.post("/v1/projects/docs/pause", json!({ "reason": "an audit" })).await;
    let nothing = server.get(&format!("{path}?maxWaitSeconds=0&after={last}")).await.body;
    assert_eq!(nothing["projects"], json!([]), "{nothing}");
    let poll = tokio::spawn(server.request(Method::GET, &format!("{path}?after={last}&maxWaitSeconds=60")).send());
    server.parked(2).await;
    server.open_gate();
    let page: Value = poll.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(page["projects"][0]["project"], "web", "{page}");
    server.finished(&waiting).await;
    reader.sees("web", ended(&waiting)).await;
    assert_eq!(server.get("/v1/projects/nobody/events").await.status, 404);
}

#[tokio::test]
async fn a_reader_is_told_only_of_projects_that_it_may_see() {
    let (token, admins) = ("st_0123456789abcdef0123456789abcdef", "st_of_the_admin_0123456789abcdef");
    let of = |name: &str, token: &str, more: &str| {
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(token));
        format!("[[tokens]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\n{more}")
    };
    let tokens = [of("all", admins, ""), of("one", token, "projects = [\"web\"]\n")].concat();
    let server = TestServer::start(&gated_config(&format!("{THREE}{tokens}")));
    let as_ = |token: &str, path: &str| client_with(token).get(format!("{}{path}", server.base));
    let stream = EventStream::open(as_(token, "/v1/events").header("Accept", "text/event-stream")).await;
    let mut reader = Reader { stream, schema: "ProjectSummary", last: None, projects: BTreeMap::new() }.current().await;
    assert_eq!(reader.projects.keys().collect::<Vec<_>>(), ["web"]);
    let admin = client_with(admins);
    for project in ["docs", "web"] {
        let paused = admin.post(format!("{}/v1/projects/{project}/pause", server.base)).json(&json!({ "reason": "x" }));
        assert_eq!(paused.send().await.unwrap().status(), 200);
    }
    let told = reader.next().await.unwrap();
    assert_eq!((told.name.as_str(), &told.data["project"]), ("project", &json!("web")), "docs came before it");
    assert_eq!(as_(token, "/v1/projects/docs/events").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_change_at_one_server_is_told_by_the_other() {
    let cluster = postgres::shared();
    let store = cluster.url(&cluster.database().await);
    let servers = [(); 2].map(|()| TestServer::start_on(&store, &gated_config(THREE)));
    let [one, other] = &servers;
    let mut reader = Reader::of(one, "/v1/events", None).await.current().await;
    let id = other.accepted(json!({ "pipeline": "quick" })).await;
    reader.sees("web", ended(&id)).await;
    other.post("/v1/projects/docs/pause", json!({ "reason": "an audit" })).await;
    reader.sees("docs", |seen| seen["paused"] == true).await;
}

#[tokio::test]
async fn what_is_no_cursor_is_refused() {
    let server = TestServer::gated();
    for after in ["7", "x.7", "0123456789abcdef0123456789abcdef.x", "0123456789abcdef0123456789abcdef.7~-"] {
        let refused = server.get(&format!("/v1/events?after={after}")).await;
        assert_eq!(refused.refusal(), (400, "INVALID_PARAMETER"), "{after}: {}", refused.text);
    }
    assert_eq!(server.get("/v1/events?since=1h").await.refusal(), (400, "UNKNOWN_PARAMETER"));
    let neither = server.request(Method::GET, "/v1/events").header("Accept", "text/html").send().await.unwrap();
    assert_eq!(neither.status(), 406);
}
