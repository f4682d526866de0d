//! Which build it is, the same wherever it is told.

use std::process::Command;

use serde_json::Value;

use crate::harness::{SINGLETRACK, TestServer};

fn version(flags: &[&str]) -> String {
    let output = Command::new(SINGLETRACK).arg("version").args(flags).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn version_readyz_and_the_log_tell_the_same_build() {
    let told: Value = serde_json::from_str(&version(&["--json"])).unwrap();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let commit = told["commit"].as_str().unwrap();
    let is_hash = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_hash || commit == "unknown", "{commit}");
    let built_at = told["builtAt"].as_str().unwrap();
    assert!(built_at.parse::<jiff::Timestamp>().is_ok(), "{built_at}");
    let lines = format!("singletrack {}\ncommit  {commit}\nbuilt   {built_at}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version(&[]), lines);

    let server = TestServer::gated();
    let ready = server.get("/readyz").await.body;
    for field in ["version", "commit", "builtAt"] {
        assert_eq!(ready[field], told[field], "{field}");
    }
    let log = server.log();
    let first = log.lines().find(|line| line.contains(" ready ")).unwrap();
    assert!(first.contains(commit) && first.contains(built_at), "{first}");
}

/// The build script by itself, with what it tells cargo.
#[test]
fn a_build_tells_its_commit_and_the_date_that_it_is_to_tell_and_knows_none_outside_of_a_repository() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("build-script");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let made = Command::new(rustc).args(["--edition", "2024", "-o"]).arg(&script).arg(source).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let told = |here: &std::path::Path| {
        let mut command = Command::new(&script);
        command.env("CARGO_MANIFEST_DIR", here).env("SOURCE_DATE_EPOCH", "951825599").current_dir(here);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(dir.path()).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert!(told(dir.path()).contains("SINGLETRACK_BUILD_COMMIT=unknown\n"), "no repository");
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    let text = told(dir.path());
    assert!(text.contains(&format!("SINGLETRACK_BUILD_COMMIT={}\n", git(&["rev-parse", "HEAD"]))), "{text}");
    assert!(text.contains("SINGLETRACK_BUILD_DATE=2000-02-29T11:59:59Z\n"), "{text}");
    // A file that is missing would count as changed at every build.
    let watched: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("cargo::rerun-if-changed=")).collect();
    assert!(watched.iter().any(|path| path.ends_with("HEAD")), "{text}");
    let is_there = |path: &&str| dir.path().join(path).exists();
    assert!(watched.iter().filter(|path| path.contains(".git")).all(is_there), "{text}");
    let inside = dir.path().join("vendored");
    std::fs::create_dir(&inside).unwrap();
    assert!(told(&inside).contains("SINGLETRACK_BUILD_COMMIT=unknown\n"), "the repository is another's");
}
