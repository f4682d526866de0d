//! Uploads: once, gone on with after a cut, and nothing kept that is not what it is called.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use reqwest::{
    Method,
    header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{CONFIG, noise, sha256};
use crate::harness::{Answer, TestServer, raw::read_to_end, send};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each function is a promise; it is kept whether a server keeps artifacts in a folder or several keep them in a database.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod folder {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise("sqlite:test.db").await;
            })*
        }
        mod database {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&crate::harness::postgres::shared().store().await).await;
            })*
        }
    };
}

promises! {
    an_artifact_is_uploaded_once,
    an_upload_goes_on_after_its_connection_was_cut,
    an_upload_goes_on_after_the_server_was_restarted_or_killed,
    an_upload_that_does_not_fit_is_told_where_it_goes_on,
    another_content_is_thrown_away,
    two_uploads_at_once_are_one_after_the_other,
    uploads_have_limits,
    malformed_uploads_are_refused_and_store_nothing,
    a_submit_names_only_what_is_there,
    an_upload_for_one_project_neither_holds_up_nor_spoils_anothers,
    uploads_that_one_token_left_unfinished_keep_nobody_out,
    uploads_that_one_token_has_under_way_keep_no_other_token_out,
}

fn with(name: HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, value.parse().unwrap())])
}

fn range(first: usize, total: usize) -> HeaderMap {
    with(CONTENT_RANGE, &format!("bytes {first}-{}/{total}", total - 1))
}

/// Begins an upload of `bytes`, of which it sends the first `sent`.
pub async fn begin(server: &TestServer, bytes: &[u8], sent: usize) -> TcpStream {
    let mut connection = server.connect().await;
    let head = format!(
        "PUT /v1/artifacts/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        sha256(bytes),
        server.authority(),
        bytes.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&bytes[..sent]).await.unwrap();
    connection
}

/// Waits until so much of it is on the server's disk. Nothing tells it but asking.
pub async fn arrived(server: &TestServer, name: &str, bytes: usize) -> usize {
    let there = async {
        loop {
            match server.offset(name).await {
                Some(offset) if offset >= bytes => return offset,
                Some(_) => sleep(Duration::from_millis(10)).await,
                None => panic!("it is whole"),
            }
        }
    };
    timeout(PATIENCE, there).await.unwrap()
}

/// Sends the rest of it, once nobody else does any more.
pub async fn go_on(server: &TestServer, bytes: &[u8]) -> usize {
    let name = sha256(bytes);
    let gone_on = async {
        loop {
            let offset = server.offset(&name).await.expect("it is not whole");
            let answer = server.put(&name, range(offset, bytes.len()), bytes[offset..].to_vec()).await;
            match answer.refusal() {
                (201, _) => return offset,
                (409, "UPLOAD_IN_PROGRESS" | "UPLOAD_OFFSET") => sleep(Duration::from_millis(10)).await,
                _ => panic!("{}", answer.text),
            }
        }
    };
    timeout(PATIENCE, gone_on).await.unwrap()
}

pub async fn assert_whole(server: &TestServer, bytes: &[u8]) {
    let name = sha256(bytes);
    let response = server.look(&name).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-length"], bytes.len().to_string());
    let download = server.request(reqwest::Method::GET, &format!("/v1/artifacts/{name}")).send().await.unwrap();
    assert_eq!(download.headers()["content-type"], "application/zstd");
    assert!(download.bytes().await.unwrap() == bytes, "another content came back");
    assert!(!server.kept(&format!("{name}.part")).exists());
}

async fn an_artifact_is_uploaded_once(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let bytes = noise(3 << 20);
    let name = sha256(&bytes);
    assert_eq!(server.offset(&name).await, Some(0));
    assert_eq!(server.get(&format!("/v1/artifacts/{name}")).await.refusal(), (404, "NOT_FOUND"));
    let first = server.put(&name, HeaderMap::new(), bytes.clone()).await;
    assert_eq!((first.status, &first.body), (201, &json!({ "sha256": name })));
    assert_whole(&server, &bytes).await;
    let again = server.put(&name, HeaderMap::new(), b"whatever".to_vec()).await;
    assert_eq!((again.status, &again.body), (200, &json!({ "sha256": name })));
    assert_whole(&server, &bytes).await;
}

async fn an_upload_goes_on_after_its_connection_was_cut(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let bytes = noise(5 << 20);
    let name = sha256(&bytes);
    let connection = begin(&server, &bytes, 3 << 20).await;
    arrived(&server, &name, 2 << 20).await;
    drop(connection);
    assert!(go_on(&server, &bytes).await >= 2 << 20, "it began anew");
    assert_whole(&server, &bytes).await;
}

async fn an_upload_goes_on_after_the_server_was_restarted_or_killed(store: &str) {
    let mut server = TestServer::start_on(store, CONFIG);
    let bytes = noise(9 << 20);
    let name = sha256(&bytes);
    let mut connection = begin(&server, &bytes, 3 << 20).await;
    arrived(&server, &name, 2 << 20).await;
    // It does not wait for the rest, and says so.
    assert!(server.terminate().success());
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 503 ") && answer.contains("SHUTTING_DOWN"), "{answer:?}");
    server.boot();
    let offset = server.offset(&name).await.unwrap();
    assert!(offset >= 2 << 20, "{offset}");

    let rest = &bytes[offset..];
    let mut connection = server.connect().await;
    let head = format!(
        "PUT /v1/artifacts/{name} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nContent-Range: bytes {offset}-{}/{}\r\n\r\n",
        server.authority(),
        rest.len(),
        bytes.len() - 1,
        bytes.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&rest[..3 << 20]).await.unwrap();
    arrived(&server, &name, offset + (2 << 20)).await;
    server.kill();
    server.boot();
    assert!(go_on(&server, &bytes).await >= offset + (2 << 20));
    assert_whole(&server, &bytes).await;
}

async fn an_upload_that_does_not_fit_is_told_where_it_goes_on(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let bytes = noise(4 << 20);
    let (name, total) = (sha256(&bytes), bytes.len());
    let ahead = server.put(&name, range(1 << 20, total), bytes[1 << 20..].to_vec()).await;
    assert_eq!((ahead.refusal(), &ahead.body["offset"]), ((409, "UPLOAD_OFFSET"), &json!(0)));
    drop(begin(&server, &bytes, 3 << 20).await);
    let offset = arrived(&server, &name, 2 << 20).await;
    let behind = timeout(PATIENCE, async {
        loop {
            let answer = server.put(&name, range(0, total), bytes.clone()).await;
            if answer.refusal().1 != "UPLOAD_IN_PROGRESS" {
                return answer;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    let behind = behind.await.unwrap();
    assert_eq!(behind.refusal(), (409, "UPLOAD_OFFSET"));
    assert!(behind.body["offset"].as_u64() >= Some(offset as u64), "{}", behind.text);
    // Without a range it is written anew.
    assert_eq!(server.put(&name, HeaderMap::new(), bytes.clone()).await.status, 201);
    assert_whole(&server, &bytes).await;
}

async fn another_content_is_thrown_away(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let (bytes, other) = (noise(2 << 20), vec![7; 2 << 20]);
    let name = sha256(&bytes);
    let answer = server.put(&name, HeaderMap::new(), other).await;
    assert_eq!(answer.refusal(), (422, "ARTIFACT_MISMATCH"));
    assert_eq!(server.offset(&name).await, Some(0));
    assert!(!server.kept(&name).exists() && !server.kept(&format!("{name}.part")).exists());
    assert_eq!(server.put(&name, HeaderMap::new(), bytes.clone()).await.status, 201);
    assert_whole(&server, &bytes).await;
}

async fn two_uploads_at_once_are_one_after_the_other(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let bytes = noise(3 << 20);
    let name = sha256(&bytes);
    let mut first = begin(&server, &bytes, 2 << 20).await;
    arrived(&server, &name, 1 << 20).await;
    let second = server.put(&name, HeaderMap::new(), bytes.clone()).await;
    assert_eq!((second.refusal(), &second.body["retryable"]), ((409, "UPLOAD_IN_PROGRESS"), &Value::Bool(true)));
    first.write_all(&bytes[2 << 20..]).await.unwrap();
    assert_eq!(read_to_end(&mut first).await.status, 201);
    assert_eq!(server.put(&name, HeaderMap::new(), bytes.clone()).await.status, 200);
    assert_whole(&server, &bytes).await;
}

async fn uploads_have_limits(store: &str) {
    let server = TestServer::start_on(
        store,
        &format!("[artifacts]\nmax_bytes = \"1MiB\"\nmax_total_bytes = \"1100KiB\"\n{CONFIG}"),
    );
    let large = noise((1 << 20) + 1);
    let name = sha256(&large);
    let answer = server.put(&name, HeaderMap::new(), large.clone()).await;
    assert_eq!(answer.refusal(), (413, "BODY_TOO_LARGE"));
    let answer = server.put(&name, range(5, large.len()), large[5..].to_vec()).await;
    assert_eq!(answer.refusal(), (413, "BODY_TOO_LARGE"));
    // One that does not say how large it is, is cut where it becomes too large.
    let chunked = [b"100001\r\n".to_vec(), large.clone(), b"\r\n0\r\n\r\n".to_vec()].concat();
    let line = format!("PUT /v1/artifacts/{name} HTTP/1.1");
    let answer = server.raw(&[line.as_bytes(), b"Transfer-Encoding: chunked"], &chunked).await;
    assert_eq!(answer.refusal(), (413, "BODY_TOO_LARGE"));
    assert_eq!(server.offset(&name).await, Some(0));

    let fits = noise(1 << 20);
    server.uploaded(&fits).await;
    let more = vec![1; 512 << 10];
    let answer = server.put(&sha256(&more), HeaderMap::new(), more).await;
    assert_eq!(answer.refusal(), (503, "DISK_FULL"));
}

async fn malformed_uploads_are_refused_and_store_nothing(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let name = sha256(b"bytes");
    for bad in ["abc".to_owned(), name.to_uppercase(), format!("{name}0"), "..%2f..%2fetc".to_owned(), "%00".repeat(64)]
    {
        let answer = server.put(&bad, HeaderMap::new(), b"bytes".to_vec()).await;
        assert_eq!(answer.refusal(), (400, "INVALID_PARAMETER"), "{bad}");
        assert_eq!(server.get(&format!("/v1/artifacts/{bad}")).await.refusal(), (400, "INVALID_PARAMETER"), "{bad}");
    }
    for bad in
        ["", "bytes", "bytes 0-4", "bytes 0-4/*", "bytes 0-3/5", "bytes 4-0/5", "0-4/5", "bytes -1-4/5", "bytes 0-4/6"]
    {
        let answer = server.put(&name, with(CONTENT_RANGE, bad), b"bytes".to_vec()).await;
        assert_eq!(answer.refusal(), (400, "INVALID_PARAMETER"), "{bad}");
    }
    let huge = format!("bytes 0-{}/18446744073709551616", u64::MAX);
    assert_eq!(server.put(&name, with(CONTENT_RANGE, &huge), b"b".to_vec()).await.status, 400);
    let answer = server.put(&name, with(CONTENT_ENCODING, "gzip"), b"bytes".to_vec()).await;
    assert_eq!(answer.refusal(), (415, "UNSUPPORTED_MEDIA_TYPE"));
    assert_eq!(server.offset(&name).await, Some(0));
    assert!(!server.path("singletrack-work/artifacts").exists());
}

async fn a_submit_names_only_what_is_there(store: &str) {
    let server = TestServer::start_on(store, CONFIG);
    let name = sha256(b"never uploaded");
    let missing = server.submit(json!({ "artifact": { "sha256": name } })).await;
    assert_eq!(missing.refusal(), (422, "ARTIFACT_MISSING"));
    assert!(missing.text.contains(&format!("PUT /v1/artifacts/{name}")), "{}", missing.text);
    let malformed = server.submit(json!({ "artifact": { "sha256": "../../etc/passwd" } })).await;
    assert_eq!(malformed.refusal(), (400, "INVALID_BODY"));
    assert!(server.deployments().await.is_empty());
    let plan = server.post("/v1/projects/web/deployments?dryRun=true", json!({ "artifact": { "sha256": name } })).await;
    assert_eq!(plan.status, 200, "{}", plan.text);
}

/// Tokens for all projects, and for one each.
fn tokens() -> String {
    ["wide", "web", "api"]
        .map(|name| {
            let hash = sha256(name.as_bytes());
            let projects = if name == "wide" { String::new() } else { format!("projects = [\"{name}\"]\n") };
            format!("[[tokens]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{projects}")
        })
        .concat()
}

async fn an_upload_for_one_project_neither_holds_up_nor_spoils_anothers(store: &str) {
    let server = TestServer::start_on(store, &format!("{}{CONFIG}", tokens()));
    let bytes = noise(3 << 20);
    let name = sha256(&bytes);
    let path = format!("/v1/artifacts/{name}");
    let with = |token: &str, method: Method| server.request(method, &path).bearer_auth(token);
    let offset = async |token: &str| {
        let answer = with(token, Method::HEAD).send().await.unwrap();
        answer
            .headers()
            .get("singletrack-upload-offset")
            .map(|offset| offset.to_str().unwrap().parse::<usize>().unwrap())
    };
    // Somebody who sees another project has sent something else under this name, and goes on holding it; one who sees all
    // has sent a part.
    let mut open = Vec::new();
    for (token, sent) in [("api", vec![7; 2 << 20]), ("wide", bytes[..2 << 20].to_vec())] {
        let mut connection = server.connect().await;
        let (authority, length) = (server.authority(), bytes.len());
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n",
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&sent).await.unwrap();
        let there = async {
            while offset(token).await.expect("it is not whole") < 1 << 20 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, there).await.unwrap();
        open.push(connection);
    }
    assert_eq!(offset("web").await, Some(0), "it is told of none of theirs");
    let (first, rest) = bytes.split_at(1 << 20);
    let cut = with("web", Method::PUT).header(CONTENT_RANGE, format!("bytes 0-{}/{}", bytes.len() - 1, bytes.len()));
    let (pieces, body) = (first.to_vec(), futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let body = reqwest::Body::wrap_stream(futures_util::StreamExt::chain(
        futures_util::stream::once(async move { Ok(pieces) }),
        body,
    ));
    let sending = tokio::spawn(cut.header("Content-Length", bytes.len()).body(body).send());
    let there = async {
        while offset("web").await.expect("it is not whole") < first.len() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.unwrap();
    sending.abort();
    // It goes on with its own, once the server has seen that connection end.
    let range = format!("bytes {}-{}/{}", first.len(), bytes.len() - 1, bytes.len());
    let gone_on = async {
        loop {
            let sent = with("web", Method::PUT).header(CONTENT_RANGE, &range).body(rest.to_vec());
            let answer = send(sent).await;
            match answer.refusal() {
                (409, "UPLOAD_IN_PROGRESS") => sleep(Duration::from_millis(10)).await,
                (status, _) => break assert_eq!(status, 201, "{}", answer.text),
            }
        }
    };
    timeout(PATIENCE, gone_on).await.unwrap();
    let mut wide = open.pop().unwrap();
    // Where it was told already, it need not read on.
    let _ = wide.write_all(&bytes[2 << 20..]).await;
    let wide = read_to_end(&mut wide).await.status;
    assert!([200, 201, 409].contains(&wide), "it is there already: {wide}");
    let mut spoilt = open.pop().unwrap();
    spoilt.write_all(&vec![7; 1 << 20]).await.unwrap();
    assert_eq!(read_to_end(&mut spoilt).await.status, 422);
    for token in ["web", "api", "wide"] {
        let whole = with(token, Method::GET).send().await.unwrap();
        assert!(whole.bytes().await.unwrap() == bytes, "another content came back to {token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_below_the_work_directory_and_the_store_is_closed_to_others() {
    let mut server = TestServer::start(CONFIG);
    let whole = server.uploaded(&noise(10_000)).await;
    let id = server.accepted(json!({})).await;
    server.finished(&id).await;
    let open_ones = |dir: &std::path::Path| -> Vec<String> {
        let mut folders = vec![dir.join("singletrack-work")];
        let mut found: Vec<_> =
            ["test.db", "test.db-wal", "test.db-shm", "test.db.lock", "test.db.lineage", "test.db.ballast"]
                .iter()
                .map(|name| dir.join(name))
                .chain(folders.clone())
                .collect();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.push(path);
            }
        }
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        let is_open = |path: &std::path::PathBuf| mode(path) & 0o077 != 0;
        found.into_iter().filter(is_open).map(|path| path.display().to_string()).collect()
    };
    assert_eq!(open_ones(server.dir()), Vec::<String>::new());

    // What a former version left open is closed at the start.
    server.terminate();
    for (name, mode) in [
        ("test.db", 0o644),
        ("singletrack-work", 0o755),
        ("singletrack-work/artifacts", 0o755),
        ("test.db.lock", 0o644),
    ] {
        std::fs::set_permissions(server.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(server.kept(&whole), std::fs::Permissions::from_mode(0o644)).unwrap();
    server.boot();
    assert_eq!(open_ones(server.dir()), Vec::<String>::new());

    // A directory that holds other things is not ours to close.
    server.terminate();
    std::fs::write(server.path("singletrack-work/theirs"), "").unwrap();
    std::fs::set_permissions(server.path("singletrack-work"), std::fs::Permissions::from_mode(0o755)).unwrap();
    server.boot();
    assert_eq!(open_ones(server.dir()).len(), 2, "the directory, and what is theirs: {:?}", open_ones(server.dir()));
}

/// Begins an upload of ten bytes under this token, and sends half of them.
async fn begin_small(server: &TestServer, token: &str, number: usize) -> TcpStream {
    let mut connection = server.connect().await;
    let (name, authority) = (sha256(format!("{number:>010}").as_bytes()), server.authority());
    let head = format!(
        "PUT /v1/artifacts/{name} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\nContent-Length: 10\r\n\r\n     ",
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
}

/// Uploads something whole under this token.
async fn upload_whole(server: &TestServer, token: &str, text: &str) -> Answer {
    let path = format!("/v1/artifacts/{}", sha256(text.as_bytes()));
    send(server.request(Method::PUT, &path).bearer_auth(token).body(text.to_owned())).await
}

async fn uploads_that_one_token_left_unfinished_keep_nobody_out(store: &str) {
    let server = TestServer::start_on(store, &format!("{}{CONFIG}", tokens()));
    // More than there are places.
    for number in 0..260 {
        let mut connection = begin_small(&server, "api", number).await;
        connection.shutdown().await.unwrap();
        // Its answer comes when what arrived is kept.
        read_to_end(&mut connection).await;
    }
    let other = upload_whole(&server, "web", "of another token").await;
    assert_eq!(other.status, 201, "{}", other.text);
}

async fn uploads_that_one_token_has_under_way_keep_no_other_token_out(store: &str) {
    let server = TestServer::start_on(store, &format!("{}{CONFIG}", tokens()));
    let (mut open, mut number) = (Vec::new(), 0);
    let refused = async {
        loop {
            // As many as there are places; and one more wherever a whole upload was faster.
            while open.len() < 32 + number {
                open.push(begin_small(&server, "api", open.len()).await);
            }
            number += 1;
            let answer = upload_whole(&server, "api", &format!("number {number}")).await;
            if answer.status != 201 {
                return answer;
            }
        }
    };
    let refused = timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("32 uploads of this token are under way"), "{}", refused.text);
    let other = upload_whole(&server, "web", "of another token").await;
    assert_eq!(other.status, 201, "{}", other.text);
    drop(open);
    let taken = async { while upload_whole(&server, "api", "once there is a place").await.status == 503 {} };
    timeout(PATIENCE, taken).await.unwrap();
}
