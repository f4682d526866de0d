//! Texts for Slack and Teams, whatever users wrote.

use serde_json::{Value, json};

use super::{claimed, finish};
use crate::harness::{TestServer, gated_config, receiver::Receiver};

/// Strings that would do something if they were taken for more than text.
const HOSTILE: &[&str] = &[
    "<!channel> <!here> <@U123>",
    "<https://evil.example|click here>",
    "[click](https://evil.example)",
    "*bold* _italic_ ~struck~ `code`",
    "```block```",
    "<script>alert(1)</script>",
    "&lt;b&gt; & \"quoted\" \\ 'single'",
    "\u{202e}gnp.exe\u{2066}",
    "two\nlines\r\n> quoted\ttab",
    "\u{1b}[31mred\u{1b}[0m \u{7}",
    "@everyone @channel",
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_strings_are_text_in_every_form() {
    let receiver = Receiver::start();
    let rules = [
        receiver.rule("slack", "slack", "events = [\"started\"]"),
        receiver.rule("teams", "teams", "events = [\"started\"]"),
        receiver.webhook("hook", "events = [\"started\"]"),
    ];
    let server = TestServer::start(&gated_config(&rules.concat()));
    for hostile in HOSTILE {
        // Names take no control characters; a message does not either, where the server's door says so.
        let line: String = hostile.chars().filter(|letter| !letter.is_control()).collect();
        let wish = json!({ "actor": line, "ref": line, "message": line, "url": "https://ci.example/?a=1&b=<2>|3" });
        let (id, secret) = claimed(&server, wish).await;
        for _ in 0..3 {
            let sent = receiver.next().await;
            let body = sent.json();
            match &*sent.target {
                "/slack" => {
                    let text = body["text"].as_str().unwrap();
                    let links: Vec<_> = text.match_indices('<').collect();
                    assert_eq!(links.len(), 1, "{text}");
                    assert!(text.contains("<https://ci.example/?a=1&amp;b=%3C2%3E%7C3|CI run>"), "{text}");
                    for active in ["*bold", "_italic", "~struck", "`code", "```", "@everyone", "@channel", "<!", "<@"] {
                        assert!(!text.contains(active), "{active}: {text}");
                    }
                    assert!(!text.contains('\u{202e}') && !text.contains('\u{2066}'), "{text}");
                }
                "/teams" => {
                    let card = &body["attachments"][0]["content"];
                    assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
                    for block in card["body"].as_array().unwrap() {
                        // A text run has no markdown.
                        assert_eq!(
                            (&block["type"], &block["inlines"][0]["type"]),
                            (&json!("RichTextBlock"), &json!("TextRun"))
                        );
                    }
                    let actions = card["actions"].as_array().unwrap();
                    assert_eq!(actions.len(), 1);
                    assert_eq!(actions[0]["url"], "https://ci.example/?a=1&b=<2>|3");
                }
                _ => assert_eq!(body["type"], "deployment.started"),
            }
        }
        finish(&server, &id, &secret, json!({ "status": "SUCCEEDED" })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_told_who_what_and_how_long_in_words() {
    let receiver = Receiver::start();
    let rule = receiver.rule("slack", "slack", "waits_longer_than = \"1s\"");
    let server = TestServer::start(&gated_config(&format!("public_url = \"https://deploys.example.com/\"\n{rule}")));
    let text = async || receiver.next().await.json()["text"].as_str().unwrap().to_owned();
    let (id, secret) = claimed(&server, json!({ "actor": "alice", "ref": "main", "commit": "3f2a91c07e5512" })).await;
    let started = text().await;
    assert!(started.starts_with("web#1 started"), "{started}");
    assert!(started.contains("alice · main · 3f2a91c07e\n"), "{started}");
    assert!(started.ends_with("<https://deploys.example.com/projects/web/deployments/1|deployment>"), "{started}");
    let waiting = server.accepted(json!({ "onConflict": "queue", "pipeline": "quick", "actor": "bob" })).await;
    let waits = text().await;
    assert!(waits.starts_with("web#2 has not started, and waits since"), "{waits}");
    assert!(waits.contains("number 1 in line: web#1 of alice"), "{waits}");
    server.post("/v1/projects/web/pause", json!({ "reason": "a freeze", "actor": "erin" })).await;
    assert_eq!(text().await, "web was paused by erin (local)\na freeze");
    finish(
        &server,
        &id,
        &secret,
        json!({ "status": "FAILED", "error": { "code": "PHASE_FAILED", "message": "no room" } }),
    )
    .await;
    let failed = text().await;
    assert!(failed.starts_with("web#1 failed after ") && failed.contains(": no room"), "{failed}");
    server.post("/v1/projects/web/resume", json!({})).await;
    // What is told of the project and of the deployment goes beside each other.
    let told = [text().await, text().await, text().await];
    let place =
        |begin: &str| told.iter().position(|text| text.starts_with(begin)).unwrap_or_else(|| panic!("{told:#?}"));
    assert_eq!(told[place("web was resumed")], "web was resumed by local");
    assert!(place("web#2 started, it waited") < place("web#2 succeeded after"), "{told:#?}");
    assert_eq!(server.finished(&waiting).await["status"], Value::from("SUCCEEDED"));
}
