//! Secret inputs: they reach the phases, and stand nowhere else.

use std::fs;

use serde_json::{Value, json};

use crate::{harness::TestServer, live::on_each_engine};

const SECRET: &str = "correct-horse-battery";

const CONFIG: &str = r#"
secret_inputs = ["password*"]
[projects.web]
secret_inputs = ["*_TOKEN"]
[[projects.web.pipelines.deploy.phases]]
name = "only"
run = '''
printf %s "$INPUT_DB_TOKEN" > "$TEST_DIR/token"
printf %s "$INPUT_PASSWORD" > "$TEST_DIR/password"
echo "the token is $INPUT_DB_TOKEN and $INPUT_VERSION"
flock --shared "$TEST_DIR/gate" true
'''
"#;

fn wish(secret: &str) -> Value {
    json!({ "inputs": { "db_token": secret, "password": "0123", "version": "7" }, "onConflict": "queue" })
}

/// Every file of the server's folder that contains this text, except those that its phases wrote.
fn files_with(server: &TestServer, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![server.dir().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // A file may be gone by now: the log of the database, say.
            let bytes = fs::read(&path).unwrap_or_default();
            if name != "token" && bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(name);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_inputs_reach_the_phases_over_a_restart_and_stand_nowhere_else() {
    on_each_engine(CONFIG, async |mut server| {
        server.close_gate();
        let first = server.accepted(json!({ "inputs": { "version": "1" } })).await;
        server.event(&first, |event| event["type"] == "log").await;
        let key = "ci-0123456789abcdef";
        let submitted = server.submit_keyed(key, wish(SECRET)).await;
        let id = submitted.id();
        assert_eq!(submitted.status, 202, "{}", submitted.text);
        assert_eq!(submitted.body["inputs"], json!({ "version": "7" }));
        let hash = submitted.body["secretInputs"]["db_token"].as_str().unwrap().to_owned();
        assert!(hash.starts_with("hmac-sha256:"), "{hash}");
        // It is found again under its key, and not by another value.
        assert_eq!(server.submit_keyed(key, wish(SECRET)).await.id(), id);
        assert_eq!(server.submit_keyed(key, wish("another")).await.refusal(), (422, "KEY_REUSED"));
        assert_eq!(files_with(&server, SECRET), [""; 0], "while it waits");

        server.kill();
        server.boot();
        server.open_gate();
        let ended = server.finished(&id).await;
        assert_eq!((&ended["status"], &ended["secretInputs"]["db_token"]), (&json!("SUCCEEDED"), &json!(hash)));
        assert_eq!(fs::read_to_string(server.path("token")).unwrap(), SECRET);
        assert_eq!(fs::read_to_string(server.path("password")).unwrap(), "0123");
        let events = server.deployment(&id, "/events?after=0&maxWaitSeconds=0").await.text;
        assert!(events.contains("the token is *** and 7") && !events.contains(SECRET), "{events}");
        let list = server.get("/v1/projects/web/deployments").await.text;
        assert!(!list.contains(SECRET) && list.contains(&hash), "{list}");
        assert_eq!(files_with(&server, SECRET), [""; 0], "once it has ended");
        assert!(!server.log().contains(SECRET));

        // Another deployment with the same value shows another hash.
        let again = server.submit(wish(SECRET)).await;
        assert_ne!(again.body["secretInputs"]["db_token"], hash.as_str());
        server.finished(&again.id()).await;
        // What is run again needs them again.
        let retry = server.submit(json!({ "retryOf": id })).await;
        assert_eq!(retry.refusal(), (422, "SECRET_INPUTS_GONE"), "{}", retry.text);
        assert!(retry.text.contains("db_token, password"), "{}", retry.text);
        let secrets = json!({ "db_token": "second", "password": "4567" });
        let retry = server.submit(json!({ "retryOf": id, "inputs": secrets })).await;
        let ended = server.finished(&retry.id()).await;
        assert_eq!((&ended["status"], &ended["inputs"]["version"]), (&json!("SUCCEEDED"), &json!("7")));
        assert_eq!(fs::read_to_string(server.path("token")).unwrap(), "second");
        let back = server.post("/v1/projects/web/rollback", json!({})).await;
        assert_eq!(back.refusal(), (422, "SECRET_INPUTS_GONE"), "{}", back.text);
        let back = server.post("/v1/projects/web/rollback", json!({ "inputs": secrets, "leaveOpen": true })).await;
        assert_eq!(server.finished(&back.id()).await["status"], "SUCCEEDED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_secret_inputs_and_masks_them() {
    let server = TestServer::start("secret_inputs = [\"*_TOKEN\"]\n[projects.web]\nrun_by = \"agents\"");
    let id = server.accepted(wish(SECRET)).await;
    let claim = json!({ "worker": "one", "claimId": "1", "projects": { "web": ["deploy"] } });
    let taken = server.post("/v1/claims", claim.clone()).await;
    assert_eq!(taken.body["inputs"], json!({ "db_token": SECRET, "password": "0123", "version": "7" }));
    assert_eq!(taken.body["secretInputs"], json!(["db_token"]));
    // The answer may have been lost.
    assert_eq!(server.post("/v1/claims", claim).await.body["inputs"]["db_token"], SECRET);
    let secret = taken.body["lease"]["secret"].as_str().unwrap();
    let path = format!("/v1/projects/web/deployments/{id}/finish");
    let finish = server.request(reqwest::Method::POST, &path).header("Singletrack-Lease", secret);
    let ended = crate::harness::send(finish.json(&json!({ "status": "SUCCEEDED" }))).await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    assert_eq!(files_with(&server, SECRET), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_no_secret_inputs_and_what_waits_in_it_says_that_they_are_gone() {
    let mut server = TestServer::start(CONFIG);
    server.close_gate();
    let first = server.accepted(json!({ "inputs": { "version": "1" } })).await;
    server.event(&first, |event| event["type"] == "log").await;
    let waiting = server.submit(wish(SECRET)).await.id();
    let sealed = |file: &str| -> i64 {
        let db = rusqlite::Connection::open(server.path(file)).unwrap();
        db.query_row("SELECT count(sealed_inputs) FROM deployments", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(sealed("test.db"), 1);
    let backup = server.tool(&["store", "backup", "--from", "sqlite:test.db", "--to", "backup.db"]).output().unwrap();
    assert!(backup.status.success(), "{backup:?}");
    assert_eq!(sealed("backup.db"), 0);
    server.kill();
    for file in ["test.db", "test.db-wal", "test.db-shm"] {
        let _ = fs::rename(server.path(file), server.path(&format!("old-{file}")));
    }
    let restore = server.tool(&["store", "restore", "--from", "backup.db", "--to", "sqlite:test.db"]).output().unwrap();
    assert!(restore.status.success(), "{restore:?}");
    server.boot();
    server.open_gate();
    let ended = server.finished(&waiting).await;
    assert_eq!(ended["status"], "FAILED");
    let message = ended["error"]["message"].as_str().unwrap();
    assert!(message.contains("secret inputs are gone (db_token, password)"), "{message}");
}
