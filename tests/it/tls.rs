//! A server with TLS of its own, with real certificates.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use reqwest::{Client, Method};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Answer, SINGLETRACK, TestServer, gated_config, raw::read_to_end, send};

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// An authority, and a folder for what it issues.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Authority(tempfile::tempdir().unwrap());
        authority.openssl(&format!("req -x509 {NEW_KEY} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"), "");
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str, time: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.0.path());
        if !time.is_empty() {
            let libraries = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
            let library = libraries.map(|path| path.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
            command.env("LD_PRELOAD", library.expect("libfaketime is missing: run scripts/prerequisites"));
            command.env("FAKETIME", time);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Issues `name.pem` and `name.key`, for `localhost` and 127.0.0.1.
    fn issue(&self, name: &str) {
        self.issue_at(name, "");
    }

    /// The same as of another time.
    fn issue_at(&self, name: &str, time: &str) {
        fs::write(self.path("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        self.openssl(&format!("req {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"), "");
        let issue = format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names");
        self.openssl(&format!("{issue} -out {name}.pem"), time);
    }

    /// Puts a pair where the server's configuration expects it.
    fn install(&self, cert: &str, key: &str) {
        for (from, to) in [(format!("{cert}.pem"), "server.pem"), (format!("{key}.key"), "server.key")] {
            fs::copy(self.path(&from), self.path("new")).unwrap();
            fs::rename(self.path("new"), self.path(to)).unwrap();
        }
    }

    /// The table of the configuration.
    fn table(&self) -> String {
        format!("[tls]\ncert = {:?}\nkey = {:?}\n", self.path("server.pem"), self.path("server.key"))
    }

    /// A client that trusts it, with a connection for each request.
    fn client(&self) -> Client {
        let ca = reqwest::Certificate::from_pem(&fs::read(self.path("ca.pem")).unwrap()).unwrap();
        Client::builder().no_proxy().pool_max_idle_per_host(0).tls_certs_only([ca]).build().unwrap()
    }

    /// A server with its certificate, and its project `web` at the gate.
    fn server(&self) -> TestServer {
        self.issue("first");
        self.install("first", "first");
        let mut server = TestServer::start(&gated_config(&self.table()));
        server.client = self.client();
        server.close_gate();
        assert!(server.base.starts_with("https://127.0.0.1:"), "{}", server.base);
        server
    }

    /// Runs a client's command, and `--ca-cert`.
    fn tool(&self, server: &TestServer, args: &[&str]) -> Output {
        let ca = self.path("ca.pem");
        server.tool(args).args(["--server", &server.base, "--ca-cert", ca.to_str().unwrap()]).output().unwrap()
    }

    /// What `openssl s_client` sees.
    fn seen(&self, server: &TestServer, more: &[&str]) -> String {
        let address = address(server);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", address, "-CAfile", "ca.pem", "-alpn", "h2,http/1.1"]).args(more);
        let seen = command.current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&seen.stdout).into_owned()
    }
}

fn address(server: &TestServer) -> &str {
    server.base.strip_prefix("https://").unwrap()
}

async fn reload(server: &TestServer) -> Answer {
    send(server.request(Method::POST, "/v1/admin/reload")).await
}

fn check(file: &Path) -> (Option<i32>, String) {
    let checked = Command::new(SINGLETRACK).arg("check-config").arg(file).output().unwrap();
    (checked.status.code(), String::from_utf8(checked.stderr).unwrap())
}

#[tokio::test]
async fn a_deploy_waits_runs_and_is_followed_over_tls() {
    let authority = Authority::new();
    let server = authority.server();
    let holder = server.at_the_gate().await;
    let waiting = std::thread::scope(|scope| {
        let (authority, server) = (&authority, &server);
        let waiting =
            scope.spawn(move || authority.tool(server, &["deploy", "--project", "web", "--pipeline", "quick"]));
        let following = scope.spawn(move || authority.tool(server, &["logs", "--project", "web", "1", "--follow"]));
        while fs::read_to_string(server.path("metrics")).is_err() {
            let metrics = authority.tool(server, &["why", "--project", "web", "--json"]);
            let why: Value = serde_json::from_slice(&metrics.stdout).unwrap();
            if why["lineLength"] == 1 {
                break;
            }
        }
        server.open_gate();
        let followed = following.join().unwrap();
        assert!(String::from_utf8_lossy(&followed.stdout).contains("at the gate"), "{followed:?}");
        waiting.join().unwrap()
    });
    assert_eq!(waiting.status.code(), Some(0), "{waiting:?}");
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED");
    // A client that does not know the authority is told what to do.
    let stranger = server.tool(&["list", "--server", &server.base]).output().unwrap();
    let text = String::from_utf8(stranger.stderr).unwrap();
    assert!(text.contains("--ca-cert"), "{text}");
}

#[tokio::test]
async fn phases_call_their_server_under_a_name_for_which_its_certificate_counts() {
    let authority = Authority::new();
    authority.issue("first");
    authority.install("first", "first");
    let phase = "[[projects.web.pipelines.deploy.phases]]\nname = \"only\"\nrun = 'echo \"at $SINGLETRACK_URL\"'";
    let mut server = TestServer::start(&format!("{phase}\n{}", authority.table()));
    server.client = authority.client();
    let id = server.accepted(json!({})).await;
    let said = server.event(&id, |event| event["type"] == "log").await;
    assert_eq!(said["lines"][0], format!("at {}", server.base));
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_a_parked_poll_goes_on() {
    let authority = Authority::new();
    let server = authority.server();
    let id = server.at_the_gate().await;
    assert!(authority.seen(&server, &[]).contains("CN = first"), "{}", authority.seen(&server, &[]));
    let (ended, ()) = tokio::join!(server.deployment(&id, "/completion?maxWaitSeconds=60"), async {
        server.parked(1).await;
        authority.issue("second");
        authority.install("second", "second");
        let before = server.log().len();
        server.signal(Signal::HUP);
        while !server.log()[before..].contains("keys_changed=tls") {
            tokio::task::yield_now().await;
        }
        let seen = authority.seen(&server, &[]);
        assert!(seen.contains("CN = second") && seen.contains("Verify return code: 0"), "{seen}");
        server.open_gate();
    });
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("SUCCEEDED")), "{}", ended.text);
}

#[tokio::test]
async fn a_broken_pair_changes_nothing_and_says_what_is_wrong() {
    let authority = Authority::new();
    let server = authority.server();
    authority.issue("second");
    authority.issue_at("old", "2020-01-01 00:00:00");
    authority.issue_at("future", "2099-01-01 00:00:00");
    let config = server.path("singletrack.toml");
    let broken: [(&str, &str, &str); 4] = [
        ("first", "second", "the key does not belong to the certificate"),
        ("old", "old", "expired at 2020-01-03T00:00:0"),
        ("future", "future", "is not valid before 2099-01-01T00:00:0"),
        ("ca", "names", ""),
    ];
    for (cert, key, words) in broken {
        match words {
            "" => {
                fs::write(authority.path("server.pem"), "nothing\n").unwrap();
                fs::remove_file(authority.path("server.key")).unwrap();
            }
            _ => authority.install(cert, key),
        }
        let told = reload(&server).await;
        assert_eq!(told.refusal(), (409, "CONFIG_INVALID"), "{cert}: {}", told.text);
        let (code, text) = check(&config);
        assert_eq!(code, Some(78), "{text}");
        for problem in told.body["problems"].as_array().unwrap() {
            let problem = problem.as_str().unwrap();
            let (_, why) = problem.split_once("`tls.").unwrap_or_else(|| panic!("{problem}"));
            assert!(problem.contains(words), "{problem}");
            // The words of a time differ by the second at which it was asked.
            assert!(text.contains(why.split("; it is").next().unwrap()), "{why} is not in {text}");
        }
    }
    let told = reload(&server).await;
    assert!(told.text.contains("there is no CERTIFICATE in") && told.text.contains("cannot read"), "{}", told.text);
    assert!(authority.seen(&server, &[]).contains("CN = first"), "the old one is served");
    authority.install("second", "second");
    assert_eq!(reload(&server).await.body["keys"], json!(["tls"]));
    assert!(authority.seen(&server, &[]).contains("CN = second"));
}

#[tokio::test]
async fn whether_tls_is_spoken_waits_for_a_restart() {
    let authority = Authority::new();
    let server = authority.server();
    server.configure(&gated_config("[projects.api]"));
    let told = reload(&server).await;
    assert_eq!((&told.body["waitsForRestart"], &told.body["keys"]), (&json!(["tls"]), &json!([])), "{}", told.text);
    assert_eq!(server.get("/v1/projects/api").await.status, 200, "the rest holds, over TLS");
}

#[tokio::test]
async fn clients_that_never_finish_their_handshake_harm_nobody() {
    let authority = Authority::new();
    let server = authority.server();
    let mut mute = Vec::new();
    for count in 0..200 {
        let mut connection = TcpStream::connect(address(&server)).await.unwrap();
        // Some begin a handshake.
        if count % 2 == 0 {
            connection.write_all(&[0x16, 3, 1]).await.unwrap();
        }
        mute.push(connection);
    }
    for _ in 0..5 {
        assert_eq!(server.get("/readyz").await.status, 200);
    }
    // None is kept for ever.
    for mut connection in mute {
        assert!(matches!(connection.read(&mut [0; 64]).await, Ok(_) | Err(_)));
    }
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_server_ends_although_handshakes_are_not_finished() {
    let authority = Authority::new();
    let mut server = authority.server();
    let mut mute = TcpStream::connect(address(&server)).await.unwrap();
    mute.write_all(&[0x16, 3, 1]).await.unwrap();
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn a_client_without_tls_is_told_what_to_do_and_one_with_tls_at_a_server_without() {
    let authority = Authority::new();
    let server = authority.server();
    let mut plain = TcpStream::connect(address(&server)).await.unwrap();
    plain.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut plain).await;
    assert_eq!(answer.refusal(), (400, "BAD_REQUEST"));
    let url = server.base.replace("https", "http");
    let told = server.tool(&["list", "--server", &url]).output().unwrap();
    let text = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(2), "{text}");
    assert!(text.contains("https://"), "{text}");

    let without = TestServer::start("");
    let url = without.base.replace("http", "https");
    let ca = authority.path("ca.pem");
    let mut list = without.tool(&["list", "--server", &url, "--ca-cert", ca.to_str().unwrap()]);
    let told = list.output().unwrap();
    let text = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(125), "{text}");
    assert!(text.contains("http://"), "{text}");
}

#[tokio::test]
async fn http_1_1_over_tls_1_2_and_1_3_is_spoken_and_nothing_older() {
    let authority = Authority::new();
    let server = authority.server();
    for (version, told) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let seen = authority.seen(&server, &[version]);
        assert!(seen.contains(told) && seen.contains("ALPN protocol: http/1.1"), "{seen}");
    }
    let seen = authority.seen(&server, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(!seen.contains("ALPN protocol: http/1.1") && seen.contains("no peer certificate"), "{seen}");
}

#[tokio::test]
async fn a_client_that_hangs_up_a_parked_poll_is_noticed_over_tls() {
    let authority = Authority::new();
    let server = authority.server();
    let id = server.at_the_gate().await;
    let poll = tokio::spawn(
        server.request(Method::GET, &format!("/v1/projects/web/deployments/{id}/completion?maxWaitSeconds=60")).send(),
    );
    server.parked(1).await;
    poll.abort();
    server.parked(0).await;
    server.open_gate();
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn several_polls_follow_each_other_on_one_connection_over_tls() {
    let authority = Authority::new();
    let server = authority.server();
    let ca = reqwest::Certificate::from_pem(&fs::read(authority.path("ca.pem")).unwrap()).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let id = server.at_the_gate().await;
    let url =
        |seconds: u8| format!("{}/v1/projects/web/deployments/{id}/completion?maxWaitSeconds={seconds}", server.base);
    for _ in 0..3 {
        let answer = client.get(url(1)).send().await.unwrap();
        assert_eq!(answer.status(), 408);
        answer.text().await.unwrap();
    }
    server.open_gate();
    let answer = client.get(url(60)).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_server_that_waits_for_its_database_answers_over_tls() {
    let authority = Authority::new();
    authority.issue("first");
    authority.install("first", "first");
    let folder = tempfile::tempdir().unwrap();
    let port = |listener: std::net::TcpListener| listener.local_addr().unwrap();
    let (deaf, listen) = (
        port(std::net::TcpListener::bind("127.0.0.1:0").unwrap()),
        port(std::net::TcpListener::bind("127.0.0.1:0").unwrap()),
    );
    fs::write(folder.path().join("singletrack.toml"), authority.table()).unwrap();
    let mut command = Command::new(SINGLETRACK);
    command.args(["serve", "--listen", &listen.to_string(), "--store", &format!("postgres://nobody@{deaf}/nothing")]);
    let log = folder.path().join("log");
    command.current_dir(folder.path()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut server = command.env_remove("SINGLETRACK_LOG").spawn().unwrap();
    while !fs::read_to_string(&log).unwrap().contains("waiting for it") {
        tokio::task::yield_now().await;
    }
    let answer = authority.client().get(format!("https://{listen}/healthz")).send().await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), Signal::TERM).unwrap();
    server.wait().unwrap();
    assert_eq!(answer.unwrap().status(), 200);
}
