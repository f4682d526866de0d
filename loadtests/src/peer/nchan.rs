//! nginx with the nchan module: clients park at a channel by long-poll or by a stream of server-sent events, and one
//! post to the channel answers all of them. Nothing is durable: messages are in nginx's shared memory.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Result, ensure};
use tokio::sync::Mutex;

use crate::{
    http::Http,
    subject::{Ability, Get, Peer, Subject, Topic, Work},
};

use super::daemon::{Daemon, INSTALL, program, version};

/// Where Debian puts it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub const ONE_WORKER: Peer = Peer {
    name: "nchan",
    abilities: &[Ability::Polls, Ability::Streams],
    start: || Box::pin(async { Ok(Box::new(Nchan::start(1).await?) as Box<dyn Subject>) }),
};

pub const TWO_WORKERS: Peer = Peer {
    name: "nchan-2",
    abilities: &[Ability::Polls, Ability::Streams],
    start: || Box::pin(async { Ok(Box::new(Nchan::start(2).await?) as Box<dyn Subject>) }),
};

struct Nchan {
    daemon: Daemon,
    version: String,
    workers: usize,
}

impl Nchan {
    async fn start(workers: usize) -> Result<Nchan> {
        let nginx = program("nginx")?;
        ensure!(Path::new(MODULE).exists(), "nginx' nchan module is missing: {INSTALL}");
        let daemon = Daemon::start("nginx", |dir, port| {
            let config = dir.join("nginx.conf");
            std::fs::write(&config, configuration(dir, port, workers))?;
            let mut command = Command::new(&nginx);
            command.arg("-p").arg(dir).arg("-c").arg(config);
            Ok(command)
        })
        .await?;
        // `nginx version: nginx/1.22.1`
        let version = version(&nginx, "-v")?.replace("nginx version: nginx/", "nginx ");
        Ok(Nchan { daemon, version, workers })
    }
}

/// Room for 10,000 parked clients and more in each worker, which share them evenly, and no log of requests: as for whoever
/// has so many.
fn configuration(dir: &Path, port: u16, workers: usize) -> String {
    let dir = dir.display();
    // Those that root starts would give up root for an account that cannot enter this directory.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    format!(
        "load_module {MODULE};
{user}
worker_processes {workers};
worker_rlimit_nofile 65536;
daemon off;
pid {dir}/nginx.pid;
error_log stderr error;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    nchan_shared_memory_size 256M;
    server {{
        listen 127.0.0.1:{port} backlog=16384 reuseport;
        location ~ ^/publish/(.+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 60s;
        }}
        location ~ ^/poll/(.+)$ {{
            nchan_subscriber longpoll;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_subscriber_timeout 0;
        }}
        location ~ ^/stream/(.+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_subscriber_timeout 0;
        }}
    }}
}}
"
    )
}

impl Subject for Nchan {
    fn about(&self) -> String {
        let workers = if self.workers == 1 { "one worker" } else { "two workers" };
        format!("{} with nchan, {workers}: messages in shared memory, nothing is durable", self.version)
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.daemon.id()]
    }

    fn topics(&self, count: usize) -> Work<'_, Vec<Box<dyn Topic>>> {
        Box::pin(async move {
            // Channels are made by being named; each gets a name that none has had.
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let address = self.daemon.address;
            let publisher = Arc::new(Mutex::new(Http::connect(address).await?));
            let topic = |_| {
                let name = format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed));
                Box::new(Channel { address, name, publisher: Arc::clone(&publisher) }) as Box<dyn Topic>
            };
            Ok((0..count).map(topic).collect())
        })
    }
}

/// A channel, and the connection that posts to it.
struct Channel {
    address: SocketAddr,
    name: String,
    publisher: Arc<Mutex<Http>>,
}

impl Channel {
    async fn post(&self, text: &str) -> Result<()> {
        let path = format!("/publish/{}", self.name);
        let mut publisher = self.publisher.lock().await;
        let reply = publisher.call("POST", &path, "content-type: text/plain\r\n", text.as_bytes()).await?;
        // 201 if clients were told, 202 if nobody waits.
        ensure!(matches!(reply.status, 200..=202), "nchan answered {}", reply.status);
        Ok(())
    }
}

impl Topic for Channel {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn poll(&self) -> Get {
        Get { path: format!("/poll/{}", self.name), headers: String::new() }
    }

    fn stream(&self) -> Get {
        Get { path: format!("/stream/{}", self.name), headers: "accept: text/event-stream\r\n".to_owned() }
    }

    fn answer(&mut self) -> Work<'_, ()> {
        Box::pin(async move { self.post("done").await })
    }

    fn publish<'a>(&'a mut self, text: &'a str) -> Work<'a, ()> {
        Box::pin(async move { self.post(text).await })
    }
}
