//! A network between a worker and its servers that can be cut. While it is cut, nothing passes, and neither side is
//! told.

use std::thread;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The way to a server.
pub struct Network {
    pub base: String,
    is_whole: watch::Sender<bool>,
}

impl Network {
    /// A way to the server at this address, on a thread of its own: tests block theirs.
    pub fn to(base: &str) -> Self {
        Self::to_first_of(&[base])
    }

    /// A way to several servers: each connection leads to the first of them that takes it.
    pub fn to_first_of(bases: &[&str]) -> Self {
        let targets: Vec<_> = bases.iter().map(|base| base.strip_prefix("http://").unwrap().to_owned()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (is_whole, mut gone) = watch::channel(true);
        let state = gone.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(TcpListener::from_std(listener).unwrap(), targets, state) => {}
                    // An error means that the test's end of the channel is gone.
                    _ = gone.wait_for(|_| false) => {}
                }
            });
        });
        Network { base, is_whole }
    }

    /// From now on no data passes.
    pub fn cut(&self) {
        self.is_whole.send_replace(false);
    }

    /// From now on all data passes again, including the data that was on its way.
    pub fn mend(&self) {
        self.is_whole.send_replace(true);
    }
}

async fn serve(listener: TcpListener, targets: Vec<String>, is_whole: watch::Receiver<bool>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let (targets, is_whole) = (targets.clone(), is_whole.clone());
        tokio::spawn(async move {
            let Some(far) = connect(&targets).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            // Once one direction has ended, the other has nothing to answer.
            tokio::select! {
                () = pass(near_in, far_out, is_whole.clone()) => {}
                () = pass(far_in, near_out, is_whole) => {}
            }
        });
    }
}

async fn connect(targets: &[String]) -> Option<TcpStream> {
    for target in targets {
        if let Ok(connection) = TcpStream::connect(target).await {
            return Some(connection);
        }
    }
    None
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut is_whole: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut bytes).await {
        // The end of a connection does not get through a cut either.
        if is_whole.wait_for(|is_whole| *is_whole).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
