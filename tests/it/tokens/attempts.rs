//! Wrong tokens, many of them: nobody else feels them, and they learn nothing.

use reqwest::{Client, Method};
use serde_json::json;

use super::{Closed, get, postgres};
use crate::harness::{client_with, send};

fn wrong() -> String {
    singletrack::http::new_token().unwrap().token
}

#[tokio::test]
async fn many_wrong_tokens_are_told_to_wait_and_a_right_one_from_the_same_address_works() {
    let one = Closed::start("sqlite:test.db", "");
    let (_, user) = one.token(json!({ "name": "ci", "scopes": ["read"] })).await;
    let mut refused = Vec::new();
    for _ in 0..60 {
        refused.push(get(&client_with(&wrong()), &one.server, "/v1/projects").await);
        assert_eq!(get(&user, &one.server, "/v1/projects").await.status, 200);
    }
    assert!(refused[..30].iter().all(|answer| answer.refusal() == (401, "UNAUTHORIZED")));
    let limited: Vec<_> = refused.iter().filter(|answer| answer.refusal() == (429, "TOO_MANY_ATTEMPTS")).collect();
    assert!(limited.len() >= 10, "{}", limited.len());
    assert!(limited.iter().all(|answer| (1..=4).contains(&answer.header("retry-after").parse::<u64>().unwrap())));
    // Whoever shows none does not try.
    assert_eq!(one.server.get("/v1/projects").await.refusal(), (401, "UNAUTHORIZED"));
    let metrics = one.server.get("/metrics").await.text;
    let counted = |code: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("singletrack_refused_requests_total{{code=\"{code}\"}}")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).unwrap_or(0)
    };
    assert_eq!(counted("TOO_MANY_ATTEMPTS"), limited.len());
    assert_eq!(counted("UNAUTHORIZED"), 60 - limited.len() + 1);
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_allowance_and_nobody_else_is_believed() {
    let one = Closed::start("sqlite:test.db", "trusted_proxies = [\"127.0.0.1\"]");
    let other = Closed::start("sqlite:test.db", "");
    let show = async |to: &Closed, from: &str| {
        let request = to.server.client.request(Method::GET, format!("{}/v1/projects", to.server.base));
        send(request.bearer_auth(wrong()).header("X-Forwarded-For", from)).await.status
    };
    for _ in 0..31 {
        show(&one, "203.0.113.1").await;
        show(&other, "203.0.113.1").await;
    }
    assert_eq!(show(&one, "203.0.113.1").await, 429);
    assert_eq!(show(&one, "203.0.113.2").await, 401);
    assert_eq!(show(&one, "203.0.113.1, 203.0.113.3").await, 401, "the proxy adds its client at the end");
    assert_eq!(show(&other, "203.0.113.2").await, 429, "whoever is not trusted is one address");
}

/// Sends so many wrong tokens over one connection.
async fn flood(client: &Client, url: &str, count: usize) -> (usize, usize) {
    let (mut unknown, mut limited) = (0, 0);
    for number in 0..count {
        // Well formed, so that only a look into the store could tell.
        let token = if number % 100 == 0 { wrong() } else { format!("st_{number:072x}") };
        match client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16() {
            401 => unknown += 1,
            429 => limited += 1,
            status => panic!("{status}"),
        }
    }
    (unknown, limited)
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_loads_neither_the_store_nor_the_log() {
    let store = postgres::shared().store().await;
    let one = Closed::start(&store, "");
    let (_, user) = one.token(json!({ "name": "ci", "scopes": ["read", "submit"] })).await;
    let url = format!("{}/v1/projects", one.server.base);
    let flooding = futures_util::future::join_all((0..4).map(|_| async {
        let client = Client::builder().no_proxy().build().unwrap();
        flood(&client, &url, 500).await
    }));
    let working = async {
        for _ in 0..20 {
            assert_eq!(get(&user, &one.server, "/v1/projects/web").await.status, 200);
        }
    };
    let (flooded, ()) = tokio::join!(flooding, working);
    let limited: usize = flooded.iter().map(|(_, limited)| limited).sum();
    let unknown: usize = flooded.iter().map(|(unknown, _)| unknown).sum();
    assert!(limited > 1_500 && unknown >= 30, "{unknown} {limited}");
    let log = one.server.log();
    let told = log.lines().filter(|line| line.contains("refused a request")).count();
    assert!((1..1_000).contains(&told), "{told} lines");
}
