//! A load balancer: each connection goes to the next server that takes it.

use std::{thread, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};

/// How long a server may take to accept before the next server is tried.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// A balancer, on a thread of its own until it is dropped.
pub struct Balancer {
    pub base: String,
    _alive: oneshot::Sender<()>,
}

impl Balancer {
    /// One in front of the servers at these addresses.
    pub fn of(bases: &[String]) -> Self {
        let targets: Vec<String> = bases.iter().map(|base| base.strip_prefix("http://").unwrap().to_owned()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (alive, dropped) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(TcpListener::from_std(listener).unwrap(), targets) => {}
                    _ = dropped => {}
                }
            });
        });
        Balancer { base, _alive: alive }
    }
}

async fn serve(listener: TcpListener, targets: Vec<String>) {
    for turn in 0.. {
        let (mut near, _) = listener.accept().await.unwrap();
        let targets: Vec<String> = (0..targets.len()).map(|at| targets[(turn + at) % targets.len()].clone()).collect();
        tokio::spawn(async move {
            for target in targets {
                if let Ok(Ok(mut far)) = timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
                    // Either end may break the connection off, and the other end then notices.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                    return;
                }
            }
        });
    }
}
