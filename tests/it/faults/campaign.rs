//! The campaign: one fault after the other while clients race, then the verdict.

use std::{env, time::Duration};

use rustix::process::Signal;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use super::{
    FAULT_COUNT,
    callers::{Caller, Crowd},
    checks,
    commands::{self, Ends},
    database,
    ground::{Ground, Link, REPLICA_COUNT, witness},
    history::History,
    random::Random,
    tell,
};
use crate::harness::balancer::Balancer;

/// Who races for which project over HTTP, each of them twice.
const PROJECTS: [&str; 3] = ["api", "docs", "mobile"];
/// Longer than a lease and its lock delay.
const LONG: Duration = Duration::from_millis(4500);
/// A short fault ends when clients got on, or when nobody does.
const SHORT: Duration = Duration::from_millis(1500);
/// How long it may take until clients get on after a fault: what the database holds a dead connection for, and some time
/// on a busy machine.
const RECOVERY_LIMIT: Duration = Duration::from_secs(45);

/// What befalls them.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A server is killed, and started again.
    Kill(usize),
    /// A server is asked to end, and started again.
    Restart(usize),
    /// A server is stopped for a while.
    Stop(usize, Length),
    /// A server cannot reach the database.
    CutStore(usize, Length),
    /// Clients cannot reach a server.
    CutClients(usize, Length),
    /// All sessions of the database are ended.
    EndSessions,
    /// The database is restarted in immediate mode.
    RestartDatabase,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Short,
    Long,
}

impl Fault {
    fn any(random: &mut Random) -> Fault {
        let replica = random.below(REPLICA_COUNT);
        let length = if random.once_in(3) { Length::Long } else { Length::Short };
        match random.below(13) {
            0 | 1 => Fault::Kill(replica),
            2 => Fault::Restart(replica),
            3 | 4 => Fault::Stop(replica, length),
            5 | 6 => Fault::CutStore(replica, length),
            7 | 8 => Fault::CutClients(replica, length),
            9 | 10 => Fault::EndSessions,
            _ => Fault::RestartDatabase,
        }
    }

    async fn befall(self, ground: &mut Ground, crowd: &Crowd) {
        match self {
            Fault::Kill(number) => {
                let server = &mut ground.replicas[number].server;
                block_in_place(|| server.kill());
                lasts(Length::Short, crowd).await;
                block_in_place(|| server.boot());
            }
            Fault::Restart(number) => {
                let server = &mut ground.replicas[number].server;
                let ended = block_in_place(|| server.terminate());
                assert!(ended.success(), "{ended}");
                block_in_place(|| server.boot());
            }
            Fault::Stop(number, length) => {
                let server = &ground.replicas[number].server;
                server.signal(Signal::STOP);
                lasts(length, crowd).await;
                server.signal(Signal::CONT);
            }
            Fault::CutStore(number, length) => cut(&ground.replicas[number].back, length, crowd).await,
            Fault::CutClients(number, length) => cut(&ground.replicas[number].front, length, crowd).await,
            Fault::EndSessions => {
                let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
                ground.cluster.client(&ground.database).await.query(all, &[]).await.unwrap();
            }
            Fault::RestartDatabase => block_in_place(|| ground.cluster.restart("QUIT")),
        }
    }
}

async fn cut(link: &Link, length: Length, crowd: &Crowd) {
    link.cut();
    lasts(length, crowd).await;
    link.mend();
}

async fn lasts(length: Length, crowd: &Crowd) {
    match length {
        Length::Long => sleep(LONG).await,
        Length::Short => _ = timeout(SHORT, crowd.gets_on(20)).await,
    }
}

/// Runs it on this ground.
pub fn run<G: Future<Output = Ground>>(ground: impl FnOnce() -> G) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
    let seed = number("SINGLETRACK_FAULTS_SEED").unwrap_or_else(Random::any_seed);
    let fault_count = number("SINGLETRACK_FAULTS").map_or(FAULT_COUNT, |count| count as usize);
    tell(&format!("SINGLETRACK_FAULTS={fault_count} SINGLETRACK_FAULTS_SEED={seed}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut ground = ground().await;
        let history = campaign(&mut ground, Random::seeded(seed), fault_count).await;
        judge(&ground, &history, fault_count);
    });
}

async fn campaign(ground: &mut Ground, mut random: Random, fault_count: usize) -> History {
    let crowd = Crowd::of(ground.bases());
    let balancer = Balancer::of(&ground.bases());
    let mut callers = JoinSet::new();
    for project in PROJECTS.iter().chain(&PROJECTS) {
        let caller = Caller::new(&crowd, random.fork(), format!("{project}-{}", callers.len()));
        callers.spawn(caller.work(project));
    }
    for number in 0..2 {
        callers.spawn(Caller::new(&crowd, random.fork(), format!("queue-{number}")).queue("web"));
    }
    let mut processes = JoinSet::new();
    for number in 0..2 {
        processes.spawn(commands::deploys(crowd.clone(), balancer.base.clone(), format!("deploy-{number}")));
        let witness = witness(ground.directory.path(), "job");
        processes.spawn(commands::runs(crowd.clone(), balancer.base.clone(), witness));
    }
    recovers(&crowd, &mut callers, &mut processes, "the start").await;
    for number in 1..=fault_count {
        let fault = Fault::any(&mut random);
        tell(&format!("{:>8.1?} fault {number}: {fault:?}", crowd.age()));
        fault.befall(ground, &crowd).await;
        recovers(&crowd, &mut callers, &mut processes, &format!("{fault:?}")).await;
    }
    crowd.end();
    // Nobody stands in anybody's way any more, and what was abandoned is reaped.
    let ends = timeout(RECOVERY_LIMIT * 2, processes.join_all()).await.expect("all commands come to an end");
    timeout(RECOVERY_LIMIT * 2, callers.join_all()).await.expect("all callers come to an end");
    let told = timeout(RECOVERY_LIMIT * 2, crowd.told()).await.expect("all deployments come to an end");
    tell(&format!("{:>8.1?} commands ended with {ends:?}", crowd.age()));
    History { kept: database::read(&ground.cluster.url(&ground.database)).await.unwrap(), told }
}

/// Waits until clients get on again: no fault leaves anything locked.
async fn recovers(crowd: &Crowd, callers: &mut JoinSet<()>, commands: &mut JoinSet<Ends>, after: &str) {
    assert!(timeout(RECOVERY_LIMIT, crowd.gets_on(30)).await.is_ok(), "nobody gets on after {after}");
    // They end before they are asked to only by a failed assertion.
    let failed = callers.try_join_next().is_some() || commands.try_join_next().is_some();
    assert!(!failed, "somebody was told what nobody should be, see above");
}

fn judge(ground: &Ground, history: &History, fault_count: usize) {
    let wrong = checks::violations(history);
    tell(&format!("{fault_count} faults with {}: {} violations in {}", ground.kind, wrong.len(), history.summary()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let overlaps = std::fs::read_to_string(ground.directory.path().join("overlaps")).unwrap_or_default();
    assert!(overlaps.is_empty(), "I1: two commands ran at once, of {overlaps}");
    // Something was done all the while, or the verdict would mean nothing.
    for project in PROJECTS.iter().chain(&["web", "job"]) {
        let done = history.kept.iter().filter(|kept| kept.project == *project && kept.status == "SUCCEEDED").count();
        assert!(done >= fault_count / 4, "only {done} deployments of {project} succeeded");
    }
}
