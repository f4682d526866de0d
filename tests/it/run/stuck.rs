//! What a run cannot end: root's process inside a user's run.

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, getuid, kill_process};

use super::{process, run, text};
use crate::harness::{SINGLETRACK, TestServer, processes};

/// Somebody who may not signal root's processes.
const NOBODY: u32 = 65_534;

fn tool(server: &TestServer, args: &[&str]) -> String {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &server.base).env("SINGLETRACK_PROJECT", "web").args(args);
    let output = command.output().unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn what_cannot_be_ended_keeps_the_slot_until_it_is_released() {
    if !getuid().is_root() {
        eprintln!("not run: only root can make a set-uid program");
        return;
    }
    let server = TestServer::start("");
    fs::set_permissions(server.dir(), Permissions::from_mode(0o777)).unwrap();
    // As `sudo`: it becomes another user wholly, so that its caller may not signal it.
    let become_root = server.path("become-root");
    fs::copy("/usr/bin/setpriv", &become_root).unwrap();
    fs::set_permissions(&become_root, Permissions::from_mode(0o4755)).unwrap();
    let script =
        "\"$TEST_DIR/become-root\" --reuid 0 --clear-groups sh -c 'echo $$ >\"$TEST_DIR/pid\"; exec sleep 600' &
        while ! [ -s \"$TEST_DIR/pid\" ]; do sleep 0.05; done; echo done";
    let mut command = run(&server, &[], script);
    let mut running =
        command.uid(NOBODY).gid(NOBODY).env("TMPDIR", server.dir()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut stdout = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    server
        .event(&id, |event| event["message"].as_str().is_some_and(|message| message.contains("cannot be ended")))
        .await;
    let pid = fs::read_to_string(server.path("pid")).unwrap();
    let sleep = process(pid.trim());
    assert!(processes::runs(sleep), "it was ended after all");

    for args in [&["status"][..], &["why"]] {
        let said = tool(&server, args);
        assert!(said.contains("sleep (process ") && said.contains("cannot be ended"), "{args:?}: {said}");
    }
    let log = tool(&server, &["logs", &id]);
    assert!(log.contains("cannot be ended") && log.contains("singletrack release"), "{log}");
    let next = tool(&server, &["run", "--timeout", "2s", "--", "true"]);
    assert!(next.contains("cannot be ended"), "{next}");
    assert!(running.try_wait().unwrap().is_none(), "the run has ended, and with it its hold of the slot");

    let freed = tool(&server, &["release", "--reason", "looked at it", "--even-if-alive"]);
    let pid = Pid::from_child(&running);
    let has_ended = processes::gone(pid);
    // Also where the run has not ended, and because root's process may hold its standard error.
    let _ = kill_process(sleep, Signal::KILL);
    assert!(has_ended, "{freed}");
    let status = running.wait().unwrap();
    let mut said = String::new();
    running.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(123), "{freed}\n{said}");
    assert!(said.contains("may still run") && !said.contains("was ended"), "{said}");
}
