//! Reloads: by SIGHUP and by the route, of a server and of an agent.

mod agents;
mod configuration;
mod signals;

use rustix::process::Signal;

use crate::harness::TestServer;

impl TestServer {
    /// One of the figures of `/metrics`.
    pub async fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("singletrack_{name} ")));
        line.unwrap_or_else(|| panic!("there is no {name} in {text}")).parse().unwrap()
    }

    /// Gives it this configuration by SIGHUP, and waits until `is_there` finds it in the log.
    pub async fn reload_by_signal(&self, config: &str, is_there: impl Fn(&str) -> bool) {
        self.configure(config);
        let before = self.log().len();
        self.signal(Signal::HUP);
        while !is_there(&self.log()[before..]) {
            tokio::task::yield_now().await;
        }
    }
}
