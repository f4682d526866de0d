//! The screen of all projects.

use std::io::Read as _;

use reqwest::{Method, header};
use serde_json::json;

use super::{load, part, screen};
use crate::harness::{TestServer, a_token, client_with, gated_config, stream::EventStream};

const TWO: &str = "
[[projects.docs.pipelines.quick.phases]]
name = \"only\"
run = \"true\"
[[projects.shop.pipelines.quick.phases]]
name = \"only\"
run = \"true\"
";

/// The project's row.
fn row<'a>(html: &'a str, project: &str) -> &'a str {
    part(html, &format!("<tr id=\"p-{project}\""), "</tr>")
}

#[tokio::test]
async fn each_state_has_its_own_word_and_only_what_runs_is_called_running() {
    let server = TestServer::start(&gated_config(TWO));
    server.close_gate();
    let held = server.at_the_gate().await;
    server
        .accepted(json!({ "pipeline": "quick", "onConflict": "queue", "actor": "bob", "message": "Fix the cart" }))
        .await;
    server.post("/v1/projects/shop/pause", json!({ "reason": "weekend freeze" })).await;
    let answer = screen(&server, "/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"));
    let html = &answer.text;
    let [web, docs, shop] = ["web", "docs", "shop"].map(|project| row(html, project));
    assert!(web.contains("<span class=\"tag run\">running") && web.contains("<b class=\"num\">1</b>"), "{web}");
    assert!(web.contains("href=\"/projects/web/deployments/1\""), "{web}");
    assert!(docs.contains("<span class=\"tag ok\">free</span>") && docs.contains("nobody"), "{docs}");
    assert!(shop.contains("<span class=\"tag wait\">paused</span>") && shop.contains("weekend freeze"), "{shop}");
    assert!(![docs, shop].iter().any(|row| row.contains("running")), "{docs} {shop}");
    let sum = part(html, "<p class=\"sum\"", "</p>");
    for told in ["<b>1</b> running", "<b>1</b> waiting", "<b>1</b> held", "<b>3</b> projects"] {
        assert!(sum.contains(told), "{told}: {sum}");
    }
    server.open_gate();
    server.finished(&held).await;
}

#[tokio::test]
async fn nothing_that_others_wrote_becomes_a_part_of_the_page() {
    let server = TestServer::gated();
    for (at, text) in
        ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "a\u{202e}b\u{1b}[31mc", "'--><b>"]
            .into_iter()
            .enumerate()
    {
        let body = json!({
            "pipeline": "quick", "actor": text, "message": text, "ref": text, "commit": text, "order": at + 1,
            "url": "javascript:alert(1)",
        });
        let answer = server.submit(body).await;
        if answer.status == 202 {
            server.finished(&answer.id()).await;
        }
        let html = screen(&server, "/").await.text;
        assert_eq!(html.matches("<script").count(), 1, "the page's own: {html}");
        assert!(!html.contains("<img") && !html.contains("<b>\"") && !html.contains("href=\"javascript"), "{html}");
        assert!(!html.contains(['\u{202e}', '\u{1b}']), "{html}");
    }
}

#[tokio::test]
async fn it_loads_its_own_files_alone_and_browsers_keep_them() {
    let server = TestServer::gated();
    let answer = screen(&server, "/").await;
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && !answer.text.contains(" style=\"") && !answer.text.contains(" onclick"));
    let paths: Vec<_> = answer.text.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
    for path in paths {
        let asset = screen(&server, path).await;
        assert_eq!(asset.status, 200, "{path}");
        assert!(asset.header("cache-control").contains("immutable"), "{path}");
    }
    assert_eq!(screen(&server, "/assets/page.000000000000.js").await.status, 404);
}

#[tokio::test]
async fn projects_are_found_by_a_part_of_their_name_and_sorted_by_trouble_or_name() {
    let server = TestServer::start(&gated_config(TWO));
    let failed = server.accepted(json!({ "pipeline": "broken" })).await;
    server.finished(&failed).await;
    let order = |html: &str| -> Vec<String> {
        html.split("<tr id=\"p-").skip(1).map(|row| row.split('"').next().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&screen(&server, "/").await.text), ["web", "docs", "shop"]);
    assert_eq!(order(&screen(&server, "/?sort=name").await.text), ["docs", "shop", "web"]);
    assert_eq!(order(&screen(&server, "/?find=SHO").await.text), ["shop"]);
    let nothing = screen(&server, "/?find=%3Cb%3E").await.text;
    assert!(order(&nothing).is_empty() && nothing.contains("No project"), "{nothing}");
    assert!(!nothing.contains("<b>\u{201d}"), "{nothing}");
    assert_eq!(screen(&server, "/?serach=x").await.status, 400);
}

/// Reads the stream's frames until one has all of these texts.
async fn told(stream: &mut EventStream, texts: &[&str]) -> String {
    loop {
        let frame = stream.next_text().await.expect("it goes on");
        if texts.iter().all(|text| frame.contains(text)) {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_stream_brings_the_rows_that_change_and_the_sum_and_goes_on_where_it_was() {
    let mut server = TestServer::start(&gated_config(TWO));
    server.close_gate();
    let html = screen(&server, "/").await.text;
    let live = part(&html, "data-live=\"", "\"").to_owned();
    let open = |server: &TestServer, path: &str| {
        EventStream::open(server.request(Method::GET, path).header("accept", "text/event-stream"))
    };
    let mut stream = open(&server, &live).await;
    let first = stream.next_text().await.unwrap();
    assert!(first.contains("event: beat"), "something comes at once: {first}");
    let id = server.at_the_gate().await;
    let patch = told(&mut stream, &["event: patch", "id=\"p-web\"", "running"]).await;
    assert!(!patch.contains("p-docs"), "{patch}");
    let sum = told(&mut stream, &["event: patch", "id=\"sum\"", "<b>1</b> running"]).await;
    let cursor = sum.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    drop(stream);
    server.open_gate();
    server.finished(&id).await;
    // The same frames come by long-poll, where a stream is held up in between.
    let polled = load(server.request(Method::GET, &format!("/live?maxWaitSeconds=5&after={cursor}"))).await;
    assert!(polled.text.contains("id=\"p-web\"") && polled.text.contains("free"), "{}", polled.text);
    assert!(!polled.text.contains("p-docs") && !polled.text.contains("restart"), "{}", polled.text);
    // Another process tells everything again.
    assert!(server.terminate().success());
    server.boot();
    let mut stream = open(&server, &format!("/live?after={cursor}")).await;
    told(&mut stream, &["event: restart"]).await;
    for project in ["docs", "shop", "web"] {
        told(&mut stream, &[&format!("id=\"p-{project}\"")]).await;
    }
    told(&mut stream, &["event: current"]).await;
}

#[tokio::test]
async fn a_token_sees_its_own_projects_alone() {
    let (token, table) = a_token();
    let server = TestServer::start(&gated_config(&format!("{TWO}{table}\nprojects = [\"docs\"]\n")));
    let of = |path: &str| client_with(&token).get(format!("{}{path}", server.base)).header("accept", "text/html");
    let html = of("/").send().await.unwrap().text().await.unwrap();
    assert!(html.contains("p-docs") && !html.contains("p-web") && html.contains("<b>1</b> project<"), "{html}");
    assert_eq!(of("/projects/web").send().await.unwrap().status(), 404);
    assert_eq!(of("/projects/web/live").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn what_is_not_there_is_told_to_a_person_as_a_screen_and_to_a_program_as_before() {
    let server = TestServer::gated();
    let person = screen(&server, "/nowhere").await;
    assert_eq!((person.status, person.header("content-type")), (404, "text/html; charset=utf-8"));
    assert!(person.text.contains("There is no such page") && person.text.contains("NOT_FOUND"), "{}", person.text);
    for (path, accept) in [("/nowhere", "*/*"), ("/v1/nowhere", "text/html")] {
        let program = load(server.request(Method::GET, path).header("accept", accept)).await;
        assert_eq!((program.status, program.code().as_deref()), (404, Some("NOT_FOUND")), "{path}: {}", program.text);
    }
}

#[tokio::test]
async fn two_hundred_projects_are_small_on_their_way() {
    let many: String = (0..200)
        .map(|number| format!("[[projects.p{number:03}.pipelines.x.phases]]\nname = \"x\"\nrun = \"true\"\n"))
        .collect();
    let server = TestServer::start(&many);
    let request = server.request(Method::GET, "/").header(header::ACCEPT_ENCODING, "gzip");
    let response = request.header(header::ACCEPT, "text/html").send().await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    let small = response.bytes().await.unwrap();
    let mut html = String::new();
    flate2::read::GzDecoder::new(&small[..]).read_to_string(&mut html).unwrap();
    assert_eq!(html.matches("<tr id=\"p-").count(), 200);
    assert!(small.len() < 100 << 10, "{} bytes", small.len());
}
