//! The example in `examples/replicas`, as it is in the repository: three servers behind nginx, of which one is killed and
//! one is stopped while pipelines race.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::harness::SINGLETRACK;

/// Half as many as for people, who have the time to watch.
const PIPELINE_COUNT: &str = "10";

/// Where cargo puts an example. It is built with the tests, unless only some of them are asked for.
fn built(example: &str) -> PathBuf {
    let program = Path::new(SINGLETRACK).parent().unwrap().join("examples").join(example);
    if !program.exists() {
        let cargo = Command::new(env!("CARGO")).args(["build", "--locked", "--example", example]).status().unwrap();
        assert!(cargo.success());
    }
    program
}

#[test]
fn the_replicas_example_loses_no_pipeline_and_the_checker_finds_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = tempfile::tempdir().unwrap();
    let mut example = Command::new(root.join("examples/replicas/run.sh"));
    example.env("SINGLETRACK", SINGLETRACK).env("CHECK_HISTORY", built("check-history"));
    example.env("PIPELINES", PIPELINE_COUNT).env("TMPDIR", place.path()).stdin(Stdio::null());
    // Whoever runs the database must get through to its directory.
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let done = example.output().unwrap();
    let [told, errors] = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success(), "{told}\n{errors}");
    assert!(told.contains("(server one)") && told.contains("kill -STOP"), "{told}");
    assert!(told.contains(&format!("{PIPELINE_COUNT} of {PIPELINE_COUNT} succeeded")), "{told}");
    assert!(told.contains("0 of them beside another"), "{told}");
    assert!(told.contains("no violation in 11 deployments of 1 projects (11 started)"), "{told}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "it leaves something behind");
}
