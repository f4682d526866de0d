//! `pages`: what the first screen costs on a store with a million deployments, and what a thousand open pages cost: memory,
//! and the time of submits beside them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;

use super::growth::{self, server};
use crate::{
    http::Http,
    report::{Outcome, Times},
    run::{Contender, Run},
    seed::Seed,
    server::Server,
};

pub const NAME: &str = "pages";

/// The name of the contender beside which pages are open.
const WATCHED: &str = "pages open";
/// How many pages are opened at once.
const OPENING: usize = 32;
/// How long it may take until all are parked.
const LIMIT: Duration = Duration::from_secs(60);

pub async fn run(run: &Run) -> Result<()> {
    let seed = Seed { projects: run.scale(200, 20), finished: run.scale(5_000, 5), in_line: 0 };
    let pair = [growth::filled(run, seed, "no page open").await?, growth::filled(run, seed, WATCHED).await?];
    run.take_turns(NAME, &pair, async |one| beside_pages(run, one).await).await
}

async fn beside_pages(run: &Run, contender: &Contender) -> Result<Outcome> {
    let server = server(contender)?;
    let mut outcome = first_screen(run, server).await?;
    let count = if contender.name == WATCHED { run.scale(1_000, 10) } else { 0 };
    let before = server.resident()?;
    let mut pages = JoinSet::new();
    let mut opened = 0;
    while opened < count {
        let some = OPENING.min(count - opened);
        for http in futures_util::future::try_join_all((0..some).map(|_| page(server))).await? {
            pages.spawn(read_on(http));
        }
        opened += some;
    }
    let begun = Instant::now();
    while server.metric("singletrack_parked_requests").await? < count as f64 {
        if begun.elapsed() > LIMIT {
            bail!("the pages were not open in time");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if count > 0 {
        let grown = server.resident()?.saturating_sub(before);
        outcome.figure("memory per page", grown as f64 / 1024.0 / count as f64, "KiB");
    }
    let used = server.usage();
    let beside = growth::operations(run, server).await?;
    outcome.join(beside);
    outcome.figure("server CPU meanwhile", (server.usage() - used).cpu.as_secs_f64() * 1e3, "ms");
    let ended = pages.try_join_next().is_some();
    outcome.check("every page stays open", !ended, || "the server ended one".to_owned());
    Ok(outcome)
}

/// The first screen, as a browser loads it.
async fn first_screen(run: &Run, server: &Server) -> Result<Outcome> {
    let mut http = server.connect().await?;
    let headers = "accept: text/html\r\naccept-encoding: gzip\r\n";
    let mut times = Times::default();
    let mut bytes = 0;
    for number in 0..=run.scale(50, 5) {
        let asked = Instant::now();
        bytes = http.call("GET", "/", headers, &[]).await?.expect(200)?.body.len();
        // The first one reads what those after it find.
        if number > 0 {
            times.add(asked.elapsed());
        }
    }
    let mut outcome = Outcome::default();
    outcome.figure("first screen, median", times.at(0.5) as f64, "µs");
    outcome.figure("first screen, bytes", bytes as f64 / 1024.0, "KiB");
    outcome.times("first screen", times);
    Ok(outcome)
}

/// A page that was loaded and follows its stream.
async fn page(server: &Server) -> Result<Http> {
    let mut http = server.connect().await?;
    let html = http.call("GET", "/", "accept: text/html\r\n", &[]).await?.expect(200)?.body;
    let html = String::from_utf8_lossy(&html);
    let (_, rest) = html.split_once("data-live=\"").context("the page has a stream")?;
    let path = rest.split('"').next().unwrap_or_default().to_owned();
    http.send("GET", &path, "accept: text/event-stream\r\n", &[]).await?;
    Ok(http)
}

/// Reads until the server ends the stream.
async fn read_on(mut http: Http) -> Result<()> {
    http.reply().await.map(|_| ())
}
