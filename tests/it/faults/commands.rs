//! Clients as people have them: the real program, through a load balancer.

use std::{collections::BTreeMap, path::Path, process::Stdio, sync::Arc};

use tokio::process::Command;

use super::{callers::Crowd, ground::TOKEN, history::Told};
use crate::harness::SINGLETRACK;

/// How often commands ended with which exit code.
pub type Ends = BTreeMap<i32, usize>;

/// `singletrack deploy`, one after the other until it is over.
pub async fn deploys(crowd: Arc<Crowd>, balancer: String, name: String) -> Ends {
    let mut ends = Ends::new();
    for turn in 0.. {
        if crowd.is_over() {
            break;
        }
        let key = format!("{name}-{turn}");
        let mut command = singletrack(&balancer);
        command.args(["deploy", "--project", "web", "--json", "--commit", &key, "--idempotency-key", &key]);
        let done = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let told = Told::parse(&String::from_utf8_lossy(&done.stdout)).unwrap();
        told.into_iter().for_each(|told| crowd.tell(told));
        let code = done.status.code().unwrap();
        // It did, it failed with its server, or it lost its place: the client always knows which.
        assert!(matches!(code, 0 | 1 | 121), "deploy ended with {code}: {said}");
        *ends.entry(code).or_default() += 1;
    }
    ends
}

/// `singletrack run`, one after the other until it is over.
pub async fn runs(crowd: Arc<Crowd>, balancer: String, witness: String) -> Ends {
    let mut ends = Ends::new();
    while !crowd.is_over() {
        let mut command = singletrack(&balancer);
        command.args(["run", "--project", "job", "--", "sh", "-c", &format!("{witness}\nsleep 0.05")]);
        let done = command.output().await.unwrap();
        let code = done.status.code().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        // It ran, lost its lease, or lost its place.
        assert!(matches!(code, 0 | 121 | 123), "run ended with {code}: {said}");
        *ends.entry(code).or_default() += 1;
    }
    ends
}

fn singletrack(balancer: &str) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(Path::new("/"));
    command.env("SINGLETRACK_URL", balancer).env("SINGLETRACK_TOKEN", TOKEN).env("USER", "tester");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}
