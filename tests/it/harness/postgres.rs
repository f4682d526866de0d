//! Throw-away PostgreSQL clusters: the newest installed version, in a directory of their own, on a Unix socket, and on
//! TCP only if a test asks for it. The clusters end, and their directories go, with the process that made them, however
//! it ends.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use singletrack::store::{Store as _, postgres::PostgresStore};
use tokio::{net::TcpSocket, sync::OnceCell};
use tokio_postgres::NoTls;

use crate::store_trial::deaf;

/// The owner of the databases.
const USER: &str = "singletrack";

/// The lines that let everyone on this machine connect over TCP.
pub const TRUSTED: &str = "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust";

/// Settings that make a cluster faster, for tests that do not crash it.
pub const UNSAFE: &[&str] = &["fsync=off", "full_page_writes=off"];

/// Watches the pipe from the test's process. When that process ends, by whatever means, the database ends, too.
const KEEPER: &str = r#"
if [ -n "$PRIMARY" ]; then
    "$1"/pg_basebackup --no-sync --checkpoint=fast --write-recovery-conf --dbname="$PRIMARY" --pgdata="$2/data"
else
    "$1"/initdb --no-sync --auth=trust --username="$3" --encoding=UTF8 --locale=C "$2/data"
fi >"$2/made.log" 2>&1 || { cat "$2/made.log" >&2; exit 1; }
start() { "$bin"/postgres -D "$dir/data" -k "$dir" "$@" 0<&- & server=$!; }
bin=$1 dir=$2
shift 3
start "$@"
while read -r order pause; do
    # What is asked for is a signal to stop it by, before it starts again: at once, or with the next line.
    kill -s "$order" "$server"
    wait "$server"
    if [ -n "$pause" ]; then
        echo "keeper: the database system is stopped" >&2
        read -r pause || break
    fi
    start "$@"
done
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf "$dir"
"#;

/// A running cluster.
pub struct Cluster {
    directory: PathBuf,
    keeper: Child,
    orders: Option<ChildStdin>,
    ready: Mutex<mpsc::Receiver<()>>,
    database_count: AtomicU64,
    template: OnceCell<()>,
    tcp: Option<Tcp>,
}

/// The address on which a cluster listens besides its socket.
struct Tcp {
    port: u16,
    /// Reserves the port, so that no process that asks for any free port gets it.
    _reserved: TcpSocket,
}

impl Tcp {
    fn reserve() -> Self {
        let reserved = TcpSocket::new_v4().unwrap();
        // PostgreSQL does the same, so it can bind the address as long as only one of the two listens.
        reserved.set_reuseaddr(true).unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Tcp { port: reserved.local_addr().unwrap().port(), _reserved: reserved }
    }
}

/// The cluster that this process's tests share. It is not safe against crashes of the machine.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(UNSAFE))
}

impl Cluster {
    /// Starts one with these settings, on a socket only.
    pub fn start(settings: &[&str]) -> Cluster {
        let settings = [&["listen_addresses="], settings].concat();
        Cluster::start_in(&directory(), &settings, None, "")
    }

    /// Starts a primary and a standby that follows it; returns them with a URL that names both.
    pub async fn pair() -> (Cluster, Cluster, String) {
        let primary = Cluster::start_on_tcp(UNSAFE, TRUSTED);
        let database = primary.database().await;
        let standby = primary.standby();
        (primary, standby, database)
    }

    /// Starts one that follows this one, as a hot standby. Both listen on TCP.
    pub fn standby(&self) -> Cluster {
        Cluster::listen_in(&directory(), &[], TRUSTED, &self.url("postgres"))
    }

    /// Makes a standby the primary. Answers when it can be written to.
    pub async fn promote(&self) {
        self.client("postgres").await.query("SELECT pg_promote()", &[]).await.unwrap();
        self.ready();
    }

    /// Starts one that also listens on all addresses of its network. `who` are the lines of `pg_hba.conf` that say
    /// which clients may connect.
    pub fn start_on_tcp(settings: &[&str], who: &str) -> Cluster {
        Cluster::start_on_tcp_in(&directory(), settings, who)
    }

    /// The same in a directory that [`directory`] made and that contains the files of the settings.
    pub fn start_on_tcp_in(directory: &Path, settings: &[&str], who: &str) -> Cluster {
        Cluster::listen_in(directory, settings, who, "")
    }

    fn listen_in(directory: &Path, settings: &[&str], who: &str, primary: &str) -> Cluster {
        let tcp = Tcp::reserve();
        let rules = directory.join("who.conf");
        fs::write(&rules, format!("local all all trust\nlocal replication all trust\n{who}\n")).unwrap();
        give(&rules);
        let (port, rules) = (format!("port={}", tcp.port), format!("hba_file={}", rules.display()));
        let settings = [&["listen_addresses=*", port.as_str(), rules.as_str()], settings].concat();
        Cluster::start_in(directory, &settings, Some(tcp), primary)
    }

    /// Starts one that is made anew, or as a copy of the primary at this URL.
    fn start_in(directory: &Path, settings: &[&str], tcp: Option<Tcp>, primary: &str) -> Cluster {
        let binaries = binaries();
        let directory = directory.to_path_buf();
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(binaries)
            .arg(&directory)
            .arg(USER)
            .args(["-c", "max_connections=400"])
            .env("PRIMARY", primary);
        settings.iter().for_each(|setting| _ = command.args(["-c", setting]));
        // A signal to the tests' process group, such as Ctrl-C, must not keep it from cleaning up.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some((uid, gid)) = owner() {
            command.uid(uid).gid(gid).current_dir(&directory);
        }
        let mut keeper = command.spawn().unwrap();
        let (tell, ready) = mpsc::channel();
        let log = BufReader::new(keeper.stderr.take().unwrap());
        let kept = directory.join("server.log");
        thread::spawn(move || {
            let mut copy = fs::File::create(kept).ok();
            for line in log.lines().map_while(Result::ok) {
                if let Some(copy) = &mut copy {
                    let _ = writeln!(copy, "{line}");
                }
                // A standby says "read-only connections", and it says the other message when it is promoted.
                if line.contains("database system is ready to accept") || line.starts_with("keeper: ") {
                    let _ = tell.send(());
                }
            }
        });
        let orders = keeper.stdin.take();
        let cluster = Cluster {
            directory,
            keeper,
            orders,
            ready: Mutex::new(ready),
            database_count: AtomicU64::new(0),
            template: OnceCell::new(),
            tcp,
        };
        cluster.ready();
        cluster
    }

    /// Waits until it takes connections, after a start.
    pub fn ready(&self) {
        if self.ready.lock().unwrap().recv().is_err() {
            panic!("PostgreSQL did not start:\n{}", self.log());
        }
    }

    /// Everything that the database wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }

    /// Stops it by this signal and starts it again: `QUIT` is an immediate restart, `INT` a fast one. Answers when it
    /// takes connections again.
    pub fn restart(&mut self, signal: &str) {
        self.order(signal);
    }

    /// Stops it by this signal until [`Cluster::start_again`].
    pub fn stop(&mut self, signal: &str) {
        self.order(&format!("{signal} pause"));
    }

    /// Starts it after [`Cluster::stop`].
    pub fn start_again(&mut self) {
        self.order("go");
    }

    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("it runs");
        writeln!(orders, "{order}").unwrap();
        orders.flush().unwrap();
        self.ready();
    }

    /// Ends the replication to a standby: from now on the standby misses the commits of this cluster. Returns the standby's
    /// connection setting.
    pub async fn lose(&self, standby: &Cluster) -> String {
        let client = standby.client("postgres").await;
        let connected = client.query_one("SHOW primary_conninfo", &[]).await.unwrap().get(0);
        client.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let client = self.client("postgres").await;
        let streams = "SELECT count(*) FROM pg_stat_replication";
        while client.query_one(streams, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
        connected
    }

    /// Has a standby follow its primary again after [`Cluster::lose`].
    pub async fn follow_again(&self, connected: &str) {
        let client = self.client("postgres").await;
        let connected = connected.replace('\'', "''");
        client.batch_execute(&format!("ALTER SYSTEM SET primary_conninfo = '{connected}'")).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }

    /// Waits until the standby has all that is committed here.
    pub async fn caught_up(&self, standby: &Cluster) {
        let (primary, standby) = (self.client("postgres").await, standby.client("postgres").await);
        let written: String = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0);
        let has_all = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
        while !standby.query_one(&has_all, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    }

    /// The directory of its socket.
    pub fn place(&self) -> &Path {
        &self.directory
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        let port = self.tcp.as_ref().map_or(5432, |tcp| tcp.port);
        format!("postgres://{USER}@/{database}?host={}&port={port}", self.directory.display())
    }

    /// The same over TCP, by a name or an address of its machine.
    pub fn tcp_url(&self, host: &str, database: &str) -> String {
        format!("postgres://{USER}@{host}:{}/{database}", self.port())
    }

    /// Its port, where it listens on one.
    pub fn port(&self) -> u16 {
        self.tcp.as_ref().expect("it listens").port
    }

    /// A connection to one of its databases, without any of our code.
    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The name of a fresh database, which has our schema already.
    pub async fn database(&self) -> String {
        let template = async {
            let admin = self.client("postgres").await;
            admin.batch_execute("CREATE DATABASE template_singletrack").await.unwrap();
            let url = self.url("template_singletrack").parse().unwrap();
            let store = PostgresStore::open(
                &url,
                2,
                deaf(),
                std::sync::Arc::new(|_| {}),
                &singletrack::health::Health::default(),
            )
            .await
            .unwrap();
            std::sync::Arc::new(store).shut_down().await;
            // A copy begins as a store of its own, because a store that knows that it is a copy would leap.
            self.client("template_singletrack").await.batch_execute("DELETE FROM singletrack.lineage").await.unwrap();
            // PostgreSQL copies a database only while nobody is connected to it.
            admin.batch_execute("ALTER DATABASE template_singletrack ALLOW_CONNECTIONS false").await.unwrap();
            let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                WHERE datname = 'template_singletrack'";
            admin.batch_execute(end).await.unwrap();
        };
        self.template.get_or_init(|| template).await;
        self.fresh("TEMPLATE template_singletrack").await
    }

    /// The URL of a fresh database, which has our schema already.
    pub async fn store(&self) -> String {
        self.url(&self.database().await)
    }

    /// The name of a fresh database with nothing in it.
    pub async fn empty_database(&self) -> String {
        self.fresh("").await
    }

    async fn fresh(&self, options: &str) -> String {
        let name = format!("test_{}", self.database_count.fetch_add(1, Ordering::Relaxed));
        self.client("postgres").await.batch_execute(&format!("CREATE DATABASE {name} {options}")).await.unwrap();
        name
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

/// A directory for a cluster, which its end removes.
pub fn directory() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("singletrack-pg-").tempdir().unwrap().keep();
    give(&directory);
    directory
}

/// Gives a file to the user that runs the databases.
pub fn give(path: &Path) {
    if let Some((uid, gid)) = owner() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// Where the newest installed version's programs are.
pub fn binaries() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = installed.filter_map(|entry| {
        let version: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let programs = format!("/usr/lib/postgresql/{version}/bin");
        Path::new(&programs).join("initdb").exists().then(|| (version, PathBuf::from(programs)))
    });
    if let Some((_, newest)) = debian.max() {
        return newest;
    }
    let told = Command::new("pg_config").arg("--bindir").output();
    let told =
        told.ok().filter(|told| told.status.success()).expect("PostgreSQL is missing: run scripts/prerequisites");
    PathBuf::from(String::from_utf8(told.stdout).unwrap().trim())
}

/// The user that runs the databases if the tests run as root, because PostgreSQL refuses root.
pub fn owner() -> Option<(u32, u32)> {
    rustix::process::getuid().is_root().then(unprivileged)
}

fn unprivileged() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    of("postgres").or_else(|| of("nobody")).expect("an account that is not root's")
}
