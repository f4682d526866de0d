//! The forms of a project, the one that holds everything, and the outbox: what they say, whom they let, and what they do.

use serde_json::json;

use super::{Browser, a_token, closed};
use crate::harness::{TestServer, gated_config};

const TWO: &str = "
[[projects.docs.pipelines.quick.phases]]
name = \"only\"
run = \"true\"
[[projects.shop.pipelines.quick.phases]]
name = \"only\"
run = \"true\"
";

/// What the audit log says of these actions, the last one first: action, project and detail.
async fn audit(server: &TestServer, action: &str) -> Vec<(String, String)> {
    let answer = server.get(&format!("/v1/audit?action={action}")).await;
    let text = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let entries = answer.body["entries"].as_array().unwrap();
    entries.iter().map(|entry| (text(entry, "project"), text(entry, "detail"))).collect()
}

#[tokio::test]
async fn a_form_pauses_and_resumes_as_the_api_does() {
    let server = TestServer::gated();
    let browser = Browser::of(&server);
    let held = server.at_the_gate().await;
    let path = "/projects/web/pause";
    let form = browser.get(path).await;
    assert!(form.text.contains("Pause web") && form.text.contains("runs, and goes on."), "{}", form.text);
    // What was typed is kept where something is wrong.
    let wrong = [("reason", "<b>stock</b> is counted"), ("until", "soonish"), ("actor", "lena")];
    let again = browser.submit(path, path, &wrong).await;
    assert_eq!(again.status, 400, "{}", again.text);
    for kept in ["role=\"alert\"", "until is a time from now on", "value=\"soonish\"", "value=\"lena\""] {
        assert!(again.text.contains(kept), "{kept}: {}", again.text);
    }
    assert!(!again.text.contains("<b>stock") && again.text.contains("stock"), "{}", again.text);
    assert_eq!(browser.submit(path, path, &[("reason", " ")]).await.status, 400);
    let past = browser.submit(path, path, &[("reason", "x"), ("until", "2020-01-01T00:00:00Z")]).await;
    assert!(past.status == 400 && past.text.contains("which is over"), "{}", past.text);
    assert!(audit(&server, "pause").await.is_empty());

    let done =
        browser.submit(path, path, &[("reason", "the stock is counted"), ("until", "2h"), ("actor", "lena")]).await;
    assert_eq!((done.status, &*done.location), (303, "/projects/web"), "{}", done.text);
    let hold = &server.project().await["hold"];
    assert_eq!((&hold["reason"], &hold["actor"]), (&json!("the stock is counted"), &json!("lena")));
    assert!(hold["until"].is_string(), "{hold}");
    let page = browser.get("/projects/web").await.text;
    assert!(page.contains("data-held=\"pause\"") && page.contains("Change the pause…"), "{page}");
    assert!(browser.get(path).await.text.contains("It is held already: paused by lena"));

    let path = "/projects/web/resume";
    assert!(browser.get(path).await.text.contains("the stock is counted"));
    let done = browser.submit(path, path, &[("reason", "counted")]).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(server.project().await["hold"].is_null());
    assert_eq!(audit(&server, "resume").await, [("web".to_owned(), "counted".to_owned())]);
    assert!(browser.get(path).await.text.contains("is not paused, so there is nothing to resume"));
    server.open_gate();
    server.finished(&held).await;
}

#[tokio::test]
async fn a_slot_is_released_from_the_holder_that_the_form_named_and_from_a_live_worker_only_if_told_so() {
    let server = TestServer::gated();
    let browser = Browser::of(&server);
    let path = "/projects/web/release";
    assert!(browser.get(path).await.text.contains("is free, so there is nothing to release"));
    let held = server.at_the_gate().await;
    let form = browser.get(path).await;
    assert!(form.text.contains("Its worker is alive") && form.text.contains("deployments/1\">#1"), "{}", form.text);
    let other = "0190aaaa-0000-7000-8000-000000000000";
    let stale = browser.submit(path, path, &[("reason", "stuck"), ("holder", other), ("even_if_alive", "yes")]).await;
    assert!(stale.status == 409 && stale.text.contains("holds the slot by now"), "{} {}", stale.status, stale.text);
    let alive = browser.submit(path, path, &[("reason", "stuck"), ("holder", &held)]).await;
    assert!(alive.status == 409 && alive.text.contains("value=\"stuck\""), "{} {}", alive.status, alive.text);
    let done = browser.submit(path, path, &[("reason", "stuck"), ("holder", &held), ("even_if_alive", "yes")]).await;
    assert_eq!((done.status, &*done.location), (303, "/projects/web"), "{}", done.text);
    assert_eq!(audit(&server, "release").await, [("web".to_owned(), "stuck".to_owned())]);
    server.open_gate();
    server.finished(&held).await;
}

#[tokio::test]
async fn a_rollback_offers_the_last_successes_and_is_made_once_however_often_its_form_is_sent() {
    let server = TestServer::gated();
    let browser = Browser::of(&server);
    let path = "/projects/web/rollback";
    assert!(browser.get(path).await.text.contains("There is nothing to go back to"));
    for actor in ["alice", "bob"] {
        let id = server.accepted(json!({ "pipeline": "quick", "actor": actor, "commit": "3f2a91c" })).await;
        server.finished(&id).await;
    }
    let form = browser.get(path).await.text;
    assert!(form.contains("<option value=\"1\" selected>#1 alice") && form.contains("#2 bob"), "{form}");
    let key = super::part(&form, "name=\"key\" value=\"", "\"").to_owned();
    let fields = [("to", "1"), ("reason", "broken cart"), ("key", &*key), ("actor", "mara")];
    for _ in 0..2 {
        let done = browser.submit(path, path, &fields).await;
        assert_eq!((done.status, &*done.location), (303, "/projects/web"), "{}", done.text);
    }
    let all = server.deployments().await;
    assert_eq!(all.len(), 3, "{all:?}");
    server.finished(all[0]["id"].as_str().unwrap()).await;
    let project = server.project().await;
    assert_eq!((&project["hold"]["pin"], &project["hold"]["reason"]), (&json!(1), &json!("broken cart")), "{project}");
    let gone = browser.submit(path, path, &[("to", "77"), ("key", "another"), ("reason", "kept")]).await;
    assert!(gone.status == 404 && gone.text.contains("value=\"kept\""), "{} {}", gone.status, gone.text);
}

#[tokio::test]
async fn the_mark_is_set_and_removed_by_a_form() {
    let server = TestServer::gated();
    let browser = Browser::of(&server);
    let path = "/projects/web/mark";
    assert!(browser.get(path).await.text.contains("Now there is none."));
    let wrong = browser.submit(path, path, &[("order", "4x"), ("reason", "data loss")]).await;
    assert!(wrong.status == 400 && wrong.text.contains("value=\"4x\""), "{}", wrong.text);
    assert_eq!(browser.submit(path, path, &[("order", "42"), ("reason", "data loss")]).await.status, 303);
    assert_eq!(server.project().await["mark"]["order"], 42);
    assert!(browser.get("/projects/web").await.text.contains("build 42, the mark that"));
    assert_eq!(browser.submit(path, path, &[("order", "")]).await.status, 303);
    assert!(server.project().await["mark"].is_null());
}

#[tokio::test]
async fn what_a_viewer_may_not_do_is_neither_shown_nor_done() {
    let (reader, table) = a_token("reader", "scopes = [\"read\"]");
    let (narrow, more) = a_token("narrow", "projects = [\"docs\"]");
    let (server, root) = closed("sqlite:test.db", &format!("{TWO}{table}{more}"));
    let forms = ["pause", "resume", "release", "rollback", "mark"];
    let browser = Browser::signed_in(&server, &reader).await;
    let page = browser.get("/projects/web").await;
    let proof = page.proof();
    for form in forms {
        let path = format!("/projects/web/{form}");
        assert!(!page.text.contains(&path), "{form}: {}", page.text);
        assert_eq!(browser.get(&path).await.status, 403, "{form}");
        assert_eq!(browser.post(&path, &[("reason", "x"), ("csrf", &proof)]).await.status, 403, "{form}");
    }
    for path in ["/hold", "/notifications"] {
        assert!(!browser.get("/").await.text.contains(&format!("href=\"{path}\"")), "{path}");
        assert_eq!(browser.get(path).await.status, 403, "{path}");
    }
    let admin = Browser::signed_in(&server, &root).await;
    let page = admin.get("/projects/web").await.text;
    forms.iter().for_each(|form| assert!(page.contains(&format!("/projects/web/{form}\"")), "{form}: {page}"));
    assert!(admin.get("/").await.text.contains("href=\"/hold\""));
    // Who administers some projects sees no button for all of them.
    let some = Browser::signed_in(&server, &narrow).await;
    assert!(!some.get("/").await.text.contains("href=\"/hold\""));
    assert_eq!(some.get("/projects/web/pause").await.status, 404);
}

#[tokio::test]
async fn one_button_holds_everything_and_lets_go_what_it_held_and_nothing_else() {
    let server = TestServer::start(&gated_config(TWO));
    let browser = Browser::of(&server);
    server.post("/v1/projects/shop/pause", json!({ "reason": "its own" })).await;
    let form = browser.get("/hold").await.text;
    assert!(
        form.contains("2 projects are open") && form.contains("1 project is held by something else already: shop"),
        "{form}"
    );
    let wrong = browser.submit("/hold", "/hold", &[("reason", ""), ("actor", "lena")]).await;
    assert!(wrong.status == 400 && wrong.text.contains("value=\"lena\""), "{}", wrong.text);
    let done = browser.submit("/hold", "/hold", &[("reason", "the network is moved"), ("actor", "lena")]).await;
    assert_eq!((done.status, &*done.location), (303, "/hold"), "{}", done.text);
    let first = browser.get("/").await.text;
    let banner = super::part(&first, "id=\"everything\"", "</p>");
    for told in ["Everything is held (2 of 3 projects)", "By lena", "the network is moved"] {
        assert!(banner.contains(told), "{told}: {banner}");
    }
    let hold = async |project: &str| server.get(&format!("/v1/projects/{project}")).await.body["hold"].clone();
    assert_eq!(hold("web").await["reason"], "everything is held: the network is moved");
    assert_eq!(hold("shop").await["reason"], "its own");
    // A pause that somebody has changed meanwhile is theirs.
    server.post("/v1/projects/docs/pause", json!({ "reason": "docs are printed" })).await;
    let form = browser.get("/hold").await.text;
    assert!(form.contains("1 project is held.") && form.contains("Let 1 project go"), "{form}");
    let done = browser.submit("/hold", "/hold/end", &[]).await;
    assert_eq!((done.status, &*done.location), (303, "/"), "{}", done.text);
    assert!(hold("web").await.is_null());
    assert_eq!(
        (hold("docs").await["reason"].clone(), hold("shop").await["reason"].clone()),
        (json!("docs are printed"), json!("its own"))
    );
    let paused: Vec<_> = audit(&server, "pause").await.into_iter().map(|(project, _)| project).collect();
    assert_eq!(paused.iter().filter(|project| *project == "shop").count(), 1, "{paused:?}");
    assert_eq!(audit(&server, "resume").await.len(), 1);
    assert!(browser.get("/").await.text.contains("<p class=\"banner\" id=\"everything\" hidden>"));
}

#[tokio::test]
async fn what_was_given_up_is_shown_with_its_reason_and_can_be_tried_again() {
    let rule = "[[notify]]\nname = \"chat\"\nkind = \"slack\"\nurl = \"https://localhost:1/x\"\nevents = [\"failed\"]\nattempts = 1\n";
    let server = TestServer::start(&gated_config(rule));
    let browser = Browser::of(&server);
    assert!(browser.get("/notifications").await.text.contains("Nothing waits to be told."));
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    let given_up = async || loop {
        let page = browser.get("/notifications?state=dead").await.text;
        if page.contains("given up</span>") {
            return page;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let page = given_up().await;
    assert!(page.contains("is a loopback address") && page.contains("by rule chat"), "{page}");
    let path = super::part(&page, "action=\"/notifications/", "\"").to_owned();
    let done = browser.submit("/notifications", &format!("/notifications/{path}"), &[]).await;
    assert_eq!((done.status, &*done.location), (303, "/notifications"), "{}", done.text);
    given_up().await;
    let retried = audit(&server, "notification_retry").await;
    assert_eq!(retried.len(), 1, "{retried:?}");
    assert_eq!(browser.get("/notifications?state=odd").await.status, 400);
}
