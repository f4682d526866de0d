//! Where no request may go.

use serde_json::json;

use super::until_rows;
use crate::harness::{
    TestServer, gated_config,
    receiver::{Receiver, Reply},
};

/// A rule for Slack, which needs no secret.
fn rule(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[notify]]\nname = \"{name}\"\nkind = \"slack\"\nurl = \"{url}\"\nevents = [\"failed\"]\nattempts = 1\n{more}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_goes_to_a_name_that_leads_to_this_machine_nor_to_where_a_target_redirects() {
    let (target, inner) = (Receiver::start(), Receiver::start());
    let port = inner.port;
    target
        .answer("/redirects", [Reply::Http(307, format!("location: {}/stolen\r\n", inner.url).leak(), String::new())]);
    // A name in a file is examined when it is used.
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), format!("https://[::ffff:127.0.0.1]:{port}/kept")).unwrap();
    let rules = [
        rule("name", &format!("https://localhost:{port}/name"), ""),
        rule("other-network", &format!("http://localhost:{port}/other"), "allow_networks = [\"10.0.0.0/8\"]"),
        rule("kept", "", "").replace("url = \"\"", &format!("url_file = \"{}\"", kept.path().display())),
        rule("redirects", &format!("{}/redirects", target.url), "allow_networks = [\"127.0.0.0/8\"]"),
        rule("allowed", &format!("http://localhost:{}/allowed", target.port), "allow_networks = [\"127.0.0.1\"]"),
    ];
    let server = TestServer::start(&gated_config(&rules.concat()));
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    let dead = until_rows(&server, "?state=dead", |rows| rows.len() == 4).await;
    let error = |rule: &str| {
        let row = dead.iter().find(|row| row["rule"] == rule).unwrap_or_else(|| panic!("{rule}: {dead:?}"));
        row["error"].as_str().unwrap().to_owned()
    };
    for rule in ["name", "other-network", "kept"] {
        assert!(error(rule).contains("is a loopback address"), "{rule}: {}", error(rule));
        assert!(error(rule).contains("allow_networks"), "{rule}: {}", error(rule));
    }
    assert!(error("redirects").contains("redirects are not followed"), "{}", error("redirects"));
    let mut seen = [target.next().await.target, target.next().await.target];
    seen.sort();
    assert_eq!(seen, ["/allowed", "/redirects"]);
    assert!(inner.has_more().await.is_none(), "a request came through");
}

#[test]
fn check_config_refuses_addresses_of_this_machine_and_its_network_in_every_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("singletrack.toml");
    let check = |url: &str, more: &str| {
        std::fs::write(&file, rule("one", url, more)).unwrap();
        let checked =
            std::process::Command::new(crate::harness::SINGLETRACK).arg("check-config").arg(&file).output().unwrap();
        (checked.status.success(), String::from_utf8(checked.stderr).unwrap())
    };
    for (url, what) in [
        ("https://127.0.0.1/", "127.0.0.1 is a loopback address"),
        ("https://0x7f.1/", "127.0.0.1 is a loopback address"),
        ("https://2130706433/", "127.0.0.1 is a loopback address"),
        ("https://0177.0.0.1/", "127.0.0.1 is a loopback address"),
        ("https://[::1]/", "::1 is a loopback address"),
        ("https://[::ffff:127.0.0.1]/", "is a loopback address"),
        ("https://[::ffff:7f00:1]/", "is a loopback address"),
        ("https://[64:ff9b::7f00:1]/", "is a loopback address"),
        ("https://[2002:7f00:1::]/", "is a loopback address"),
        ("https://169.254.169.254/latest", "is a link-local address"),
        ("https://[fe80::1]/", "is a link-local address"),
        ("https://10.0.0.7/", "is a private address"),
        ("https://192.168.0.1/", "is a private address"),
        ("https://[fd00::1]/", "is a private address"),
        ("https://0.0.0.0/", "is an unspecified address"),
        ("https://[::]/", "is an unspecified address"),
        ("https://224.0.0.1/", "is a multicast address"),
        ("https://255.255.255.255/", "is a reserved address"),
        ("http://hooks.example.com/", "must begin with https://"),
        ("ftp://hooks.example.com/", "must be an address that begins with https://"),
        ("hooks.example.com", "must be an address that begins with https://"),
        ("https://user:pass@hooks.example.com/", "must not have a user name"),
    ] {
        let (is_valid, told) = check(url, "");
        assert!(!is_valid && told.contains(what), "{url}: {told}");
    }
    for url in ["https://127.0.0.1/", "https://[::ffff:127.0.0.1]/", "http://0x7f.1/", "http://10.0.0.7/"] {
        assert!(check(url, "allow_private = true").0, "{url}");
    }
    assert!(check("http://10.2.0.7/", "allow_networks = [\"10.2.0.0/16\"]").0);
    assert!(!check("http://10.3.0.7/", "allow_networks = [\"10.2.0.0/16\"]").0);
    assert!(check("https://hooks.example.com/", "").0);
}
