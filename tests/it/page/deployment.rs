//! The screen of one deployment, its output, and the stream that keeps both live.

use reqwest::{Method, header};
use serde_json::json;

use super::{Browser, a_token, part, screen};
use crate::harness::{TestServer, client_with, gated_config, stream::EventStream};

const PIPELINES: &str = r#"
[projects.web.pipelines.many]
[[projects.web.pipelines.many.phases]]
name = "count"
run = "seq 1 2500"

[[projects.web.pipelines.fails.phases]]
name = "migrate"
run = "echo migrating"
rollback = "echo back"
[[projects.web.pipelines.fails.phases]]
name = "verify"
run = "echo 'cannot reach payments' >&2; exit 3"
"#;

fn path(number: u64) -> String {
    format!("/projects/web/deployments/{number}")
}

/// The stream of a deployment's screen.
async fn live(server: &TestServer, number: u64, after: Option<u64>) -> EventStream {
    let after = after.map(|after| format!("?after={after}")).unwrap_or_default();
    let request = server.request(Method::GET, &format!("{}/live{after}", path(number)));
    EventStream::open(request.header(header::ACCEPT, "text/event-stream")).await
}

/// The next frame of this name; its id and its data.
async fn frame(stream: &mut EventStream, name: &str) -> (Option<u64>, String) {
    loop {
        let text = stream.next_text().await.expect("the stream goes on");
        let field = |name: &str| {
            let values: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
            (!values.is_empty()).then(|| values.join("\n"))
        };
        if field("event").as_deref() == Some(name) {
            return (field("id").map(|id| id.parse().unwrap()), field("data").unwrap_or_default());
        }
    }
}

/// How many lines a screen shows.
fn lines_of(html: &str) -> usize {
    html.matches("<a class=\"n\"").count()
}

#[tokio::test]
async fn a_failure_explains_itself_and_each_phase_has_its_time() {
    let server = TestServer::gated_with(PIPELINES);
    let first = server.accepted(json!({ "pipeline": "quick", "actor": "alice", "order": 7 })).await;
    server.finished(&first).await;
    let wish = json!({
        "pipeline": "fails", "actor": "mara", "message": "New checkout", "ref": "main", "order": 8,
        "commit": "5d1e770aa5d1e770aa5d1e770aa5d1e770aa5d1e", "url": "https://ci.example/1841", "inputs": { "image": "x:1" },
    });
    let failed = server.accepted(wish).await;
    server.finished(&failed).await;
    let html = screen(&server, &path(2)).await.text;
    assert!(html.contains("<title>web #2 failed in verify · Singletrack</title>"), "{html}");
    let head = part(&html, "id=\"d-head\"", "</div>");
    for told in [
        "<span class=\"tag bad\">failed in verify</span>",
        "“New checkout”",
        "<span class=\"who\">mara</span>",
        "main@<span class=\"mono\"",
        "build 8",
        "href=\"https://ci.example/1841\"",
        "did not wait",
        "rolled back in ",
        "What was done was rolled back.",
        "<a href=\"/projects/web/deployments/1\">#1 alice</a> is what succeeded last.",
    ] {
        assert!(head.contains(told), "{told}: {head}");
    }
    let times = part(&html, "id=\"d-times\"", "</section>");
    for told in [">Ran<", ">Rolled back<", ">migrate<", ">verify<", ">↺ migrate<", "class=\"mark bad\"", "b-bad"] {
        assert!(times.contains(told), "{told}: {times}");
    }
    let facts = part(&html, "id=\"d-facts\"", "</section>");
    for told in
        ["image=x:1", "<dt>submitted by</dt><dd>local</dd>", "fencing token", "slot before", "#1 alice", &failed]
    {
        assert!(facts.contains(told), "{told}: {facts}");
    }
    let story = part(&html, "id=\"d-story\"", "</section>");
    for told in ["mara submitted; the slot was free", "started by", "migrate succeeded", "verify failed", "rolled back"]
    {
        assert!(story.contains(told), "{told}: {story}");
    }
    let log = part(&html, "id=\"log\"", "</section>\n</div>");
    for told in
        ["migrating", "<div class=\"l err\"", "cannot reach payments", "<details class=\"part\"", "verify failed"]
    {
        assert!(log.contains(told), "{told}: {log}");
    }
    // By its id it is the same, and a final one needs no stream.
    assert!(screen(&server, &format!("/projects/web/deployments/{failed}")).await.text.contains("“New checkout”"));
    assert!(!html.contains("data-live="));
}

#[tokio::test]
async fn a_wait_is_told_part_by_part_and_the_others_are_linked() {
    let server = TestServer::gated();
    let held = server.at_the_gate().await;
    let waiting = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "actor": "bob" })).await;
    let html = screen(&server, &path(2)).await.text;
    assert!(html.contains("<span class=\"tag wait\">waiting</span>") && html.contains("It is next in line"), "{html}");
    assert!(html.contains("for <a href=\"/projects/web/deployments/1\">#1</a>"), "{html}");
    assert!(!part(&html, "id=\"d-head\"", "</div>").contains("running"));
    server.open_gate();
    server.finished(&held).await;
    server.finished(&waiting).await;
    let html = screen(&server, &path(2)).await.text;
    let story = part(&html, "id=\"d-story\"", "</section>");
    assert!(
        story.contains("bob submitted, number 1 in line behind <a href=\"/projects/web/deployments/1\">"),
        "{story}"
    );
    assert!(story.contains("got the slot"), "{story}");
    let facts = part(&html, "id=\"d-facts\"", "</section>");
    assert!(facts.contains("<dt>slot before</dt><dd><a href=\"/projects/web/deployments/1\">"), "{facts}");
    let first = screen(&server, &path(1)).await.text;
    let facts = part(&first, "id=\"d-facts\"", "</section>");
    assert!(facts.contains("<dt>slot after</dt><dd><a href=\"/projects/web/deployments/2\">#2 bob</a>"), "{facts}");
}

#[tokio::test]
async fn long_output_comes_in_windows_and_each_line_has_a_link() {
    let server = TestServer::gated_with(PIPELINES);
    let id = server.accepted(json!({ "pipeline": "many" })).await;
    server.finished(&id).await;
    let end = screen(&server, &path(1)).await.text;
    assert_eq!(lines_of(&end), 999, "a thousand rows, of which one is the end of the phase");
    assert!(end.contains("<span>2500</span>") && !end.contains("<span>1400</span>"));
    // From window to window, back to the beginning: every line stands in exactly one.
    let (mut html, mut seen) = (end.clone(), Vec::new());
    loop {
        let rows = html.split("<div class=\"l\" ").skip(1);
        let lines: Vec<u64> = rows.filter_map(|row| part(row, "</time><span>", "</span>").parse().ok()).collect();
        seen.splice(0..0, lines);
        let earlier = part(&html, "id=\"log-earlier\"", "</p>");
        if earlier.starts_with(" hidden") {
            break;
        }
        let link = part(earlier, "href=\"", "#").to_owned();
        html = screen(&server, &link).await.text;
        assert!(html.contains("id=\"log-part\""), "it is not the end, so nothing is appended to it");
    }
    assert_eq!(seen, (1..=2500).collect::<Vec<_>>());
    // A line's own link shows it with what stands around it.
    let row = end.split("<div class=\"l\" ").find(|row| row.contains("<span>2000</span>")).unwrap();
    let link = part(row, "href=\"", "\"");
    let (query, anchor) = link.split_once('#').unwrap();
    let around = screen(&server, &format!("{}{query}", path(1))).await.text;
    assert!(around.contains(&format!("id=\"{anchor}\"")) && around.contains("<span>2000</span>"));
    assert!(around.contains("<span>1600</span>") && around.contains("<span>2400</span>"));
    for (query, status) in [("?line=0", 400), ("?line=x", 400), ("?line=1&before=2", 400), ("?line=999999", 200)] {
        assert_eq!(screen(&server, &format!("{}{query}", path(1))).await.status, status, "{query}");
    }
    assert!(screen(&server, &format!("{}?times=off", path(1))).await.text.contains("class=\"log no-times\""));
}

#[tokio::test]
async fn output_is_searched_on_the_server_and_downloaded_whole() {
    let server = TestServer::gated_with(PIPELINES);
    let id = server.accepted(json!({ "pipeline": "many" })).await;
    server.finished(&id).await;
    let found = screen(&server, &format!("{}?find=99", path(1))).await.text;
    assert!(found.contains("<mark>99</mark>") && found.contains("<b>43</b> lines with “99”"), "{found}");
    let link = part(part(&found, "<div class=\"l\"", "</div>"), "href=\"", "#");
    assert!(screen(&server, &format!("{}{link}", path(1))).await.text.contains("<span>99</span>"));
    let much = screen(&server, &format!("{}?find=1", path(1))).await.text;
    assert!(
        lines_of(&much) == 200 && much.contains(", up to line ") && much.contains("Search on"),
        "it says where it stopped"
    );
    let on = part(&much, "<a href=\"/projects/web/deployments/1?find=1&amp;from=", "\"");
    let more = screen(&server, &format!("{}?find=1&from={on}", path(1))).await.text;
    assert!(lines_of(&more) == 200 && !more.contains("</time><span><mark>1</mark></span>"), "{more}");
    let none = screen(&server, &format!("{}?find=%3Cb%3E", path(1))).await.text;
    assert!(none.contains("<b>0</b> lines with “&#60;b&#62;”"), "{none}");
    assert_eq!(screen(&server, &format!("{}?find={}", path(1), "x".repeat(201))).await.status, 400);

    let file = screen(&server, &format!("{}/log", path(1))).await;
    assert_eq!(file.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(file.header("content-disposition"), "attachment; filename=\"web-1.log\"");
    let expected: String = (1..=2500).map(|line| format!("{line}\n")).collect();
    assert_eq!(file.text, expected);
}

#[tokio::test]
async fn the_stream_brings_rows_and_parts_goes_on_where_it_was_and_ends() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let html = screen(&server, &path(1)).await.text;
    let live_path = part(&html, "data-live=\"", "\"").to_owned();
    let last: u64 = part(&format!("{live_path}!"), "after=", "!").parse().unwrap();
    let mut stream = live(&server, 1, None).await;
    assert!(stream.next_text().await.unwrap().starts_with("event: beat"), "something comes at once");
    let (_, parts) = frame(&mut stream, "patch").await;
    for id in ["d-head", "d-times", "d-facts", "d-story"] {
        assert!(parts.contains(&format!("id=\"{id}\"")), "{id}: {parts}");
    }
    let (seq, rows) = frame(&mut stream, "append").await;
    assert!(rows.starts_with("log\n<details class=\"part\"") || rows.contains("at the gate"), "{rows}");
    // Another one comes later, and gets what came since then.
    let mut second = live(&server, 1, Some(last)).await;
    server.open_gate();
    server.finished(&id).await;
    let (_, rows) = frame(&mut second, "append").await;
    assert!(rows.contains("gate succeeded") && !rows.contains("at the gate"), "{rows}");
    let (_, parts) = frame(&mut second, "patch").await;
    assert!(parts.contains("<span class=\"tag ok\">succeeded</span>") && parts.contains("data-final"), "{parts}");
    let (end, _) = frame(&mut second, "end").await;
    assert_eq!(second.next_text().await, None, "it is over");
    assert!(end > seq);
    // Whoever comes after the end is told so, and where a proxy holds streams up, a long-poll brings the same.
    let mut late = live(&server, 1, end).await;
    frame(&mut late, "end").await;
    let polled = server.request(Method::GET, &format!("{}/live?after={last}&maxWaitSeconds=5", path(1)));
    let text = polled.header(header::ACCEPT, "application/json").send().await.unwrap().text().await.unwrap();
    assert!(
        text.starts_with("event: beat") && text.contains("gate succeeded") && text.contains("event: end"),
        "{text}"
    );
    // A page of a store that knew more loads itself again.
    let mut ahead = live(&server, 1, Some(1_000)).await;
    frame(&mut ahead, "reload").await;
}

#[tokio::test]
async fn hostile_output_steers_nothing() {
    let server = TestServer::gated();
    let text = "\"><script>alert(1)</script>\u{202e}";
    let wish = json!({
        "executor": "client", "claim": true, "leaseSeconds": 600, "actor": text, "message": text, "ref": text,
        "inputs": { "a": text },
    });
    let answer = server.submit(wish).await;
    let secret = answer.body["lease"]["secret"].as_str().unwrap().to_owned();
    let lines = [
        "<script>alert(1)</script>",
        "\u{1b}[31mred\u{1b}[0m \u{1b}[2Jcleared \u{1b}]0;title\u{7}",
        "a\u{202e}b\u{0}c",
        "10 %\r50 %\r100 %",
        &"<".repeat(60_000),
    ];
    let reports = json!({ "first": 1, "reports": [
        { "type": "phase", "name": text.replace('\u{202e}', ""), "state": "started" },
        { "type": "log", "stream": "stdout", "phase": null, "lines": lines },
        { "type": "output", "name": "url", "value": "https://web.example/x" },
        { "type": "output", "name": "evil", "value": "javascript:alert(1)" },
    ] });
    let path_of_reports = format!("/v1/projects/web/deployments/{}/reports", answer.id());
    let request = server.request(Method::POST, &path_of_reports).header("Singletrack-Lease", &secret);
    let reported = crate::harness::send(request.json(&reports)).await;
    assert_eq!(reported.status, 200, "{}", reported.text);
    for path in [path(1), format!("{}?find=%3Cscript%3E", path(1)), format!("{}?line=1", path(1))] {
        let html = screen(&server, &path).await.text;
        assert_eq!(html.matches("<script").count(), 2, "the page's own: {html}");
        assert!(!html.contains(['\u{202e}', '\u{1b}', '\u{7}', '\0']), "{path}");
        assert!(!html.contains("href=\"javascript"), "{html}");
        assert!(html.len() < 200_000, "{}", html.len());
    }
    let html = screen(&server, &path(1)).await.text;
    assert!(html.contains("<span>red cleared </span>") && html.contains("<span>100 %</span>"), "{html}");
    assert!(html.contains("more characters; the download has them"));
    assert!(html.contains("<a href=\"https://web.example/x\" rel=\"noreferrer\">"));
    let rows = frame(&mut live(&server, 1, Some(1)).await, "append").await.1;
    assert!(rows.contains("alert(1)") && !rows.contains("<script") && !rows.contains('\u{1b}'), "{rows}");
}

#[tokio::test]
async fn who_did_what_is_for_admins_and_a_foreign_project_is_not_there() {
    let (admin, admins) = a_token("admin", "");
    let (reader, readers) = a_token("reader", "scopes = [\"read\"]\nprojects = [\"web\"]");
    let mut server = TestServer::start(&gated_config(&format!("{admins}{readers}")));
    server.client = client_with(&admin);
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let html = screen(&server, &path(1)).await.text;
    assert!(html.contains("id=\"d-audit\"") && html.contains("<b>submit</b> by token:admin"), "{html}");
    server.client = client_with(&reader);
    let html = screen(&server, &path(1)).await.text;
    assert!(html.contains("id=\"d-story\"") && !html.contains("id=\"d-audit\""), "{html}");
    assert_eq!(screen(&server, "/projects/shop/deployments/1").await.status, 404);
    assert_eq!(screen(&server, &path(9)).await.status, 404);
}

#[tokio::test]
async fn a_form_cancels_and_says_who_and_why() {
    let (token, admins) = a_token("root", "");
    let (reader, readers) = a_token("reader", "scopes = [\"read\"]");
    let mut server = TestServer::start(&gated_config(&format!("{admins}{readers}")));
    server.close_gate();
    server.client = client_with(&token);
    let id = server.at_the_gate().await;
    let browser = Browser::signed_in(&server, &token).await;
    let page = browser.get(&path(1)).await.text;
    for action in ["/cancel\"", "/redeploy\"", "href=\"/projects/web/release\""] {
        assert!(part(&page, "class=\"actions\"", "</div>").contains(action), "{action}: {page}");
    }
    let form = format!("{}/cancel", path(1));
    let asked = browser.get(&form).await.text;
    assert!(asked.contains("Its worker is asked to stop.") && asked.contains("name=\"reason\""), "{asked}");
    assert_eq!(browser.post(&form, &[("reason", "x")]).await.status, 403, "without the proof");
    let done = browser.submit(&form, &form, &[("reason", "wrong <b>branch</b>")]).await;
    assert_eq!((done.status, &*done.location), (303, &*path(1)), "{}", done.text);
    let ended = server.finished(&id).await;
    assert_eq!((&ended["status"], &ended["cancelledBy"]["identity"]), (&json!("CANCELLED"), &json!("token:root")));
    let page = browser.get(&path(1)).await.text;
    assert!(page.contains("Cancelled: wrong &#60;b&#62;branch&#60;/b&#62;. It was asked for by token:root."), "{page}");
    assert!(browser.get(&form).await.text.contains("there is nothing to cancel"));

    // Who may only read sees no button, and is refused.
    let other = Browser::signed_in(&server, &reader).await;
    let page = other.get(&path(1)).await.text;
    assert!(!page.contains("/cancel\"") && !page.contains("/redeploy\"") && !page.contains("/release\""), "{page}");
    for form in ["cancel", "redeploy"] {
        let form = format!("{}/{form}", path(1));
        assert_eq!(other.get(&form).await.status, 403);
        assert_eq!(other.submit(&path(1), "/sign-out", &[]).await.status, 303);
        assert_eq!(other.sign_in(&reader, "/").await.status, 303);
        let proof = other.get("/sign-in").await.proof();
        assert_eq!(other.post(&form, &[("csrf", &proof)]).await.status, 403, "{form}");
    }
    server.open_gate();
}

#[tokio::test]
async fn a_form_deploys_the_same_again_once() {
    let (token, admins) = a_token("root", "");
    let more = format!("secret_inputs = [\"*_key\"]\n{admins}");
    let mut server = TestServer::start(&gated_config(&more));
    server.client = client_with(&token);
    let wish = |order: u64| json!({ "pipeline": "quick", "order": order, "commit": "abc", "inputs": { "a": "1", "x_key": "hush-hush" } });
    for order in [1, 2] {
        let id = server.accepted(wish(order)).await;
        server.finished(&id).await;
    }
    let browser = Browser::signed_in(&server, &token).await;
    let page = browser.get(&path(1)).await.text;
    assert!(page.contains("x_key=••• (") && !page.contains("hush-hush"), "{page}");
    let form = format!("{}/redeploy", path(1));
    let asked = browser.get(&form).await;
    for told in ["a=1", "name=\"secret.x_key\"", "Build 2 is newer", "The slot is free"] {
        assert!(asked.text.contains(told), "{told}: {}", asked.text);
    }
    let (key, proof) = (part(&asked.text, "name=\"key\" value=\"", "\"").to_owned(), asked.proof());
    let base = [("csrf", &*proof), ("key", &*key), ("secret.x_key", "hush-hush")];
    let outdated = browser.post(&form, &base).await;
    assert_eq!(outdated.status, 409, "{}", outdated.text);
    let back = [&base[..], &[("rollback", "yes")]].concat();
    let fresh = part(&browser.get(&form).await.text, "name=\"key\" value=\"", "\"").to_owned();
    let back: Vec<_> =
        back.into_iter().map(|(name, value)| (name, if name == "key" { &*fresh } else { value })).collect();
    for _ in 0..2 {
        let done = browser.post(&form, &back).await;
        assert_eq!((done.status, &*done.location), (303, &*path(3)), "{}", done.text);
    }
    let made = server.get("/v1/projects/web/deployments/3").await.body;
    assert_eq!((&made["retryOfDeployment"]["number"], &made["actor"]), (&json!(1), &json!("root")), "{made}");
    assert_eq!((&made["inputs"], &made["commit"]), (&json!({ "a": "1" }), &json!("abc")));
    server.finished(made["id"].as_str().unwrap()).await;
    assert_eq!(server.deployments().await.len(), 3);
}
