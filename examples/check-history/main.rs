//! Replays what a PostgreSQL store holds, project by project and revision by revision, and says whether it can have come
//! about by the rules: one deployment at a time, served in order, nothing lost, nothing twice.
//!
//! ```text
//! cargo run --example check-history -- postgres://… [--told FILE]…
//! ```
//!
//! A `--told` file holds what some client was told, one JSON value after the other: deployments as `singletrack … --json`
//! prints them, or the other facts in `history.rs`. The fault tests put the same questions to what they did themselves.

mod checks;
mod database;
mod history;

use std::{env, fs, io::Write as _, process::ExitCode};

use history::{History, Told};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let verdict = match read(env::args().skip(1).collect()).await {
        Ok(history) => {
            let wrong = checks::violations(&history);
            let looked_at = history.summary();
            if wrong.is_empty() {
                Ok(format!("no violation in {looked_at}"))
            } else {
                Err(format!("{} violations in {looked_at}:\n  {}", wrong.len(), wrong.join("\n  ")))
            }
        }
        Err(why) => Err(format!("cannot look: {why}")),
    };
    let (text, code) = match verdict {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    // Whoever closed standard output still has the exit code.
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

async fn read(arguments: Vec<String>) -> Result<History, String> {
    const USAGE: &str = "usage: check-history postgres://… [--told FILE]…";
    let mut arguments = arguments.into_iter();
    let url = arguments.next().filter(|first| !first.starts_with('-')).ok_or(USAGE)?;
    let mut told = Vec::new();
    while let Some(argument) = arguments.next() {
        let file = (argument == "--told").then(|| arguments.next()).flatten().ok_or(USAGE)?;
        let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        told.extend(Told::parse(&text).map_err(|error| format!("{file}: {error}"))?);
    }
    let kept = database::read(&url).await?;
    Ok(History { kept, told })
}
