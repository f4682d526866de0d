//! Clients that do not behave: bodies that nobody wants, connections that nobody reads from, and far too many of them.
//! What is looked at is everybody else.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Method};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{
    TestServer, a_token, gated_config,
    nginx::Nginx,
    raw::{read_one, read_to_end},
};

/// So many requests, so many at once.
const REQUEST_COUNT: usize = 300;
const AT_ONCE: usize = 10;
/// More than any socket's buffer holds.
const BODY_BYTES: usize = 60_000;
/// Far more than a connection lives that is closed at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a balancer keeps a connection for the next request, by default.
const BALANCERS_HOLD: Duration = Duration::from_secs(61);

type Headers = Vec<(&'static str, &'static str)>;

/// Requests that are refused before anybody looks at their bodies: the method, the path, headers, the status.
fn early_refusals() -> Vec<(Method, &'static str, Headers, u16)> {
    let submit = "/v1/projects/web/deployments";
    vec![
        (Method::POST, submit, vec![("Origin", "https://evil.example")], 403),
        (Method::POST, "/v1/nothing", vec![], 404),
        (Method::PUT, submit, vec![], 405),
        (Method::POST, "/v1/projects/web/deployments?nope=1", vec![], 400),
        (Method::POST, "/v1/projects/%20/deployments", vec![], 400),
        (Method::POST, submit, vec![("Content-Encoding", "br")], 415),
        (Method::POST, submit, vec![("Idempotency-Key", "a b")], 400),
        (Method::PUT, "/v1/artifacts/short", vec![], 400),
        (Method::GET, "/v1/projects", vec![], 200),
    ]
}

#[tokio::test]
async fn a_refusal_reaches_every_client_behind_a_stock_nginx() {
    let server = TestServer::gated_with(&a_token().1);
    let nginx = Arc::new(Nginx::before(&server.base, ""));
    let client = Client::builder().no_proxy().build().unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (nginx, client) = (nginx.clone(), client.clone());
        asking.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..REQUEST_COUNT / AT_ONCE {
                let request = client.post(format!("{}/v1/projects/web/deployments", nginx.base));
                let request = request.header("Content-Type", "application/json").body(vec![b' '; BODY_BYTES]);
                statuses.push(request.send().await.unwrap().status().as_u16());
            }
            statuses
        });
    }
    let statuses: Vec<u16> = asking.join_all().await.into_iter().flatten().collect();
    assert_eq!(statuses, [401; REQUEST_COUNT], "{}", nginx.complaints());
}

#[tokio::test]
async fn an_early_refusal_leaves_the_connection_to_the_next_request() {
    let server = TestServer::gated();
    let mut connection = server.connect().await;
    for (method, path, headers, status) in early_refusals() {
        for chunked in [false, true] {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length =
                if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {BODY_BYTES}") };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{headers}{length}\r\n\r\n",
                server.authority()
            );
            connection.write_all(head.as_bytes()).await.unwrap();
            // It comes in pieces, as over a real network: the answer must not go while one is on its way.
            let pieces = 10;
            for _ in 0..pieces {
                if chunked {
                    connection.write_all(format!("{:x}\r\n", BODY_BYTES / pieces).as_bytes()).await.unwrap();
                }
                connection.write_all(&vec![b' '; BODY_BYTES / pieces]).await.unwrap();
                if chunked {
                    connection.write_all(b"\r\n").await.unwrap();
                }
                tokio::task::yield_now().await;
            }
            if chunked {
                connection.write_all(b"0\r\n\r\n").await.unwrap();
            }
            let answer = read_one(&mut connection).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
            assert_eq!(answer.header("connection"), "", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_leaves_a_body_unread_says_that_the_connection_ends() {
    let server = TestServer::gated();
    for (headers, what) in [
        ("Content-Length: 60000\r\nExpect: 100-continue", "waits for consent"),
        ("Content-Length: 999999999", "is too long to be thrown away"),
    ] {
        let mut connection = server.connect().await;
        let head = format!("POST /v1/nothing HTTP/1.1\r\nHost: {}\r\n{headers}\r\n\r\n", server.authority());
        connection.write_all(head.as_bytes()).await.unwrap();
        let answer = timeout(Duration::from_secs(5), read_to_end(&mut connection)).await.expect(what);
        assert_eq!((answer.refusal(), answer.header("connection")), ((404, "NOT_FOUND"), "close"), "{what}");
    }
    // Whoever waits for consent to what is wanted gets it.
    let mut connection = server.connect().await;
    let head = format!(
        "POST /v1/projects/web/deployments HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        server.authority()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut consent = [0; 25];
    connection.read_exact(&mut consent).await.unwrap();
    assert_eq!(&consent, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write_all(b"{}").await.unwrap();
    assert_eq!(read_one(&mut connection).await.status, 202);
}

/// A stranger that asks again and again and reads nothing.
async fn deaf(server: &TestServer) -> Option<TcpStream> {
    let mut connection = TcpStream::connect(server.authority()).await.ok()?;
    let request = format!("GET /openapi.yaml HTTP/1.1\r\nHost: {}\r\n\r\n", server.authority());
    // It may be one too many.
    connection.write_all(request.repeat(60).as_bytes()).await.ok()?;
    Some(connection)
}

#[tokio::test]
async fn strangers_that_hold_all_connections_cost_running_deployments_nothing() {
    let mut server = TestServer::gated();
    assert!(server.terminate().success());
    let config = gated_config("")
        .replace("run = '''\necho \"at the gate\"", "rollback = \"echo taken back\"\nrun = '''\necho \"at the gate\"")
        + "[[projects.web.pipelines.deploy.phases]]\nname = \"late\"\nrun = \"ls /proc/self/fd | cat; exit ${INPUT_CODE:-0}\"\n";
    server.configure(&config);
    server.boot_with_descriptors(256);
    for (code, status) in [("0", "SUCCEEDED"), ("1", "FAILED")] {
        let id = server.accepted(json!({ "inputs": { "code": code } })).await;
        server.event(&id, |event| event["lines"][0] == "at the gate").await;
        let watched = server.stream(&id, None).await;
        let mut strangers = Vec::new();
        for _ in 0..400 {
            strangers.extend(deaf(&server).await);
        }
        // One more is closed at once.
        let mut excess = TcpStream::connect(server.authority()).await.unwrap();
        let read = timeout(PATIENCE, excess.read(&mut [0])).await.expect("it is not closed");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        server.open_gate();
        // Who was there before sees everything to its end.
        let frames = timeout(PATIENCE, watched.rest()).await.unwrap();
        let last = frames.iter().rev().find(|frame| frame.name == "complete").unwrap();
        assert_eq!(last.data["status"], status, "{}", server.log());
        if status == "FAILED" {
            assert!(frames.iter().any(|frame| frame.data.to_string().contains("taken back")), "{}", server.log());
        }
        drop(strangers);
        // They are let go one after the other; then everybody is answered again.
        while server.client.get(format!("{}/healthz", server.base)).send().await.is_err() {
            tokio::task::yield_now().await;
        }
        server.close_gate();
    }
    let log = server.log();
    assert!(log.contains("too many connections"), "{log}");
    assert!(log.lines().filter(|line| line.contains("too many connections")).count() < 60, "it is told too often");
    assert!(!log.contains("Too many open files"), "{log}");
}

#[tokio::test]
async fn clients_that_do_not_read_are_let_go_and_do_not_hold_up_an_end() {
    let mut server = TestServer::gated();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.extend(deaf(&server).await);
    }
    assert_eq!(server.get("/healthz").await.status, 200);
    let begun = std::time::Instant::now();
    let descriptors = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    let open = || std::fs::read_dir(&descriptors).unwrap().count();
    let before = open();
    assert!(before > 20, "{before}");
    // They were given half a minute; nobody need wait much longer than that.
    while open() > before - 20 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(open() <= before - 20, "{} of {before} descriptors are still open", open());
    for _ in 0..20 {
        strangers.extend(deaf(&server).await);
    }
    assert_eq!(server.get("/healthz").await.status, 200);
    let begun = std::time::Instant::now();
    assert!(server.terminate().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?} to end", begun.elapsed());
}

#[tokio::test]
async fn a_connection_that_idles_as_long_as_balancers_hold_theirs_is_answered_again() {
    let server = TestServer::gated();
    let mut connection = server.connect().await;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", server.authority());
    for idle in [Duration::ZERO, BALANCERS_HOLD] {
        tokio::time::sleep(idle).await;
        connection.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_one(&mut connection).await.status, 200);
    }
}
