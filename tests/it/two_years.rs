//! The chapter "Two years" of docs/operations.md, played through with small limits: the same commands, the same order.

use std::process::{Command, Output};

use reqwest::Method;
use serde_json::Value;

use crate::harness::{TestServer, a_token, client_with, gated_config, read};

/// What the chapter's server has beside its pipelines: one token as the way in, and retention with small limits.
const SMALL_LIMITS: &str = "[retention]\noutput = \"1s\"\nkeep = 1\ninterval = \"1s\"\n";

struct Played {
    server: TestServer,
    admin: String,
}

impl Played {
    /// A command with the administrator's token, which must succeed.
    fn admin(&self, args: &[&str]) -> String {
        self.with(&self.admin, args, 0)
    }

    /// A command with this token, and its exit code.
    fn with(&self, token: &str, args: &[&str], code: i32) -> String {
        let told: Output = self.tool(token, args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        assert_eq!(told.status.code(), Some(code), "{args:?}: {out}{err}");
        format!("{out}{err}")
    }

    fn tool(&self, token: &str, args: &[&str]) -> Command {
        let mut tool = self.server.tool(args);
        tool.env("SINGLETRACK_TOKEN", token).env("SINGLETRACK_URL", &self.server.base);
        tool
    }

    async fn ask(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.server.base);
        let route = path.split('?').next().unwrap();
        read(&Method::GET, route, client_with(&self.admin).get(url).send().await.unwrap()).await.body
    }

    /// The lines of output that are kept of a deployment.
    async fn lines(&self, number: u64) -> usize {
        let events = self.ask(&format!("/v1/projects/web/deployments/{number}/events?maxWaitSeconds=0")).await;
        events["events"].as_array().unwrap().iter().filter(|event| event["type"] == "log").count()
    }
}

#[tokio::test]
async fn the_chapter_about_two_years_is_true() {
    let mut server = TestServer::gated();
    let (admin, table) = a_token();
    assert!(server.terminate().success());
    server.configure(&gated_config(&format!("{SMALL_LIMITS}{table}")));
    server.boot();
    let mut played = Played { server, admin };

    // Tokens: one for each pipeline, with an end.
    let told = played.admin(&["token", "create", "web-ci", "--scope", "read,submit,cancel", "--expires", "90d"]);
    let ci = told.lines().find(|line| line.starts_with("st_")).unwrap().to_owned();
    let deploy = ["deploy", "--project", "web", "--pipeline", "quick"];
    for _ in 0..3 {
        played.with(&ci, &deploy, 0);
    }
    let refused = played.with(&ci, &["token", "list"], 125);
    assert!(refused.contains("needs the scope admin"), "{refused}");

    // Retention: what is old loses its output; the newest keeps it, and the record stays.
    while played.lines(1).await > 0 {
        tokio::task::yield_now().await;
    }
    assert!(played.lines(3).await > 0, "the newest one keeps its output");
    assert_eq!(played.ask("/v1/projects/web/deployments/1").await["status"], "SUCCEEDED");

    // More room: what would go is said beside the server.
    let told =
        played.admin(&["store", "prune", "--dry-run", "--config", "singletrack.toml", "--store", "sqlite:test.db"]);
    assert!(told.contains("would go"), "{told}");

    // An upgrade: hold, back up, replace, look, let go.
    played.admin(&["pause", "web", "--reason", "upgrade"]);
    let backup = played.server.path("before-the-upgrade.db");
    let backup = backup.to_str().unwrap();
    played.admin(&["store", "backup", "--from", "sqlite:test.db", "--to", backup]);
    assert!(played.server.terminate().success());
    // While it is stopped, its file can be made smaller.
    let told = played.admin(&["store", "compact", "--store", "sqlite:test.db"]);
    assert!(told.contains("is compacted: "), "{told}");
    played.server.boot();
    let why = played.admin(&["why", "--project", "web"]);
    assert!(why.contains("upgrade") && why.contains("token ci"), "the pause outlives the restart: {why}");
    played.admin(&["resume", "web"]);
    played.with(&ci, &deploy, 0);

    // Tokens again: the old one is replaced and revoked.
    played.admin(&["token", "revoke", "web-ci"]);
    played.with(&ci, &deploy, 125);

    // The audit log tells all of it, the last line first.
    let audit = played.admin(&["audit", "--json", "--limit", "1000"]);
    let acts: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut told: Vec<_> = acts
        .iter()
        .rev()
        .map(|act| (act["action"].as_str().unwrap(), act["caller"].as_str().unwrap_or("nobody")))
        .filter(|(action, _)| *action != "refused")
        .collect();
    told.dedup();
    let expected = [
        ("token_create", "token:ci"),
        ("submit", "token:web-ci"),
        ("pause", "token:ci"),
        ("resume", "token:ci"),
        ("submit", "token:web-ci"),
        ("token_revoke", "token:ci"),
    ];
    assert_eq!(told, expected);

    // The restore of a backup: what was revoked since is valid again, and is revoked again.
    assert!(played.server.terminate().success());
    for file in ["test.db", "test.db-wal", "test.db-shm"] {
        let _ = std::fs::remove_file(played.server.path(file));
    }
    played.admin(&["store", "restore", "--from", backup, "--to", "sqlite:test.db"]);
    played.server.boot();
    assert!(played.admin(&["why", "--project", "web"]).contains("upgrade"), "the pause of the backup holds again");
    let list = played.admin(&["token", "list"]);
    assert!(list.contains("web-ci"), "{list}");
    played.admin(&["token", "revoke", "web-ci"]);
    played.with(&ci, &["status", "--project", "web"], 125);
}
