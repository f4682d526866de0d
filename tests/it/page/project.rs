//! The screen of one project.

use reqwest::Method;
use serde_json::json;

use super::{part, screen};
use crate::harness::{TestServer, gated_config, stream::EventStream};

/// The element with this id, up to its end.
fn section<'a>(html: &'a str, id: &str) -> &'a str {
    part(html, &format!("<section id=\"{id}\""), "</section>")
}

fn slot(html: &str) -> &str {
    part(html, "id=\"slot\"", "</section>")
}

#[tokio::test]
async fn the_slot_the_line_and_the_title_say_who_runs_who_waits_and_in_what() {
    let server = TestServer::gated();
    let idle = screen(&server, "/projects/web").await.text;
    assert!(slot(&idle).contains("<span class=\"tag ok\">free</span>"), "{idle}");
    assert!(idle.contains("<title>web: free · Singletrack</title>") && idle.contains("Nobody waits."), "{idle}");
    assert!(idle.contains("Nothing yet: no deployment has succeeded."), "{idle}");
    let held = server.at_the_gate().await;
    let left =
        json!({ "pipeline": "quick", "onConflict": "queue", "actor": "bob", "ref": "main", "message": "Fix the cart" });
    let left = server.accepted(left).await;
    let html = screen(&server, "/projects/web").await.text;
    let slot = slot(&html);
    assert!(slot.contains("<span class=\"tag run\">running") && slot.contains("data-holder"), "{slot}");
    assert!(slot.contains("href=\"/projects/web/deployments/1\"") && !slot.contains("data-held"), "{slot}");
    let line = section(&html, "line");
    for told in ["#2 bob", "main · “Fix the cart”", "left with the server", "start not known", "has not succeeded yet"]
    {
        assert!(line.contains(told), "{told}: {line}");
    }
    assert!(!line.contains("running"), "{line}");
    assert!(part(&html, "<title>", "</title>").contains("1 waits"), "{html}");
    // It is drawn, and the table says the same.
    assert!(section(&html, "time-line").contains("<title>#2 bob"), "{html}");
    assert_eq!(part(&html, "<tbody id=\"history\"", "</tbody>").matches("<tr id=\"d-").count(), 2, "{html}");
    server.open_gate();
    server.finished(&held).await;
    server.finished(&left).await;
    let html = screen(&server, "/projects/web").await.text;
    let live = part(&html, "id=\"now-live\"", "</section>");
    assert!(live.contains("#2 bob") && live.contains("Fix the cart"), "{live}");
}

#[tokio::test]
async fn what_holds_a_project_is_told_in_its_slot_and_its_line_waits_for_it() {
    let server = TestServer::gated();
    server.post("/v1/projects/web/pause", json!({ "reason": "the stock is counted", "actor": "lena" })).await;
    server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "actor": "bob" })).await;
    let html = screen(&server, "/projects/web").await.text;
    let slot = slot(&html);
    assert!(slot.contains("data-held=\"pause\"") && slot.contains("<span class=\"tag wait\">paused</span>"), "{slot}");
    assert!(slot.contains("paused by lena, until somebody resumes it: “the stock is counted”"), "{slot}");
    assert!(!html.contains("tag run"), "nothing runs: {html}");
    assert!(section(&html, "line").contains("no end is set"), "{html}");
    assert!(html.contains("<title>web: paused, 1 waits"), "{html}");
}

#[tokio::test]
async fn a_stream_brings_the_parts_and_the_row_of_a_deployment_that_ends() {
    let server = TestServer::gated();
    let html = screen(&server, "/projects/web").await.text;
    let live = part(&html, "data-live=\"", "\"").to_owned();
    let mut stream = EventStream::open(server.request(Method::GET, &live).header("accept", "text/event-stream")).await;
    let id = server.accepted(json!({ "pipeline": "quick", "actor": "alice" })).await;
    server.finished(&id).await;
    loop {
        let frame = stream.next_text().await.expect("it goes on");
        if !frame.contains("<tr id=\"d-") || !frame.contains("succeeded") {
            continue;
        }
        for told in ["id=\"slot\"", "id=\"line\"", "id=\"time-line\"", "id=\"now-live\"", "data-into=\"history\""] {
            assert!(frame.contains(told), "{told}: {frame}");
        }
        assert!(frame.len() < 16 << 10 && !frame.contains("<form"), "{frame}");
        break;
    }
}

#[tokio::test]
async fn the_history_is_filtered_by_a_form_and_comes_in_pages() {
    let server = TestServer::gated();
    for number in 0..27 {
        let actor = if number == 3 { "mara" } else { "alice" };
        let id = server.accepted(json!({ "pipeline": "quick", "actor": actor, "ref": "main" })).await;
        server.finished(&id).await;
    }
    let failed = server.accepted(json!({ "pipeline": "broken", "actor": "alice", "ref": "next" })).await;
    server.finished(&failed).await;
    let of = async |query: &str| screen(&server, &format!("/projects/web{query}")).await;
    let numbers = |html: &str| -> Vec<u64> {
        let rows = part(html, "<tbody id=\"history\"", "</tbody>");
        rows.split("deployments/").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
    };
    let first = of("").await.text;
    assert_eq!(numbers(&first), (4..=28).rev().collect::<Vec<_>>());
    assert!(part(&first, "id=\"by-day\"", "</section>").contains("<table"), "{first}");
    let older = part(&first, "rel=\"next\" href=\"", "\"").replace("&#38;", "&").replace("&amp;", "&");
    let second = screen(&server, older.split('#').next().unwrap()).await.text;
    assert_eq!(numbers(&second), [3, 2, 1]);
    assert!(second.contains("Newest") && !second.contains("rel=\"next\""), "{second}");
    // As a form sends it: what is left empty filters nothing.
    assert_eq!(numbers(&of("?status=FAILED&actor=&ref=&since=").await.text), [28]);
    assert_eq!(numbers(&of("?status=&actor=mara&ref=main&since=1h").await.text), [4]);
    assert!(of("?actor=nobody").await.text.contains("Nothing matches."));
    let wrong = of("?since=yesterday&actor=%22%3E%3Cb%3E").await;
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text.contains("since is &#39;yesterday&#39;") && wrong.text.contains("value=\"yesterday\""),
        "{}",
        wrong.text
    );
    assert!(!wrong.text.contains("\"><b>"), "{}", wrong.text);
    assert_eq!(of("?colour=red").await.status, 400);
}

#[tokio::test]
async fn nothing_that_others_wrote_becomes_a_part_of_a_projects_screen() {
    let server = TestServer::start(&gated_config(""));
    for (at, text) in ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "a\u{202e}b"].iter().enumerate()
    {
        let body = json!({
            "pipeline": if at == 1 { "broken" } else { "quick" }, "actor": text, "message": text, "ref": text, "commit": text,
            "inputs": { "image": text }, "url": "https://ci.example/\"><script>", "order": at + 1,
        });
        let id = server.accepted(body).await;
        server.finished(&id).await;
    }
    server.post("/v1/projects/web/pause", json!({ "reason": "<script>x</script>", "actor": "<b>" })).await;
    server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "actor": "<i>", "message": "<script>" })).await;
    let html = screen(&server, "/projects/web").await.text;
    assert_eq!(html.matches("<script").count(), 1, "the page's own: {html}");
    assert!(!html.contains("<img") && !html.contains("<i>") && !html.contains("<b>)"), "{html}");
    assert!(!html.contains('\u{202e}') && !html.contains(" style=") && !html.contains("NaN"), "{html}");
}

#[tokio::test]
async fn a_project_that_is_not_there_has_no_screen() {
    let server = TestServer::gated();
    assert_eq!(screen(&server, "/projects/nowhere").await.status, 404);
}
