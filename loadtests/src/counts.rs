//! Counts the instructions of the hot paths under callgrind. The counts are the same on a busy and on an idle machine,
//! so CI can compare them with the last counts.
//!
//! Each path is run a few times and then many times, and the difference is the count, so the cost of the start is not
//! included. The paths are counted in the build that the tests use anyway.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// Names the path and how often it is run, for the process that is counted.
const VARIABLE: &str = "LOADTESTS_COUNTED";
/// How often a path is run, at least and at most.
const FEW: u64 = 20;
const MANY: u64 = 120;
/// By how much a path may have grown. Who wakes first moves a count by a few thousandths; a new field should not be an alarm.
const TOLERANCE: f64 = 0.10;

/// A whole server is not among them: valgrind hides from a program what the server asks for the time by.
const PATHS: [&str; 3] = ["decision", "json", "store"];

/// Runs a path if this process was started to be counted.
pub fn entry() -> Option<Result<ExitCode>> {
    let wanted = std::env::var(VARIABLE).ok()?;
    Some(counted(&wanted).map(|()| ExitCode::SUCCESS))
}

fn counted(wanted: &str) -> Result<()> {
    let (path, times) = wanted.split_once(':').context("a path and how often")?;
    let times: u64 = times.parse()?;
    // One thread: what is counted must not hang on who is scheduled when.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match path {
        "decision" => (0..times).try_for_each(|_| paths::decide().map(|_| ())),
        "json" => {
            let deployment = paths::decide()?;
            (0..times).try_for_each(|_| paths::json(&deployment).map(|_| ()))
        }
        "store" => runtime.block_on(async {
            let own = paths::OwnStore::open()?;
            for _ in 0..times {
                own.pass().await?;
            }
            own.close().await;
            Ok(())
        }),
        other => bail!("there is no path {other}"),
    }
}

/// How many instructions a path takes.
fn count(path: &str) -> Result<u64> {
    let of = |times: u64| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .env(VARIABLE, format!("{path}:{times}"))
            .output()
            .context("valgrind is missing: run scripts/prerequisites")?;
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("the path {path} does not run: {told}");
        }
        let collected = told.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok());
        collected.with_context(|| format!("callgrind tells no count: {told}"))
    };
    let (few, many) = (of(FEW)?, of(MANY)?);
    Ok(many.saturating_sub(few) / (MANY - FEW))
}

/// Counts every path and compares it with `file`; with `write` puts the counts there. Another compiler makes other code, so
/// then they are told and not compared.
pub fn run(file: &Path, write: bool) -> Result<ExitCode> {
    use std::io::Write as _;
    let version = Command::new("rustc").arg("--version").output().context("cannot ask rustc for its version")?;
    let compiler = String::from_utf8(version.stdout)?.trim().to_owned();
    let before = std::fs::read_to_string(file).unwrap_or_default();
    let is_same = before.lines().next() == Some(compiler.as_str());
    let mut fresh = format!("{compiler}\n");
    let mut grown = false;
    let mut out = std::io::stdout().lock();
    for path in PATHS {
        let now = count(path)?;
        let last = before.lines().find_map(|line| line.strip_prefix(path)?.trim().parse::<u64>().ok());
        let verdict = match judge(last, now) {
            Change::New => "new".to_owned(),
            Change::Same(change) => format!("{:+.1} %", change * 100.0),
            Change::Grown(change) => {
                grown |= is_same;
                format!("{:+.1} %, more than {:.0} %", change * 100.0, TOLERANCE * 100.0)
            }
        };
        writeln!(out, "{path:<10} {now:>12} instructions  {verdict}")?;
        writeln!(fresh, "{path} {now}")?;
    }
    if write {
        std::fs::write(file, fresh)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !is_same {
        writeln!(out, "counted last with another compiler, so not compared")?;
    }
    if grown {
        writeln!(out, "a hot path has grown; if that is meant, count anew with --write")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

enum Change {
    New,
    Same(f64),
    Grown(f64),
}

fn judge(last: Option<u64>, now: u64) -> Change {
    match last {
        None | Some(0) => Change::New,
        Some(last) => {
            let change = now as f64 / last as f64 - 1.0;
            if change > TOLERANCE { Change::Grown(change) } else { Change::Same(change) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_by_more_than_chance_is_told() {
        assert!(matches!(judge(None, 100), Change::New));
        assert!(matches!(judge(Some(100), 109), Change::Same(_)));
        assert!(matches!(judge(Some(100), 50), Change::Same(_)));
        assert!(matches!(judge(Some(100), 111), Change::Grown(_)));
    }

    #[test]
    fn each_path_runs() {
        for path in PATHS {
            counted(&format!("{path}:2")).unwrap_or_else(|error| panic!("{path}: {error:#}"));
        }
        assert!(counted("nothing:2").is_err());
    }
}
