//! Who may call at all.

use std::process::Stdio;

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{TestServer, a_token, gated_config, nginx::Nginx, raw::read_to_end, send};

#[tokio::test]
async fn without_tokens_only_loopback_names_are_answered() {
    let server = TestServer::gated();
    let port = server.authority().rsplit_once(':').unwrap().1.to_owned();
    let under = async |host: &str, path: &str| send(server.request(Method::GET, path).header("Host", host)).await;
    for host in ["localhost", "LocalHost", "localhost.", "app.localhost", "127.0.0.1", "127.8.9.10", "[::1]"] {
        for host in [host.to_owned(), format!("{host}:{port}")] {
            for path in ["/v1/projects", "/healthz"] {
                assert_eq!(under(&host, path).await.status, 200, "{host} {path}");
            }
        }
    }
    let long = "x".repeat(300);
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "10.0.0.1",
        "[2001:db8::1]",
        "0.0.0.0",
        &long,
    ] {
        for path in ["/v1/projects", "/healthz", "/metrics", "/openapi.yaml", "/v1/nothing"] {
            let refused = under(host, path).await;
            assert_eq!(refused.refusal(), (403, "HOST_NOT_ALLOWED"), "{host} {path}: {}", refused.text);
            assert!(refused.body["message"].as_str().unwrap().contains("proxy_set_header Host"));
            assert!(!refused.text.contains(&long[..65]), "{}", refused.text);
        }
    }
    for (what, head) in [
        ("none", "GET /v1/projects HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
        (
            "two",
            format!(
                "GET /v1/projects HTTP/1.1\r\nHost: localhost:{port}\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            ),
        ),
    ] {
        let mut connection = server.connect().await;
        connection.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut connection).await;
        assert_eq!(answer.refusal(), (400, "BAD_REQUEST"), "{what}");
    }
}

#[tokio::test]
async fn without_tokens_what_came_through_a_proxy_is_refused() {
    let server = TestServer::gated();
    for name in [
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-Forwarded-Proto",
        "X-Forwarded",
        "X-Real-IP",
        "Forwarded",
        "Via",
        "CF-Connecting-IP",
        "True-Client-IP",
    ] {
        // That it is there is enough: whoever is behind the proxy may have chosen the value.
        for value in ["", "127.0.0.1", "for=127.0.0.1", "1.1 localhost"] {
            for path in ["/v1/projects", "/healthz", "/metrics", "/v1/nothing"] {
                let refused = send(server.request(Method::GET, path).header(name, value)).await;
                assert_eq!(refused.refusal(), (403, "PROXY_NEEDS_TOKENS"), "{name}: {value} {path}: {}", refused.text);
                let told = refused.body["message"].as_str().unwrap();
                assert!(told.contains("singletrack token new"), "{told}");
            }
        }
    }
    let old = format!("POST /v1/projects/web/deployments HTTP/1.0\r\nHost: {}\r\n\r\n", server.authority());
    let mut connection = server.connect().await;
    connection.write_all(old.as_bytes()).await.unwrap();
    assert_eq!(read_to_end(&mut connection).await.refusal(), (403, "PROXY_NEEDS_TOKENS"));
    assert_eq!(server.project().await["revision"], 0, "nothing was made of any of them");
}

#[tokio::test]
async fn a_stock_nginx_opens_a_server_without_tokens_to_nobody_and_one_with_tokens_to_who_has_one() {
    let mut server = TestServer::gated();
    let naming = "location /named/ { proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
                  proxy_http_version 1.1; rewrite ^/named(.*)$ $1 break; proxy_pass http://HERE; }";
    let nginx = Nginx::before(&server.base, &naming.replace("HERE", server.authority()));
    let submit = async |below: &str, token: Option<&str>| {
        let request = Nginx::client().post(format!("{}{below}/v1/projects/web/deployments", nginx.base));
        let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
        let wish = json!({ "pipeline": "quick", "onConflict": "queue" });
        let answer = request.json(&wish).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for below in ["", "/named"] {
        let (status, text) = submit(below, None).await;
        assert!(status == 403 && text.contains("PROXY_NEEDS_TOKENS"), "{below}: {status} {text}");
    }
    assert_eq!(server.project().await["revision"], 0, "{}", nginx.complaints());
    let (token, table) = a_token();
    assert!(server.terminate().success());
    server.configure(&gated_config(&table));
    server.boot();
    for below in ["", "/named"] {
        assert_eq!(submit(below, None).await.0, 401, "{below}");
        assert_eq!(submit(below, Some(&token)).await.0, 202, "{below}");
    }
}

#[tokio::test]
async fn allowed_hosts_goes_with_tokens_only_and_narrows_the_names_under_which_they_count() {
    let mut server = TestServer::gated();
    assert!(server.terminate().success());
    let hosts = "allowed_hosts = [\"deploys.example.com\"]";
    server.configure(&gated_config(hosts));
    let refused = server.command().args(["--listen", "127.0.0.1:0"]).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{told}");
    assert!(told.contains("`allowed_hosts`") && told.contains("singletrack token new"), "{told}");
    let (token, table) = a_token();
    server.configure(&gated_config(&format!("{hosts}\n{table}")));
    server.boot();
    for (host, status) in
        [("deploys.example.com", 200), ("Deploys.Example.com:443", 200), ("localhost", 200), ("upstream", 403)]
    {
        let request = server.request(Method::GET, "/v1/projects").bearer_auth(&token).header("Host", host);
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{host}: {}", answer.text);
        if status == 403 {
            assert_eq!(answer.refusal().1, "HOST_NOT_ALLOWED");
            assert!(answer.body["message"].as_str().unwrap().contains("proxy_set_header Host"), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let server = TestServer::gated();
    let port = server.authority().rsplit_once(':').unwrap().1.to_owned();
    let own = format!("http://127.0.0.1:{port}");
    let other_port = format!("http://127.0.0.1:{}", port.parse::<u16>().unwrap() ^ 1);
    for (name, value, is_allowed) in [
        ("Origin", own.as_str(), true),
        // Another program of the same machine.
        ("Origin", other_port.as_str(), false),
        ("Origin", "http://127.0.0.1", false),
        ("Origin", "https://evil.example", false),
        ("Origin", "http://127.0.0.1.evil.example", false),
        ("Origin", "http://localhost", false),
        ("Origin", "null", false),
        ("Origin", "", false),
        ("Sec-Fetch-Site", "same-origin", true),
        ("Sec-Fetch-Site", "none", true),
        ("Sec-Fetch-Site", "cross-site", false),
        ("Sec-Fetch-Site", "same-site", false),
    ] {
        let requests = [
            server.request(Method::GET, "/v1/projects"),
            server.request(Method::GET, "/healthz"),
            server.request(Method::POST, "/v1/projects/web/release").json(&json!({ "reason": "why" })),
            // What a form on another page can send without asking first.
            server.request(Method::POST, "/v1/projects/web/deployments/0199ffff-0000-7000-8000-000000000000/cancel"),
        ];
        for request in requests {
            let answer = send(request.header(name, value)).await;
            if is_allowed {
                assert_ne!(answer.status, 403, "{name}: {value}");
            } else {
                assert_eq!(answer.refusal(), (403, "FORBIDDEN_ORIGIN"), "{name}: {value}");
            }
        }
    }
    let submit = server.request(Method::POST, "/v1/projects/web/deployments").header("Origin", "https://evil.example");
    assert_eq!(send(submit.json(&json!({}))).await.status, 403);
    assert_eq!(server.project().await["revision"], 0);
}

#[tokio::test]
async fn with_tokens_only_who_has_one_is_answered_and_it_is_never_written_down() {
    let mut server = TestServer::gated();
    let (token, table) = a_token();
    let (other, _) = a_token();
    assert!(token.starts_with("st_") && token.len() > 60 && token != other);
    assert!(server.terminate().success());
    server.configure(&gated_config(&table));
    server.boot();
    let wrong = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some(format!("Bearer {other}")),
        Some(format!("Bearer {token}x")),
        Some(format!("Bearer {}", &token[..token.len() - 1])),
        Some(format!("Basic {token}")),
        Some(token.clone()),
    ];
    let mut answers = Vec::new();
    for authorization in &wrong {
        for (method, path) in [
            (Method::GET, "/v1/projects"),
            (Method::POST, "/v1/projects/web/deployments"),
            (Method::GET, "/v1/projects/other"),
            (Method::GET, "/v1/nothing"),
        ] {
            let request = server.request(method, path);
            let request = authorization.iter().fold(request, |request, value| request.header("Authorization", value));
            let refused = send(request).await;
            assert_eq!(refused.refusal(), (401, "UNAUTHORIZED"), "{authorization:?} {path}");
            assert_eq!(refused.header("www-authenticate"), "Bearer");
            answers.push(refused.text);
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.yaml"] {
        assert_eq!(server.get(path).await.status, 200, "{path} asks for no token");
    }
    let with = |method, path: &str| server.request(method, path).bearer_auth(&token);
    // A token is proof enough under whatever name the server is reached, but not for a foreign page.
    let named = with(Method::GET, "/v1/projects").header("Host", "deploys.example.com");
    assert_eq!(send(named).await.status, 200);
    let foreign = with(Method::GET, "/v1/projects").header("Origin", "https://evil.example");
    assert_eq!(send(foreign).await.refusal(), (403, "FORBIDDEN_ORIGIN"));
    let lower = server.request(Method::GET, "/v1/projects").header("Authorization", format!("bearer {token}"));
    assert_eq!(send(lower).await.status, 200);
    let made = send(with(Method::POST, "/v1/projects/web/deployments").json(&json!({ "pipeline": "quick" }))).await;
    assert_eq!(made.status, 202);
    let completion = format!("/v1/projects/web/deployments/{}/completion", made.id());
    assert_eq!(send(with(Method::GET, &completion)).await.body["status"], "SUCCEEDED");
    // Errors under a token do not repeat it, be it in the wrong place.
    answers.push(send(with(Method::GET, "/v1/projects?nope=1")).await.text);
    answers.push(send(with(Method::GET, "/v1/projects").header("Origin", "https://evil.example")).await.text);
    assert!(server.terminate().success());
    let secret = &token[3..];
    assert!(answers.iter().all(|answer| !answer.contains(secret)));
    assert!(!server.log().contains(secret), "{}", server.log());
}

#[tokio::test]
async fn a_token_may_do_what_its_scopes_say() {
    let mut server = TestServer::gated();
    let (token, table) = a_token();
    assert!(server.terminate().success());
    server.configure(&gated_config(&format!("{table}scopes = [\"submit\", \"read\"]\n")));
    server.boot();
    let with = |method, path: &str| server.request(method, path).bearer_auth(&token);
    let made = send(with(Method::POST, "/v1/projects/web/deployments").json(&json!({ "pipeline": "quick" }))).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let completion = format!("/v1/projects/web/deployments/{}/completion", made.id());
    assert_eq!(send(with(Method::GET, &completion)).await.body["status"], "SUCCEEDED");
    for (path, scope) in [
        (format!("/v1/projects/web/deployments/{}/cancel", made.id()), "cancel"),
        ("/v1/projects/web/release".to_owned(), "release"),
        ("/v1/claims".to_owned(), "work"),
    ] {
        let refused = send(with(Method::POST, &path)).await;
        assert_eq!(refused.refusal(), (403, "MISSING_SCOPE"), "{path}: {}", refused.text);
        let expected = format!("this needs the scope {scope}; token:ci has read, submit");
        assert_eq!(refused.body["message"], expected, "{path}");
    }
    let store = rusqlite::Connection::open(server.path("test.db")).unwrap();
    let row = store.query_row("SELECT action, caller, address FROM audit", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    });
    assert_eq!(row.unwrap(), ("submit".to_owned(), "token:ci".to_owned(), "127.0.0.1".to_owned()));
}

#[tokio::test]
async fn other_machines_are_served_only_with_tokens() {
    let mut server = TestServer::gated();
    assert!(server.terminate().success());
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let refused = server.command().args(["--listen", listen]).output().unwrap();
        assert_eq!(refused.status.code(), Some(78), "{listen}");
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(told.contains("without tokens") && told.contains("singletrack token new"), "{told}");
        assert_eq!(refused.stdout, b"");
    }
    server.configure(&gated_config(&a_token().1));
    let mut child = server.command().args(["--listen", "0.0.0.0:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("listening on http://0.0.0.0:"), "{line}");
}
