//! Where the servers stand: each with a way to the database and one from its clients, both of which can be cut so that
//! nothing passes and nobody is told so.

use std::{path::Path, process::Command};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::{
    Place, TestServer,
    postgres::{Cluster, TRUSTED},
    proxy::Network,
};

/// How many servers there are.
pub const REPLICA_COUNT: usize = 3;
/// What clients show: nobody listens beyond the machine without.
pub const TOKEN: &str = "st_of_the_campaign";

/// The database, the servers, and what is between them.
pub struct Ground {
    pub replicas: Vec<Replica>,
    pub cluster: Cluster,
    pub database: String,
    /// What the servers' commands share.
    pub directory: TempDir,
    pub kind: &'static str,
}

/// A server and its two ways.
pub struct Replica {
    pub server: TestServer,
    /// Where clients find it.
    pub base: String,
    pub front: Link,
    pub back: Link,
}

/// A way that can be cut.
pub enum Link {
    /// Through this port of a bridge.
    Port(String),
    /// Through this proxy.
    Proxy(Network),
}

impl Link {
    /// From now on nothing passes.
    pub fn cut(&self) {
        match self {
            Link::Port(port) => set_port(port, "0"),
            Link::Proxy(network) => network.cut(),
        }
    }

    /// From now on everything passes again.
    pub fn mend(&self) {
        match self {
            Link::Port(port) => set_port(port, "3"),
            Link::Proxy(network) => network.mend(),
        }
    }
}

/// A port in state 0, disabled, drops what comes; in state 3 it forwards.
fn set_port(port: &str, state: &str) {
    ip(&format!("link set dev {port} type bridge_slave state {state}"));
}

impl Ground {
    /// Each server in a network namespace. Whoever calls has one of its own already.
    pub async fn in_namespaces() -> Ground {
        ip("link set lo up");
        for net in [FRONT, BACK] {
            ip(&format!("link add bridge{net} type bridge"));
            ip(&format!("address add 10.{net}.0.1/24 dev bridge{net}"));
            ip(&format!("link set bridge{net} up"));
        }
        let cluster = Cluster::start_on_tcp(SAFE, "host all all 10.78.0.0/24 trust");
        let (directory, database) = (tempfile::tempdir().unwrap(), cluster.database().await);
        let store = cluster.tcp_url(&format!("10.{BACK}.0.1"), &database);
        let config = config(directory.path());
        let replica = |number| {
            let name = format!("replica{number}");
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            let [front, back] = [FRONT, BACK].map(|net| {
                let port = format!("port{net}-{number}");
                ip(&format!("link add {port} type veth peer name net{net} netns {name}"));
                ip(&format!("link set {port} master bridge{net} up"));
                ip(&format!("-n {name} address add 10.{net}.0.{number}/24 dev net{net}"));
                ip(&format!("-n {name} link set net{net} up"));
                Link::Port(port)
            });
            let place = Place::in_namespace(&name, &format!("10.{FRONT}.0.{number}"));
            let server = TestServer::start_at(place, &store, &config);
            Replica { base: server.base.clone(), server, front, back }
        };
        let replicas = (11..).map(replica).take(REPLICA_COUNT).collect();
        Ground { replicas, cluster, database, directory, kind: "network namespaces" }
    }

    /// Each server behind two proxies.
    pub async fn behind_proxies() -> Ground {
        let cluster = Cluster::start_on_tcp(SAFE, TRUSTED);
        let (directory, database) = (tempfile::tempdir().unwrap(), cluster.database().await);
        let config = config(directory.path());
        let replica = |_| {
            let back = Network::to(&format!("http://127.0.0.1:{}", cluster.port()));
            let store = cluster.tcp_url("127.0.0.1", &database);
            let store =
                store.replace(&format!("127.0.0.1:{}", cluster.port()), back.base.strip_prefix("http://").unwrap());
            let server = TestServer::start_on(&store, &config);
            let front = Network::to(&server.base);
            Replica { base: front.base.clone(), server, front: Link::Proxy(front), back: Link::Proxy(back) }
        };
        let replicas = (0..REPLICA_COUNT).map(replica).collect();
        Ground { replicas, cluster, database, directory, kind: "proxies" }
    }

    /// Where clients find the servers.
    pub fn bases(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.base.clone()).collect()
    }
}

/// The networks 10.FRONT and 10.BACK: clients' and database's.
const FRONT: u8 = 77;
const BACK: u8 = 78;

/// What was acknowledged must be there after a crash, of which only the wait for thousands of single files is spared.
const SAFE: &[&str] = &["fsync=on", "synchronous_commit=on", "recovery_init_sync_method=syncfs"];

/// Limits so short that everything comes to pass within a fault, and a pipeline whose command finds out whether another
/// runs at the same time.
fn config(directory: &Path) -> String {
    let (hash, witness) = (hex(TOKEN), witness(directory, "web"));
    format!(
        r#"
shutdown_grace = "2s"

[limits]
lease = "2s"
heartbeat = "300ms"
kill_budget = "500ms"
lock_delay = "1s"
cancel_grace = "2s"
reserve = "3s"
attendance = "6s"
unclaimed = "10s"
fallback_poll = "500ms"

[postgres]
connections = 8

[[tokens]]
name = "campaign"
sha256 = "{hash}"

[[projects.web.pipelines.deploy.phases]]
name = "only"
run = '''
{witness}
echo "token $SINGLETRACK_FENCING_TOKEN"
sleep 0.05
'''
"#
    )
}

/// Holds the project's witness for as long as this shell, or anything that it started, lives; tells when another has it.
pub fn witness(directory: &Path, project: &str) -> String {
    let directory = directory.display();
    format!("exec 9>>'{directory}/{project}.lock'\nflock --nonblock 9 || echo {project} >>'{directory}/overlaps'")
}

fn hex(token: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(token))
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}
