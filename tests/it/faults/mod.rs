//! Three servers on one real PostgreSQL, clients that race, and whatever can befall them: servers are killed, stopped, cut
//! off from the database and from their clients, connections are ended and the database is restarted in the middle of
//! everything. What clients were told meanwhile, and what is there in the end, is held against the invariants.
//!
//! The faults are random, by a seed that is printed. `SINGLETRACK_FAULTS=500` asks for so many instead of those that every
//! run of the tests makes, and `SINGLETRACK_FAULTS_SEED=…` for the same again. Networks are cut in namespaces of the test's own,
//! which need CAP_NET_ADMIN and CAP_SYS_ADMIN; where they are missing, or with `SINGLETRACK_FAULTS_GROUND=proxies`, proxies between the
//! parts pass nothing on.

mod callers;
mod campaign;
#[path = "../../../examples/check-history/checks.rs"]
mod checks;
mod checks_tried;
mod commands;
#[path = "../../../examples/check-history/database.rs"]
mod database;
mod ground;
#[path = "../../../examples/check-history/history.rs"]
mod history;
mod random;

use std::{
    env,
    process::{Command, Stdio},
};

use ground::Ground;

/// How many faults every run of the tests makes.
const FAULT_COUNT: usize = 32;

/// Becomes the program behind it in namespaces of its own: whatever is made in them goes when it ends.
const INSIDE: &[&str] = &["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// `ip netns` keeps the names there.
const NAMES: &str = "mount -t tmpfs tmpfs /run && mkdir /run/netns && exec \"$@\"";

#[test]
fn whatever_befalls_three_servers_no_history_breaks_a_rule() {
    if env::var("SINGLETRACK_FAULTS_GROUND").is_ok_and(|ground| ground == "proxies") || !can_make_namespaces() {
        tell("networks are cut by proxies: no namespaces, which need CAP_NET_ADMIN and CAP_SYS_ADMIN, are to be had");
        return campaign::run(Ground::behind_proxies);
    }
    let mut inside = Command::new("unshare");
    inside.args(INSIDE).args(["sh", "-c", NAMES, "sh"]).arg(env::current_exe().unwrap());
    inside.args(["--exact", "faults::the_campaign_in_namespaces", "--ignored", "--nocapture"]);
    let done = inside.stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    tell(&format!("{stdout}\n{stderr}"));
    assert!(done.status.success(), "the campaign failed, see above");
    assert!(stdout.contains("1 passed"), "the campaign did not run");
}

/// Not a test: the process in which the one above runs.
#[test]
#[ignore = "it is run by the test above, in namespaces"]
fn the_campaign_in_namespaces() {
    if can_make_namespaces()
        && env::var_os("SINGLETRACK_FAULTS_GROUND").is_none()
        && rustix::process::getpid().is_init()
    {
        campaign::run(Ground::in_namespaces);
    }
}

fn can_make_namespaces() -> bool {
    let mut tried = Command::new("unshare");
    tried.args(INSIDE).args(["sh", "-c", NAMES, "sh", "ip", "link", "add", "tried", "type", "bridge"]);
    tried.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tried.status().is_ok_and(|ended| ended.success())
}

#[expect(clippy::print_stderr, reason = "whoever reads why a test failed needs the seed and the faults")]
fn tell(what: &str) {
    eprintln!("{what}");
}
