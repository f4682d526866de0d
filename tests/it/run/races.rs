//! Many at once.

use std::{fs, process::Child};

use rustix::process::Signal;

use super::{QUICK, Running, WITNESS, overlapped, run};
use crate::harness::TestServer;

#[tokio::test]
async fn ten_racing_runs_go_one_after_another_whatever_befalls_them() {
    let mut server = TestServer::start(QUICK);
    // The first holds the slot until all the others stand in line, then it is killed; the second is stopped.
    let hold = format!("{WITNESS}echo up; while :; do sleep 600; done");
    let mut killed = Running::start(&server, &["--lease", "2s"], &hold);
    killed.says("up");
    let mut stopped = Running::start(&server, &["--lease", "2s"], &hold);
    line_has(&server, 1).await;
    let script = format!("{WITNESS}echo begin >>\"$TEST_DIR/witness\"; sleep 0.1; echo end >>\"$TEST_DIR/witness\"");
    let racing: Vec<Child> = (0..8).map(|_| run(&server, &["--lease", "10s"], &script).spawn().unwrap()).collect();
    line_has(&server, 9).await;
    killed.signal(Signal::KILL);
    stopped.says("up");
    stopped.signal(Signal::STOP);
    server.kill();
    server.boot();
    for child in racing {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", super::text(&output.stderr));
    }
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.end().0, 123);
    killed.child.wait().unwrap();
    assert!(!overlapped(&server));
    assert_eq!(fs::read_to_string(server.path("witness")).unwrap(), "begin\nend\n".repeat(8));
}

async fn line_has(server: &TestServer, count: u64) {
    while server.project().await["lineLength"] != count {
        tokio::task::yield_now().await;
    }
}
