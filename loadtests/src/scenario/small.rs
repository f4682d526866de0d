//! `small`: what an idle server costs.

use anyhow::Result;

use crate::{
    report::{Outcome, Summary},
    run::Run,
    server::Server,
};

pub const NAME: &str = "small";

pub async fn run(run: &Run) -> Result<()> {
    let mut outcomes = Vec::new();
    for round in 0..run.rounds {
        run.say(format!("{NAME}: round {} of {}", round + 1, run.rounds));
        let mut server = Server::start(&run.recipe, "").await?;
        let mut outcome = Outcome::default();
        let size = std::fs::metadata(&run.recipe.binary)?.len();
        outcome.figure("binary", size as f64 / 1e6, "MB");
        outcome.figure("ready on an empty store", server.ready_after.as_secs_f64() * 1e3, "ms");
        outcome.figure("idle memory", server.resident()? as f64 / f64::from(1 << 20), "MiB");
        server.stop();
        server.boot()?;
        outcome.figure("ready on its store", server.ready_after.as_secs_f64() * 1e3, "ms");
        let answers = server.get("/readyz").await?.status;
        outcome.check("it answers once it says that it is ready", answers == 200, || format!("HTTP {answers}"));
        outcomes.push(outcome);
    }
    run.keep(Summary::of(NAME, "singletrack", env!("CARGO_PKG_VERSION"), outcomes));
    Ok(())
}
