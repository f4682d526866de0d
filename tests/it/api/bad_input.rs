//! Bad input: a clear refusal that says what to do, never a 5xx, and nothing stored.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::{
    Answer, TestServer,
    raw::{RawAnswer, read_to_end},
    send,
};

const DEPLOYMENTS: &str = "/v1/projects/web/deployments";

/// What is stored of `web`: its slot, its line, its history.
async fn stored(server: &TestServer) -> (Value, Vec<Value>) {
    (server.project().await, server.deployments().await)
}

/// A server with one finished deployment, and that one's id.
async fn with_history() -> (TestServer, String) {
    let server = TestServer::gated();
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    (server, id)
}

/// Holds a refusal against what is expected, a word of its message included.
#[track_caller]
fn assert_refused(what: &str, answer: &Answer, status: u16, code: &str, says: &str) {
    assert_eq!(answer.refusal(), (status, code), "{what}: {}", answer.text);
    assert_says(what, &answer.body, says);
}

#[track_caller]
fn assert_refused_raw(what: &str, answer: &RawAnswer, status: u16, code: &str, says: &str) {
    assert_eq!(answer.refusal(), (status, code), "{what}: {}", answer.text);
    assert_says(what, &answer.body, says);
}

#[track_caller]
fn assert_says(what: &str, problem: &Value, says: &str) {
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains(says), "{what}: {message:?} does not say {says:?}");
    assert!(message.len() < 512, "{what}: {} bytes of message", message.len());
    assert_eq!(problem["message"], problem["detail"]);
}

fn submit(server: &TestServer) -> RequestBuilder {
    server.request(Method::POST, DEPLOYMENTS).header("Content-Type", "application/json")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there_are_told_so() {
    let (server, id) = with_history().await;
    for path in ["/v1", "/v2/projects", "/v1/nothing", "/v1/projects/", "/v1/projects/web/deployments/", "/favicon.ico"]
    {
        assert_refused(path, &server.get(path).await, 404, "NOT_FOUND", "openapi.yaml");
    }
    for (path, methods) in singletrack::http::route_table() {
        let path = path.replace("{project}", "web").replace("{id}", &id).replace("{token}", &id);
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::GET, Method::POST] {
            if methods.iter().any(|(known, _)| known.eq_ignore_ascii_case(method.as_str())) {
                continue;
            }
            let answer = send(server.request(method.clone(), &path)).await;
            let what = format!("{method} {path}");
            assert_refused(&what, &answer, 405, "METHOD_NOT_ALLOWED", "Allow");
            let allowed: Vec<_> = answer.header("allow").split(',').map(str::to_ascii_lowercase).collect();
            assert!(
                methods.iter().all(|(method, _)| allowed.iter().any(|known| known == method)),
                "{what}: {allowed:?}"
            );
        }
    }
}

#[tokio::test]
async fn unknown_and_repeated_query_parameters_are_named_on_every_route() {
    let (server, id) = with_history().await;
    let before = stored(&server).await;
    for (path, methods) in singletrack::http::route_table() {
        let path = path.replace("{project}", "web").replace("{id}", &id).replace("{token}", &id);
        for (method, _) in methods {
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            if method == Method::HEAD {
                // No answer to it has a body.
                continue;
            }
            let request = |query: &str| {
                let request = server.request(method.clone(), &format!("{path}?{query}"));
                if method == Method::POST { request.json(&json!({ "reason": "no" })) } else { request }
            };
            let answer = send(request("maxWait=1")).await;
            assert_refused(&path, &answer, 400, "UNKNOWN_PARAMETER", "'maxWait'");
            // An upper bound on what is shown of raw input, whatever it is.
            let answer = send(request(&format!("%00%1b%5b31m{}=1", "ü".repeat(500)))).await;
            assert_refused(&path, &answer, 400, "UNKNOWN_PARAMETER", "'\\u{0}\\u{1b}[31m\\u{fc}");
            assert!(!answer.text.contains(&"\\\\u{fc}".repeat(11)), "{}", answer.text);
        }
    }
    for (below, name) in [
        (format!("{DEPLOYMENTS}?limit=1&limit=1"), "'limit'"),
        (format!("{DEPLOYMENTS}?status=FAILED&limit=2&status=FAILED"), "'status'"),
        (format!("{DEPLOYMENTS}/{id}/completion?maxWaitSeconds=0&maxWaitSeconds=0"), "'maxWaitSeconds'"),
        (format!("{DEPLOYMENTS}/{id}/turn?maxWaitSeconds=0&maxWait%53econds=1"), "'maxWaitSeconds'"),
        (format!("{DEPLOYMENTS}/{id}/events?after=0&after=0"), "'after'"),
        ("/v1/projects?cursor=a&cursor=b".to_owned(), "'cursor'"),
    ] {
        assert_refused(&below, &server.get(&below).await, 400, "UNKNOWN_PARAMETER", name);
    }
    let answer = send(submit(&server).query(&[("dryRun", "true"), ("dryRun", "true")])).await;
    assert_refused("dryRun twice", &answer, 400, "UNKNOWN_PARAMETER", "'dryRun'");
    assert_eq!(stored(&server).await, before);
}

#[tokio::test]
async fn parameters_take_only_the_values_that_they_can_have() {
    let (server, id) = with_history().await;
    let windows =
        ["-1", "61", "1.5", "", "abc", "1e1", "%205", "+5", "0x10", "99999999999999999999", "%D9%A3", "5s", "NaN"];
    for window in windows {
        for below in ["completion", "turn", "events"] {
            let path = format!("{DEPLOYMENTS}/{id}/{below}?maxWaitSeconds={window}");
            let answer = server.get(&path).await;
            assert_refused(&path, &answer, 400, "INVALID_PARAMETER", "maxWaitSeconds is a whole number from 0 to 60");
        }
    }
    for (path, says) in [
        ("?limit=0", "limit is a whole number from 1 to 100"),
        ("?limit=101", "limit is a whole number from 1 to 100"),
        ("?limit=-5", "limit is a whole number from 1 to 100"),
        ("?cursor=abc", "cursor is"),
        ("?cursor=0", "cursor is"),
        ("?cursor=", "cursor is"),
        ("?cursor=99999999999999999999", "cursor is"),
        ("?status=running", "status is one of PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED"),
        ("?status=", "status is one of"),
    ] {
        let path = format!("{DEPLOYMENTS}{path}");
        assert_refused(&path, &server.get(&path).await, 400, "INVALID_PARAMETER", says);
    }
    for (query, says) in [
        ("tail=-1", "tail is a whole number from 0 to 100000"),
        ("tail=100001", "tail is a whole number from 0 to 100000"),
        ("since=yesterday", "write how long ago, such as 10m"),
        ("since=", "write how long ago"),
        ("since=2026-03-01T12:00:00", "a time in UTC"),
        ("after=1&tail=1", "leave one or the other out"),
        ("after=0&since=1h", "leave one or the other out"),
    ] {
        for accept in ["application/json", "text/event-stream"] {
            let path = format!("{DEPLOYMENTS}/{id}/events?{query}");
            let answer = send(server.request(Method::GET, &path).header("Accept", accept)).await;
            assert_refused(&path, &answer, 400, "INVALID_PARAMETER", says);
        }
    }
    for path in ["/v1/projects?limit=0", "/v1/projects?limit=1000", "/v1/projects?cursor=-x", "/v1/projects?cursor="] {
        assert_eq!(server.get(path).await.refusal(), (400, "INVALID_PARAMETER"), "{path}");
    }
    for value in ["yes", "1", "TRUE", ""] {
        let answer = send(submit(&server).query(&[("dryRun", value)])).await;
        assert_refused(value, &answer, 400, "INVALID_PARAMETER", "dryRun is true or false");
    }
    assert_eq!(server.deployments().await.len(), 1);
}

#[tokio::test]
async fn cursors_are_numbers_within_the_history() {
    let (server, id) = with_history().await;
    let path = format!("{DEPLOYMENTS}/{id}/events");
    let last = server.get(&format!("{path}?maxWaitSeconds=0")).await.body["last"].as_u64().unwrap();
    for accept in ["application/json", "text/event-stream"] {
        let follow = |cursor: &str| {
            let request = server.request(Method::GET, &path).header("Accept", accept);
            send(request.header("Last-Event-ID", cursor.to_owned()))
        };
        for cursor in ["abc", "-1", "1.0", "+1", "99999999999999999999"] {
            assert_refused(cursor, &follow(cursor).await, 400, "INVALID_PARAMETER", "Last-Event-ID is the number");
        }
        for cursor in [last + 1, 1 << 62, u64::MAX] {
            let answer = follow(&cursor.to_string()).await;
            assert_refused("ahead", &answer, 400, "INVALID_PARAMETER", &format!("last event, which is {last}"));
            assert_eq!(answer.body["last"], last);
        }
        let twice = server.request(Method::GET, &path).header("Accept", accept);
        let twice = send(twice.header("Last-Event-ID", "1").header("Last-Event-ID", "1")).await;
        assert_refused("twice", &twice, 400, "INVALID_PARAMETER", "given twice");
        let ahead = server.request(Method::GET, &format!("{path}?after={}", last + 1)).header("Accept", accept);
        assert_refused("after", &send(ahead).await, 400, "INVALID_PARAMETER", &format!("which is {last}"));
        let wrong = server.request(Method::GET, &format!("{path}?after=x")).header("Accept", accept);
        assert_refused("after", &send(wrong).await, 400, "INVALID_PARAMETER", "after is a whole number");
    }
    for accept in ["text/html", "image/*", "application/xml;q=0.9, text/plain"] {
        let answer = send(server.request(Method::GET, &path).header("Accept", accept)).await;
        assert_refused(accept, &answer, 406, "NOT_ACCEPTABLE", "text/event-stream or as application/json");
    }
}

#[tokio::test]
async fn names_and_ids_are_what_they_say_or_are_refused() {
    let (server, id) = with_history().await;
    let before = stored(&server).await;
    let long = "a".repeat(256);
    let names = [
        "-web",
        ".web",
        "_web",
        "a%20b",
        "a%2fb",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "we%00b",
        "web%0a",
        "w%C3%A9b",
        "we%3bb",
        "web:x",
        "a+b",
        "a~b",
        "%252e",
        &long,
    ];
    for name in names {
        let paths = ["", "/deployments", "/deployments/x", "/deployments/x/turn", "/deployments/x/events"];
        for path in paths.map(|below| format!("GET /v1/projects/{name}{below} HTTP/1.1")) {
            let answer = server.raw(&[path.as_bytes()], b"").await;
            assert_refused_raw(&path, &answer, 400, "INVALID_PROJECT", "begins with a letter or a digit");
            assert!(!answer.text.contains(&"a".repeat(65)), "{}", answer.text);
        }
        for below in ["deployments", "release", "deployments/x/cancel"] {
            let path = format!("POST /v1/projects/{name}/{below} HTTP/1.1");
            let lines: [&[u8]; 3] = [path.as_bytes(), b"Content-Type: application/json", b"Content-Length: 16"];
            let answer = server.raw(&lines, br#"{"reason":"why"}"#).await;
            assert_refused_raw(&path, &answer, 400, "INVALID_PROJECT", "begins with a letter or a digit");
        }
    }
    for name in ["web%ff", "%c3%28"] {
        let answer = server.raw(&[format!("GET /v1/projects/{name} HTTP/1.1").as_bytes()], b"").await;
        assert_refused_raw(name, &answer, 400, "BAD_REQUEST", "UTF-8");
    }
    // What is not there and what is not well formed are one and the same, in every project.
    let upper = id.to_ascii_uppercase();
    let bare = id.replace('-', "");
    let braced = format!("%7b{id}%7d");
    let mut bodies = Vec::new();
    for (project, id) in [
        ("web", "x"),
        ("web", "..%2f..%2fsecret"),
        ("web", "%00"),
        ("web", &upper),
        ("web", &bare),
        ("web", &braced),
        ("web", "00000000-0000-0000-0000-000000000000"),
        ("web", "0199ffff-0000-7000-8000-000000000000"),
        ("other", &id),
        ("other", "0199ffff-0000-7000-8000-000000000000"),
    ] {
        for (method, below) in [
            ("GET", ""),
            ("GET", "/completion?maxWaitSeconds=0"),
            ("GET", "/turn?maxWaitSeconds=0"),
            ("GET", "/events?maxWaitSeconds=0"),
            ("POST", "/cancel"),
        ] {
            let line = format!("{method} /v1/projects/{project}/deployments/{id}{below} HTTP/1.1");
            let answer = server.raw(&[line.as_bytes()], b"").await;
            assert_refused_raw(&line, &answer, 404, "NOT_FOUND", "no such project or deployment");
            let mut body = answer.body;
            body["instance"].take();
            body["requestId"].take();
            bodies.push(body);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    assert_eq!(server.get("/v1/projects/other").await.refusal(), (404, "NOT_FOUND"));
    assert_eq!(server.get("/v1/projects/other/deployments").await.refusal(), (404, "NOT_FOUND"));
    let submitted = server.post("/v1/projects/other/deployments", json!({})).await;
    assert_eq!(submitted.refusal(), (404, "NOT_FOUND"));
    assert_eq!(stored(&server).await, before);
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_server_goes_on() {
    let server = TestServer::gated();
    for line in [
        &b"GET /v1/projects/w\x00b HTTP/1.1"[..],
        b"GET /v1/pro jects HTTP/1.1",
        b"GET /v1/\xff\xfe HTTP/1.1",
        b"\x16\x03\x01",
    ] {
        let answer = server.raw(&[line], b"").await;
        assert_eq!(answer.status, 400, "{line:?}: {}", answer.text);
    }
    let answer = server.raw(&[b"GET /v1/projects HTTP/1.1", b"X-Odd: a\x00b"], b"").await;
    assert_eq!(answer.status, 400);
    let lines: [&[u8]; 3] = [b"POST /v1/projects/web/deployments HTTP/1.1", b"Content-Length: 2", b"Content-Length: 3"];
    assert_eq!(server.raw(&lines, b"{}").await.status, 400);
    let lines: [&[u8]; 2] = [b"POST /v1/projects/web/deployments HTTP/1.1", b"Content-Length: -2"];
    assert_eq!(server.raw(&lines, b"{}").await.status, 400);
    let path = format!("GET /v1/projects?cursor={} HTTP/1.1", "a".repeat(9 << 10));
    let answer = server.raw(&[path.as_bytes()], b"").await;
    assert_refused_raw("9 KiB", &answer, 414, "URI_TOO_LONG", "8 KiB");
    let path = format!("GET /{} HTTP/1.1", "a".repeat(9 << 10));
    let answer = server.raw(&[path.as_bytes()], b"").await;
    assert_refused_raw("9 KiB", &answer, 414, "URI_TOO_LONG", "8 KiB");
    assert!(answer.text.len() < 1024, "{} bytes", answer.text.len());
    let header = format!("X-Large: {}", "a".repeat(17 << 10));
    let answer = server.raw(&[b"GET /v1/projects HTTP/1.1", header.as_bytes()], b"").await;
    assert_refused_raw("17 KiB", &answer, 431, "HEADERS_TOO_LARGE", "16 KiB");
    // Beyond what is read at all, or more headers than anybody needs.
    let header = format!("X-Large: {}", "a".repeat(1 << 20));
    assert_eq!(server.raw(&[b"GET /v1/projects HTTP/1.1", header.as_bytes()], b"").await.status, 431);
    let mut lines: Vec<&[u8]> = vec![b"GET /v1/projects HTTP/1.1"];
    lines.extend([&b"X-Many: 1"[..]; 500]);
    assert_eq!(server.raw(&lines, b"").await.status, 431);
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.project().await["revision"], 0);
}

#[tokio::test]
async fn a_submit_that_is_not_right_is_refused_and_leaves_no_trace() {
    let server = TestServer::gated();
    let deep = format!("{{\"inputs\":{}{}}}", "[".repeat(70), "]".repeat(70));
    let many: serde_json::Map<_, _> = (0..101).map(|n| (format!("n{n}"), json!("v"))).collect();
    let (many, long, huge) = (json!({ "inputs": many }).to_string(), "x".repeat(65), "y".repeat(65 << 10));
    let long_input = json!({ "inputs": { &long: "v" } }).to_string();
    let huge_input = json!({ "inputs": { "n": huge } }).to_string();
    let long_ref = json!({ "ref": "r".repeat(5000) }).to_string();
    let wild_field = json!({ "é".repeat(200): 1 }).to_string();
    let cases: Vec<(&[u8], &str, &str)> = vec![
        (b"{", "INVALID_BODY", "EOF"),
        (b"[]", "INVALID_BODY", "not a JSON object"),
        (b"[\"quick\"]", "INVALID_BODY", "not a JSON object"),
        (b"null", "INVALID_BODY", "not a JSON object"),
        (b"\"deploy\"", "INVALID_BODY", "not a JSON object"),
        (b"{} {}", "INVALID_BODY", "trailing"),
        (b"{'ref':1}", "INVALID_BODY", "key must be a string"),
        (b"{\"ref\":\"\xff\"}", "INVALID_BODY", "unicode"),
        (b"{\"ref\":\"\\ud800\"}", "INVALID_BODY", "hex escape"),
        (b"{\"ref\":\"a\nb\"}", "INVALID_BODY", "control character"),
        (b"{\"order\":NaN}", "INVALID_BODY", "expected value"),
        (b"{\"order\":Infinity}", "INVALID_BODY", "expected value"),
        (b"{\"order\":1e999}", "INVALID_BODY", "out of range"),
        (b"{\"order\":9007199254740993}", "INVALID_BODY", "2^53"),
        (b"{\"order\":18446744073709551616}", "INVALID_BODY", "2^53"),
        (b"{\"order\":-1}", "INVALID_BODY", "order"),
        (b"{\"order\":1.5}", "INVALID_BODY", "order"),
        (b"{\"order\":\"7\"}", "INVALID_BODY", "order"),
        (b"{\"ref\":\"a\",\"ref\":\"a\"}", "INVALID_BODY", "'ref' appears twice"),
        (b"{\"inputs\":{\"a\":\"1\",\"\\u0061\":\"2\"}}", "INVALID_BODY", "'a' appears twice"),
        (deep.as_bytes(), "INVALID_BODY", "deeper than 64"),
        (b"{\"pipelin\":\"deploy\"}", "UNKNOWN_PARAMETER", "pipelin"),
        (b"{\"artifact\":{\"sha1\":\"x\"}}", "UNKNOWN_PARAMETER", "sha1"),
        (wild_field.as_bytes(), "UNKNOWN_PARAMETER", "unknown field"),
        (b"{\"pipeline\":\"nope\"}", "UNKNOWN_PIPELINE", "there are: broken, deploy, quick"),
        (b"{\"pipeline\":\"\"}", "UNKNOWN_PIPELINE", "there are"),
        (b"{\"pipeline\":7}", "INVALID_BODY", "pipeline"),
        (b"{\"onConflict\":\"later\"}", "INVALID_BODY", "onConflict"),
        (b"{\"onConflict\":\"wait\"}", "INVALID_PARAMETER", "Idempotency-Key"),
        (b"{\"deadlineSeconds\":0}", "INVALID_BODY", "from 1 to 86400"),
        (b"{\"deadlineSeconds\":-1}", "INVALID_BODY", "deadlineSeconds"),
        (b"{\"deadlineSeconds\":86401}", "INVALID_BODY", "from 1 to 86400"),
        (b"{\"deadlineSeconds\":1.5}", "INVALID_BODY", "deadlineSeconds"),
        (b"{\"deadlineSeconds\":\"60\"}", "INVALID_BODY", "deadlineSeconds"),
        (b"{\"executor\":\"client\"}", "INVALID_BODY", "claim: true"),
        (b"{\"claim\":true}", "INVALID_BODY", "executor: client"),
        (b"{\"leaseSeconds\":60}", "INVALID_BODY", "executor: client"),
        (b"{\"executor\":\"client\",\"claim\":true,\"leaseSeconds\":1}", "INVALID_BODY", "from 2 to 3600"),
        (b"{\"executor\":\"client\",\"claim\":true,\"onConflict\":\"queue\"}", "INVALID_BODY", "onConflict: wait"),
        (b"{\"executor\":\"robot\"}", "INVALID_BODY", "executor"),
        (b"{\"rollback\":\"yes\"}", "INVALID_BODY", "rollback"),
        (b"{\"url\":\"javascript:alert(1)\"}", "INVALID_BODY", "https://"),
        (b"{\"actor\":\"a\\u001b[31m\"}", "INVALID_BODY", "actor contains a control character"),
        (b"{\"ref\":\"a\\u0000\"}", "INVALID_BODY", "ref contains a control character"),
        (long_ref.as_bytes(), "INVALID_BODY", "ref is longer than"),
        (many.as_bytes(), "INVALID_BODY", "more than 100 inputs"),
        (long_input.as_bytes(), "INVALID_BODY", "an input's name is"),
        (b"{\"inputs\":{\"\":\"v\"}}", "INVALID_BODY", "an input's name is"),
        (b"{\"inputs\":{\"a=b\":\"v\"}}", "INVALID_BODY", "an input's name is"),
        (b"{\"inputs\":{\"a\":\"v\\u0000\"}}", "INVALID_BODY", "NUL"),
        (b"{\"inputs\":{\"a\":1}}", "INVALID_BODY", "inputs"),
        (b"{\"inputs\":null}", "INVALID_BODY", "inputs"),
        (huge_input.as_bytes(), "INVALID_BODY", "more than 65536 bytes together"),
    ];
    for (body, code, says) in cases {
        let what = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = send(submit(&server).body(body.to_vec())).await;
        assert_refused(&what, &answer, 400, code, says);
    }
    assert_eq!(server.project().await["revision"], 0);
    assert_eq!(server.deployments().await, Vec::<Value>::new());
}

#[tokio::test]
async fn bodies_say_what_they_are_and_come_whole() {
    let server = TestServer::gated();
    let bare = || server.request(Method::POST, DEPLOYMENTS);
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data; boundary=x", ""]
    {
        let answer = send(bare().header("Content-Type", kind).body("{}")).await;
        assert_refused(kind, &answer, 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type: application/json");
    }
    let answer = send(bare().body("{}")).await;
    assert_refused("none", &answer, 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type: application/json");
    for encoding in ["br", "deflate", "gzip, gzip", "zstd"] {
        let answer = send(submit(&server).header("Content-Encoding", encoding).body("{}")).await;
        assert_refused(encoding, &answer, 415, "UNSUPPORTED_MEDIA_TYPE", "gzip");
    }
    let zipped = |bytes: Vec<u8>| submit(&server).header("Content-Encoding", "gzip").body(bytes);
    let small = gzip(br#"{"pipeline":"quick"}"#);
    for (what, bytes) in [
        ("truncated", small[..small.len() - 9].to_vec()),
        ("without its checksum", small[..small.len() - 1].to_vec()),
        ("with something behind it", [&small[..], b"more"].concat()),
        ("no gzip", b"{}".to_vec()),
        ("broken", [&small[..12], &[0xff; 8], &small[20..]].concat()),
    ] {
        assert_refused(what, &send(zipped(bytes)).await, 400, "INVALID_BODY", "gzip");
    }
    // A thousandfold of what was sent, and a merely large one.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100 << 10);
    assert_refused("bomb", &send(zipped(bomb)).await, 413, "BODY_TOO_LARGE", "decompression");
    let large = submit(&server).body(vec![b' '; (8 << 20) + 1]);
    assert_refused("large", &send(large).await, 413, "BODY_TOO_LARGE", "8388608 bytes");
    let cancel = format!("{DEPLOYMENTS}/0199ffff-0000-7000-8000-000000000000/cancel");
    let large = server.request(Method::POST, &cancel).body(vec![b' '; (8 << 20) + 1]);
    assert_refused("large", &send(large).await, 413, "BODY_TOO_LARGE", "8388608 bytes");
    // Announced and never sent: whoever hangs up leaves nothing behind.
    let mut connection = server.connect().await;
    let head = format!(
        "POST {DEPLOYMENTS} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{}}",
        server.authority()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    drop(connection);
    assert_eq!(server.project().await["revision"], 0);

    // And what is right is taken, in whichever clothes.
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
        let planned = bare().query(&[("dryRun", "true")]).header("Content-Type", kind).body("{}");
        assert_eq!(send(planned).await.status, 200, "{kind}");
    }
    assert_eq!(send(bare().query(&[("dryRun", "true")])).await.status, 200, "no body at all");
    let accepted = send(zipped(small)).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    server.finished(&accepted.id()).await;
}

#[tokio::test]
async fn keys_are_one_and_short_and_visible() {
    let server = TestServer::gated();
    let long = "k".repeat(256);
    for key in ["", " ", "a b", "\u{e9}", &long] {
        let answer = send(submit(&server).header("Idempotency-Key", key.as_bytes()).body("{}")).await;
        assert_refused(key, &answer, 400, "INVALID_PARAMETER", "1 to 255 visible ASCII characters");
    }
    let two = submit(&server).header("Idempotency-Key", "a").header("Idempotency-Key", "a").body("{}");
    assert_refused("two", &send(two).await, 400, "INVALID_PARAMETER", "given twice");
    assert_eq!(server.project().await["revision"], 0);
    let longest = submit(&server).header("Idempotency-Key", &long[1..]).body(r#"{"pipeline":"quick"}"#);
    assert_eq!(send(longest).await.status, 202);
}

#[tokio::test]
async fn cancels_and_releases_that_are_not_right_change_nothing() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let before = server.project().await;
    let path = format!("{DEPLOYMENTS}/{id}/cancel");
    let cancel = |body: &str| send(server.request(Method::POST, &path).body(body.to_owned()));
    let long = json!({ "reason": "r".repeat(1025) }).to_string();
    for (body, code, says) in [
        ("{", "INVALID_BODY", "EOF"),
        ("[]", "INVALID_BODY", "not a JSON object"),
        (r#"{"force":true}"#, "UNKNOWN_PARAMETER", "force"),
        (r#"{"supersededBy":"x"}"#, "INVALID_BODY", "supersededBy"),
        (r#"{"supersededBy":7}"#, "INVALID_BODY", "supersededBy"),
        (r#"{"reason":""}"#, "INVALID_BODY", "a reason is"),
        (r#"{"reason":"  "}"#, "INVALID_BODY", "a reason is"),
        (r#"{"reason":"a\nb"}"#, "INVALID_BODY", "a reason is"),
        (r#"{"reason":"a","reason":"b"}"#, "INVALID_BODY", "'reason' appears twice"),
        (&long, "INVALID_BODY", "a reason is"),
    ] {
        assert_refused(body, &cancel(body).await, 400, code, says);
    }
    let release = |body: &str| {
        let request =
            server.request(Method::POST, "/v1/projects/web/release").header("Content-Type", "application/json");
        send(request.body(body.to_owned()))
    };
    for (body, code, says) in [
        ("", "INVALID_BODY", "EOF"),
        ("{}", "INVALID_BODY", "reason"),
        (r#"{"reason":null}"#, "INVALID_BODY", "reason"),
        (r#"{"reason":" "}"#, "INVALID_BODY", "a reason is"),
        (r#"{"reason":"why","deploymentId":"x"}"#, "INVALID_BODY", "deploymentId"),
        (r#"{"reason":"why","force":true}"#, "UNKNOWN_PARAMETER", "force"),
        (&long, "INVALID_BODY", "a reason is"),
    ] {
        assert_refused(body, &release(body).await, 400, code, says);
    }
    let bare = server.request(Method::POST, "/v1/projects/web/release").body(r#"{"reason":"why"}"#);
    assert_refused("bare", &send(bare).await, 415, "UNSUPPORTED_MEDIA_TYPE", "application/json");
    let after = server.project().await;
    assert_eq!((&before["revision"], &before["holder"]["id"]), (&after["revision"], &after["holder"]["id"]));
    assert_eq!(after["holder"]["cancelRequestedAt"], Value::Null);
}

#[tokio::test]
async fn a_client_that_still_uploads_sees_the_conflict_and_not_a_reset() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let body = vec![b' '; 6 << 20];
    for (what, extra) in [("plain", "X-Nothing: 1"), ("waits for 100", "Expect: 100-continue")] {
        let mut connection = server.connect().await;
        let head = format!(
            "POST {DEPLOYMENTS} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n{extra}\r\n\
             Content-Length: {}\r\n\r\n",
            server.authority(),
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // Not one byte of it may be refused: a reset would take the answer with it.
        connection.write_all(&body).await.unwrap();
        let answer = read_to_end(&mut connection).await;
        let text = format!("HTTP/1.1 {} {}", answer.status, answer.text);
        assert!(text.contains("DEPLOYMENT_IN_PROGRESS") && text.contains(&holder), "{what}: {text}");
    }
    assert_eq!(server.deployments().await.len(), 1);
}

#[tokio::test]
async fn what_is_right_is_taken_however_it_is_written() {
    let server = TestServer::gated();
    let gzip_twice = [gzip(b"{\"ref\": "), gzip(b"\"main\"}")].concat();
    for (body, encoding) in [
        (b"\xef\xbb\xbf{\"ref\": \"main\"}".to_vec(), "identity"),
        (gzip_twice, "gzip"),
        (br#"{"ref": "main", "order": 2151.0}"#.to_vec(), "identity"),
    ] {
        let request = server.request(Method::POST, &format!("{DEPLOYMENTS}?dryRun=true"));
        let request = request.header("Content-Type", "application/json").header("Content-Encoding", encoding);
        let answer = send(request.body(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.text.contains("main"), "{}", answer.text);
    }
    let id =
        server.accepted(json!({ "pipeline": "quick", "message": "\u{9b}2J".replace('\u{9b}', "ü\u{202e}") })).await;
    server.finished(&id).await;
    for (accept, status, kind) in [
        ("text/*", 200, "text/event-stream"),
        ("text/event-stream;q=0, */*", 200, "application/json"),
        ("text/event-stream;q=0", 406, "application/problem+json"),
        ("application/json;q=0.5, text/event-stream", 200, "text/event-stream"),
        ("text/event-stream;q=0.1, application/json", 200, "application/json"),
        ("*/*", 200, "application/json"),
    ] {
        let path = format!("{DEPLOYMENTS}/{id}/events?maxWaitSeconds=0");
        let answer = send(server.request(Method::GET, &path).header("Accept", accept)).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, kind), "{accept}");
    }
    // Nothing in an answer moves a terminal or turns its text around, and little of a long path comes back.
    assert!(server.deployment(&id, "").await.text.is_ascii());
    let long = format!("/v1/projects/{}/deployments/x/turn", "w".repeat(200));
    let answer = send(server.request(Method::DELETE, &long)).await;
    assert_eq!(answer.status, 405);
    assert!(!answer.text.contains(&"w".repeat(65)), "{}", answer.text);
}
