//! `[[oidc]]` in the configuration: what is refused, and what is said about it.

use std::{fs, process::Command};

use crate::harness::SINGLETRACK;

/// What `check-config` says about this file: its exit code, and what it prints.
fn checked(text: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("singletrack.toml");
    fs::write(&file, text).unwrap();
    let output = Command::new(SINGLETRACK).args(["check-config"]).arg(&file).output().unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap(), told)
}

/// An issuer with this rule.
fn rule(issuer: &str, rule: &str) -> String {
    format!("[projects.web]\n[[oidc]]\nname = \"ci\"\nissuer = \"{issuer}\"\n[[oidc.rules]]\n{rule}\n")
}

const GITHUB: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.com";

#[test]
fn a_rule_must_say_whose_jobs_are_meant_and_what_they_may_do() {
    let rest = "projects = [\"web\"]\nscopes = [\"read\"]";
    for (issuer, claims, says) in [
        (GITHUB, "{ ref = \"refs/heads/main\" }", "`repository`"),
        (GITHUB, "{ environment = \"production\", actor = \"alice\" }", "`repository_owner`"),
        (GITHUB, "{ repository = \"*\" }", "with the owner in full"),
        (GITHUB, "{ repository = \"*/web\" }", "with the owner in full"),
        (GITHUB, "{ repository = [\"acme/web\", \"**\"] }", "with the owner in full"),
        (GITHUB, "{ repository_owner = \"acme*\" }", "with the owner in full"),
        (GITHUB, "{ sub = \"repo:*\" }", "with the owner in full"),
        (GITHUB, "{ project_path = \"acme/web\" }", "`repository`"),
        (GITHUB, "{ repository = [] }", "names no value"),
        (GITHUB, "{ repository = 1.5 }", "must be a string"),
        (GITHUB, "{ repository = { a = 1 } }", "must be a string"),
        (GITHUB, "\"acme/web\"", "must be a table"),
        (GITHUB, "{ repository = \"acme/web\", event_name = \"pull_request\" }", "pull_requests = true"),
        (GITLAB, "{ ref = \"main\" }", "`project_path`"),
        (GITLAB, "{ repository = \"acme/web\" }", "`project_path`"),
        ("https://ci.example", "{ branch = \"ma*\" }", "that only your jobs have"),
        ("https://ci.example", "{ }", "that only your jobs have"),
    ] {
        let (code, told) = checked(&rule(issuer, &format!("claims = {claims}\n{rest}")));
        assert!(code == 78 && told.contains(says), "{claims}: {code} {told}");
        assert!(told.contains("singletrack.toml:"), "{told}");
    }
    let claims = "claims = { repository = \"acme/web\" }";
    for (rest, says) in [
        ("", "projects` is missing"),
        ("projects = []\nscopes = [\"read\"]", "projects` is empty"),
        ("projects = [\"we/b\"]\nscopes = [\"read\"]", "projects`"),
        ("projects = [\"web\"]", "scopes` is missing"),
        ("projects = [\"web\"]\nscopes = []", "scopes` is empty"),
        ("projects = [\"web\"]\nscopes = [\"write\"]", "scopes`"),
        ("projects = [\"web\"]\nscopes = [\"read\"]\nproject = \"web\"", "did you mean `projects`?"),
        ("projects = [\"web\"]\nscopes = [\"read\"]\npull_requests = \"yes\"", "true or false"),
    ] {
        let (code, told) = checked(&rule(GITHUB, &format!("{claims}\n{rest}")));
        assert!(code == 78 && told.contains(says), "{rest}: {code} {told}");
    }
}

#[test]
fn an_issuer_must_be_one_whose_keys_can_be_trusted() {
    let rules = "[[oidc.rules]]\nclaims = { own = \"1\" }\nprojects = [\"*\"]\nscopes = [\"read\"]\n";
    for (table, says) in [
        ("issuer = \"https://ci.example\"", "name` is missing"),
        ("name = \"ci\"", "issuer` is missing"),
        ("name = \"a:b\"\nissuer = \"https://ci.example\"", "letters, digits"),
        ("name = \"ci\"\nissuer = \"ci.example\"", "must be an address"),
        ("name = \"ci\"\nissuer = \"ftp://ci.example\"", "must be an address"),
        ("name = \"ci\"\nissuer = \"http://ci.example\"", "must begin with https://"),
        ("name = \"ci\"\nissuer = \"http://127.0.0.1.example\"", "must begin with https://"),
        ("name = \"ci\"\nissuer = \"https://user@ci.example\"", "must be an address"),
        (
            "name = \"ci\"\nissuer = \"https://ci.example\"\njwks_uri = \"http://ci.example/keys\"",
            "must begin with https://",
        ),
        ("name = \"ci\"\nissuer = \"https://ci.example\"\naudience = \"\"", "audience"),
        ("name = \"ci\"\nissuer = \"https://ci.example\"\nca_cert = \"\"", "must name a PEM file"),
        ("name = \"ci\"\nissuer = \"https://ci.example\"\naudiences = \"x\"", "did you mean `audience`?"),
    ] {
        let (code, told) = checked(&format!("[[oidc]]\n{table}\n{rules}"));
        assert!(code == 78 && told.contains(says), "{table}: {code} {told}");
    }
    let one = |name: &str, issuer: &str| format!("[[oidc]]\nname = \"{name}\"\nissuer = \"{issuer}\"\n{rules}");
    let twice = one("ci", "https://a.example") + &one("ci", "https://b.example");
    assert!(checked(&twice).1.contains("is the name of another [[oidc]] table"));
    let twice = one("a", "https://a.example") + &one("b", "https://a.example");
    assert!(checked(&twice).1.contains("is the issuer of another [[oidc]] table"));
    let (code, told) = checked("[[oidc]]\nname = \"ci\"\nissuer = \"https://ci.example\"\n");
    assert!(code == 78 && told.contains("rules` is missing"), "{told}");
    let (code, told) = checked(&one("ci", "http://127.0.0.1:8080"));
    assert_eq!(code, 0, "{told}");
}

#[test]
fn a_pattern_that_no_configured_project_fits_is_told_and_is_no_error() {
    let text = "claims = { repository = \"acme/web\" }\nprojects = [\"web\", \"wbe\", \"api-*\"]\nscopes = [\"read\"]";
    let (code, told) = checked(&rule(GITHUB, text));
    assert_eq!(code, 0, "{told}");
    for pattern in ["\"wbe\"", "\"api-*\""] {
        assert!(told.contains(&format!("no configured project fits {pattern}")), "{told}");
    }
    assert!(!told.contains("fits \"web\""), "{told}");
    let (code, told) = checked(&rule(GITHUB, &text.replace("\"wbe\", \"api-*\"", "\"*\"")));
    assert!(code == 0 && !told.contains("warning"), "{told}");
}
