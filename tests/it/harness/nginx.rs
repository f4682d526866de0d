//! A real nginx in front of servers, with as little configuration as possible.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
};

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// An nginx that runs until it is dropped.
pub struct Nginx {
    pub base: String,
    dir: TempDir,
    child: Child,
}

impl Nginx {
    /// One in front of this server, with nothing but a `proxy_pass`, and `more` in its `server` block.
    pub fn before(base: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let at = dir.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .collect();
        // Started by root, its workers would run as another user, which cannot write to the directory.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "{user}\ndaemon off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\nlisten {address};\nlocation / {{ proxy_pass {base}; }}\n{more}\n}}\n}}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        // It takes over a socket that listens already, so the port is its own and no test has to wait for it.
        let child = Command::new(program)
            .args(["-p", &at.to_string(), "-c", "nginx.conf"])
            .env("NGINX", "0;")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Nginx { base: format!("http://{address}"), dir, child }
    }

    /// A client with a connection for each request.
    pub fn client() -> Client {
        Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
    }

    /// Its error log.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It ends its workers only if it gets a signal.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
