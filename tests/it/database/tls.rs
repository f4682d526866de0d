//! TLS to a real database with real certificates, and where passwords come from.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{deploys, refused};
use crate::harness::{
    Place, TestServer, gated_config,
    postgres::{self, Cluster},
};

/// Encrypted and with a password, or not at all.
const WHO: &str = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256";

/// A database with a certificate for `localhost`, the authority that issued it, and another one.
struct Protected {
    cluster: Cluster,
    database: String,
    certificates: TempDir,
}

impl Protected {
    async fn start() -> Self {
        let certificates = tempfile::tempdir().unwrap();
        let place = certificates.path();
        for authority in ["authority", "stranger"] {
            openssl(
                place,
                &format!(
                    "req -x509 {NEW_KEY} -subj /CN={authority} -days 2 -keyout {authority}.key -out {authority}.pem"
                ),
            );
        }
        openssl(place, &format!("req {NEW_KEY} -subj /CN=db -keyout server.key -out server.csr"));
        fs::write(place.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        let issue =
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names";
        openssl(place, &format!("{issue} -out server.pem"));
        let directory = postgres::directory();
        for file in ["server.key", "server.pem"] {
            fs::copy(place.join(file), directory.join(file)).unwrap();
            fs::set_permissions(directory.join(file), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            postgres::give(&directory.join(file));
        }
        let shown = directory.display();
        let (key, certificate) =
            (format!("ssl_key_file={shown}/server.key"), format!("ssl_cert_file={shown}/server.pem"));
        let settings = [postgres::UNSAFE, &["ssl=on", &key, &certificate]].concat();
        let cluster = Cluster::start_on_tcp_in(&directory, &settings, WHO);
        let database = cluster.database().await;
        let admin = cluster.client(&database).await;
        admin.batch_execute("ALTER USER singletrack PASSWORD 'hunter2:\\x'").await.unwrap();
        Protected { cluster, database, certificates }
    }

    /// The URL by this name of the machine, with the authority in this file.
    fn url(&self, host: &str, mode: &str, authority: &str) -> String {
        let file = self.certificates.path().join(authority);
        format!("{}?sslmode={mode}&sslrootcert={}", self.cluster.tcp_url(host, &self.database), file.display())
    }

    /// A server that connects so, with this in its environment.
    fn serve(&self, url: &str, environment: &str) -> TestServer {
        TestServer::start_at(Place::by(&["env", environment]), url, &gated_config(""))
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
const PASSWORD: (&str, &str) = ("PGPASSWORD", "hunter2:\\x");

fn openssl(place: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(place).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn only_a_database_that_proves_who_it_is_is_believed() {
    let protected = Protected::start().await;
    let password = "PGPASSWORD=hunter2:\\x";
    // The right host and authority; any host of the right authority; and whoever answers, where no proof is asked for.
    let full = protected.serve(&protected.url("localhost", "verify-full", "authority.pem"), password);
    let authority = protected.serve(&protected.url("127.0.0.1", "verify-ca", "authority.pem"), password);
    let prefer = protected.serve(&protected.url("127.0.0.1", "prefer", "stranger.pem"), password);
    deploys(&full, &authority).await;
    deploys(&authority, &prefer).await;
    let admin = protected.cluster.client(&protected.database).await;
    let open = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
        WHERE application_name = 'singletrack' AND NOT ssl";
    assert_eq!(admin.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0, "no connection is open to be read");

    for (host, mode, authority, says) in [
        ("127.0.0.1", "verify-full", "authority.pem", "not valid for name"),
        ("127.0.0.1", "require", "authority.pem", "not valid for name"),
        ("localhost", "verify-full", "stranger.pem", "UnknownIssuer"),
        ("127.0.0.1", "verify-ca", "stranger.pem", "UnknownIssuer"),
        ("localhost", "disable", "authority.pem", "no encryption"),
    ] {
        let (code, told) = refused(&protected.url(host, mode, authority), &[PASSWORD]);
        assert_eq!(code, 69, "{host} {mode} {authority}: {told}");
        assert!(told.contains(says) && !told.contains("hunter2"), "{host} {mode} {authority}: {told}");
    }
    let (code, told) = refused(&protected.url("localhost", "verify-full", "no-such.pem"), &[PASSWORD]);
    assert!(code == 69 && told.contains("cannot read the certificates in"), "{told}");
}

#[tokio::test]
async fn a_password_comes_from_pgpass() {
    let protected = Protected::start().await;
    let url = protected.url("localhost", "verify-full", "authority.pem");
    let (code, told) = refused(&url, &[("HOME", "/nonexistent")]);
    assert!(code == 69 && told.contains("password"), "{told}");
    let (code, told) = refused(&url, &[("PGPASSWORD", "wrong")]);
    assert!(code == 69 && told.contains("password authentication failed"), "{told}");

    let port = protected.cluster.port();
    let lines = format!(
        "# host:port:database:user:password\n\
         localhost:1:*:*:another\n\
         localhost:{port}:*:somebody:another\n\
         localhost:{port}:another:singletrack:another\n\
         localhost:{port}:*:singletrack:hunter2\\:\\\\x\n\
         localhost:*:*:*:another\n"
    );
    let file = protected.certificates.path().join(".pgpass");
    fs::write(&file, lines).unwrap();
    // One that others can read is not used.
    let (code, told) = refused(&url, &[("PGPASSFILE", file.to_str().unwrap())]);
    assert!(code == 69 && told.contains("chmod 600"), "{told}");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let named = protected.serve(&url, &format!("PGPASSFILE={}", file.display()));
    let at_home = protected.serve(&url, &format!("HOME={}", protected.certificates.path().display()));
    deploys(&named, &at_home).await;
    // Of several hosts the one that is connected to has its line, too.
    let both = url.replace("@localhost", "@nowhere.invalid:1,localhost");
    let of_several = protected.serve(&both, &format!("PGPASSFILE={}", file.display()));
    deploys(&of_several, &named).await;
}

#[tokio::test]
async fn the_self_signed_certificate_of_postgresqls_manual_is_believed_where_it_is_named() {
    let directory = postgres::directory();
    // Word for word, but for the key's kind, which takes less time to make.
    openssl(
        &directory,
        &format!(
            "req -new -x509 -days 365 {NEW_KEY} -text -out server.crt -keyout server.key -subj /CN=dbhost.yourdomain.com"
        ),
    );
    fs::set_permissions(directory.join("server.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    ["server.key", "server.crt"].iter().for_each(|file| postgres::give(&directory.join(file)));
    let place = tempfile::tempdir().unwrap();
    let trusted = place.path().join("root.crt");
    fs::copy(directory.join("server.crt"), &trusted).unwrap();
    let shown = directory.display();
    let (key, certificate) = (format!("ssl_key_file={shown}/server.key"), format!("ssl_cert_file={shown}/server.crt"));
    let settings = [postgres::UNSAFE, &["ssl=on", &key, &certificate]].concat();
    let cluster = Cluster::start_on_tcp_in(&directory, &settings, "hostssl all all 127.0.0.1/32 trust");
    let url = cluster.tcp_url("127.0.0.1", &cluster.database().await);
    let serve = |mode: &str| {
        let url = format!("{url}?sslmode={mode}&sslrootcert={}", trusted.display());
        TestServer::start_on(&url, &gated_config(""))
    };
    let (full, authority) = (serve("verify-full"), serve("verify-ca"));
    deploys(&full, &authority).await;
    // What the URL leaves open the environment says; and another certificate is not believed.
    openssl(
        place.path(),
        &format!("req -new -x509 -days 365 {NEW_KEY} -out other.crt -keyout other.key -subj /CN=other"),
    );
    let other = place.path().join("other.crt").display().to_string();
    let (code, told) = refused(&url, &[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &other)]);
    assert!(code == 69 && told.contains("certificate is not trusted"), "{told}");
}
