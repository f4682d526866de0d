//! Whole conversations with the command line, the real binary against a real server: what a user reads on each stream, and the exit
//! code. They are the tests of its words.

mod record;
mod terminal;

use serde_json::json;

use self::record::{Audience, Transcript};
use crate::harness::{DeafPort, TestServer};

const CONFIG: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "build"
run = "echo building ${SINGLETRACK_COMMIT:-the working tree}"
[[projects.web.pipelines.deploy.phases]]
name = "switch"
run = "echo '::singletrack output url=https://web.example/::'"

[[projects.web.pipelines.broken.phases]]
name = "build"
run = "echo building"
rollback = "echo 'taking it back'"
[[projects.web.pipelines.broken.phases]]
name = "switch"
run = "echo 'no such host' >&2; exit 3"

[[projects.web.pipelines.slow.phases]]
name = "gate"
run = '''
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
'''

[projects.docs]
paused = true
[[projects.docs.pipelines.deploy.phases]]
name = "only"
run = "true"
"#;

fn server() -> TestServer {
    let server = TestServer::start(CONFIG);
    server.close_gate();
    server
}

fn of(server: &TestServer, name: &str, about: &str, audience: Audience) -> Transcript {
    Transcript::of(name, about, &server.base, audience)
}

/// Deploys what stops at the gate, as this person; its id when it is there.
async fn at_the_gate(server: &TestServer, transcript: &Transcript, actor: &str) -> (record::Spoken, String) {
    let spoken = transcript.start(&["deploy", "--project", "web", "--pipeline", "slow", "--actor", actor]);
    let id = loop {
        // Nothing tells when a deployment is made but the deployment itself.
        match server.deployments().await.first() {
            Some(made) => break made["id"].as_str().unwrap().to_owned(),
            None => tokio::task::yield_now().await,
        }
    };
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    (spoken, id)
}

#[tokio::test]
async fn a_deploy_that_succeeds() {
    for audience in Audience::ALL {
        let server = server();
        let mut transcript = of(&server, "deploy", "A deploy that succeeds, and one that fails.", audience);
        transcript.say(&["deploy", "--project", "web", "--dotenv", "deploy.env"]);
        transcript.say(&["deploy", "--project", "web", "--pipeline", "broken", "--actor", "bob"]);
        transcript.check();
    }
}

#[tokio::test]
async fn a_deploy_that_waits_for_another_one_and_then_goes() {
    for audience in Audience::ALL {
        let server = server();
        let mut transcript = of(&server, "wait", "A deploy that waits for another one, and then goes.", audience);
        let (holder, _) = at_the_gate(&server, &transcript, "carol").await;
        let waits = transcript.start(&["deploy", "--project", "web", "--commit", "3f2a1b2c4d"]);
        // The stream of the one, the turn of the other.
        server.parked(2).await;
        server.open_gate();
        transcript.write(waits).write(holder).check();
    }
}

#[tokio::test]
async fn a_deploy_that_somebody_cancels() {
    let server = server();
    let mut transcript = of(&server, "cancel", "A deploy that somebody cancels.", Audience::Pipe);
    let (cancelled, id) = at_the_gate(&server, &transcript, "carol").await;
    transcript.say(&["cancel", "--project", "web", &id, "--reason", "wrong branch"]);
    transcript.write(cancelled);
    transcript.say(&["cancel", "--project", "web", &id]);
    transcript.check();
}

#[tokio::test]
async fn a_deploy_that_a_newer_one_supersedes() {
    for audience in [Audience::Pipe, Audience::GitHub] {
        let server = server();
        let mut transcript = of(&server, "superseded", "A deploy that a newer one supersedes.", audience);
        let (superseded, _) = at_the_gate(&server, &transcript, "carol").await;
        transcript.say(&["deploy", "--project", "web", "--cancel-in-progress-deployment"]);
        transcript.write(superseded).check();
    }
}

#[tokio::test]
async fn a_superseded_deploy_that_ends_well() {
    for (name, flag) in [("superseded-ok", "--superseded-ok"), ("follow-successor", "--follow-successor")] {
        let server = server();
        let about = format!("A superseded deploy with {flag}.");
        let mut transcript = of(&server, name, &about, Audience::Pipe);
        let args = ["deploy", "--project", "web", "--pipeline", "slow", "--commit", "3f2a1b2c4d", "--actor", "carol"];
        let superseded = transcript.start(&[&args[..], &[flag]].concat());
        let ours = loop {
            match server.deployments().await.first() {
                Some(made) => break made["id"].as_str().unwrap().to_owned(),
                None => tokio::task::yield_now().await,
            }
        };
        server.event(&ours, |event| event["lines"][0] == "at the gate").await;
        let newer = transcript.start(&[&args[..8], &["dave", "--cancel-in-progress-deployment"]].concat());
        let id = loop {
            match server.deployments().await.first().filter(|made| made["id"] != ours.as_str()) {
                Some(made) => break made["id"].as_str().unwrap().to_owned(),
                None => tokio::task::yield_now().await,
            }
        };
        server.event(&id, |event| event["lines"][0] == "at the gate").await;
        server.open_gate();
        transcript.write(superseded).write(newer).check();
    }
}

#[tokio::test]
async fn what_is_refused_says_what_to_do() {
    let server = server();
    let mut transcript = of(&server, "refused", "What is refused.", Audience::Pipe);
    let (held, _) = at_the_gate(&server, &transcript, "carol").await;
    for args in [
        &["deploy", "--project", "web", "--pipeline", "destory"][..],
        &["deploy", "--project", "docs", "--on-conflict", "fail"],
        &["deploy", "--project", "web", "--on-conflict", "fail"],
        &["status", "--project", "wbe"],
        &["deploy", "--project", "web", "--input", "a"],
        &["deploy", "--projct", "web"],
        &["deploy", "--project", "web", "--order", "x"],
        &["depoly", "--project", "web"],
        &["explain", "SUPERCEDED"],
    ] {
        transcript.say(args);
    }
    server.open_gate();
    transcript.write(held);
    transcript.say(&["deploy", "--project", "web", "--order", "42"]);
    transcript.say(&["deploy", "--project", "web", "--order", "41"]);
    transcript.say(&["deploy", "--project", "web", "--order", "41", "--superseded-ok"]);
    transcript.check();
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen() {
    let server = server();
    let mut transcript = of(&server, "dry-run", "What would happen.", Audience::Pipe);
    transcript.say(&["deploy", "--project", "web", "--dry-run"]);
    transcript.say(&["deploy", "--project", "web", "--commit", "3f2a1b2c4d", "--dotenv", "deploy.env"]);
    let carol = ["deploy", "--project", "web", "--pipeline", "slow", "--actor", "carol", "--detach"];
    transcript.say(&carol);
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    transcript.say(&["deploy", "--project", "web", "--commit", "4a5b6c7d8e", "--dry-run"]);
    transcript.say(&["deploy", "--project", "docs", "--dry-run"]);
    server.open_gate();
    server.finished(&id).await;
    transcript.check();
}

#[tokio::test]
async fn why_list_and_status_tell_how_things_stand() {
    let server = server();
    let mut transcript = of(&server, "look", "How things stand.", Audience::Pipe);
    transcript.say(&["list"]);
    transcript.say(&["why", "--project", "web"]);
    transcript.say(&["deploy", "--project", "web", "--ref", "main", "--commit", "3f2a1b2c4d"]);
    transcript.say(&["deploy", "--project", "web", "--pipeline", "broken"]);
    let id = server.accepted(json!({ "pipeline": "slow", "actor": "carol", "ref": "main", "order": 7 })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    server.accepted(json!({ "pipeline": "deploy", "actor": "dave", "onConflict": "queue" })).await;
    transcript.say(&["why", "--project", "web"]);
    transcript.say(&["status", "--project", "web"]);
    transcript.say(&["list", "--project", "web"]);
    transcript.say(&["list"]);
    server.open_gate();
    server.finished(&id).await;
    transcript.say(&["logs", "--project", "web", &id]);
    transcript.check();
}

#[tokio::test]
async fn without_a_server_it_is_said_what_to_check() {
    let port = DeafPort::take();
    let url = format!("http://127.0.0.1:{}", port.port);
    for audience in [Audience::Pipe, Audience::GitHub] {
        let mut transcript = Transcript::of("no-server", "No server is there.", &url, audience);
        transcript.say(&["list"]);
        transcript.check();
    }
}

#[tokio::test]
async fn explain_tells_the_cause_and_what_to_do() {
    let mut transcript = Transcript::of("explain", "What a code means.", "http://127.0.0.1:1", Audience::Pipe);
    transcript.say(&["explain", "superseded"]);
    transcript.say(&["explain", "137"]);
    transcript.check();
}

#[test]
fn every_transcript_belongs_to_a_conversation() {
    let source = include_str!("mod.rs");
    for entry in std::fs::read_dir(record::folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let conversation = name.split('.').next().unwrap();
        assert!(source.contains(&format!("\"{conversation}\"")), "nothing writes {name}");
    }
}
