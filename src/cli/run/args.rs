//! The flags of `run`, `protect` and `fence`.

use std::{ffi::OsString, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::{
    TargetArgs,
    groups::{JobEndArgs, LineArgs, Source},
    read::read,
};
use crate::config::parse_duration;

const RUN_HELP: &str = "\
Exit codes:
  The command's exit code; 128+N if signal N ended the command, 127 if there is no such command, 126 if it cannot be run.
  And:
  2    usage
  121  still blocked at the deadline
  122  cancelled or superseded: the command was ended
  123  lease lost: the command was ended before another deployment could get the slot
  125  no server, or a fault on the way to it, before the command was started
  130  interrupted; the command was ended first

Environment of the command:
  SINGLETRACK_FENCING_TOKEN   grows with every holder of the project's slot
  SINGLETRACK_DEPLOYMENT_ID, _PROJECT, _PIPELINE, _REF, _COMMIT, _URL (the server)
  SINGLETRACK_TOKEN and SINGLETRACK_ID_TOKEN are not passed on.

The command uses the standard input, output and error of `run`, byte for byte. If the input is a terminal, the command
gets its own terminal of the same size: Ctrl-C and /dev/tty work, also in `| tee log`. In front of a pager, `</dev/null`
leaves the keyboard to the pager. The server gets a copy of the output. Output that is faster than about 2 MiB a second
is left out of the copy, except for its last 64 KiB. These lines of the output are commands to Singletrack:
  ::singletrack progress=40 message=Uploading::
  ::singletrack output url=https://example.com::
  ::singletrack protect::
  ::singletrack unprotect::
Between the last two, a cancel waits, and so does the first Ctrl-C at a terminal.

A run inside a run of the same project uses the slot of the outer run.";

/// `run`.
#[derive(Args, Debug)]
#[command(after_long_help = RUN_HELP)]
// `run` has no result to print; it says so if `--json` is given.
#[command(mut_arg("json", |arg| arg.hide(true)))]
#[command(mut_arg("actor", |arg| arg.help("Who runs it [default: from the CI, else the user]")))]
#[command(mut_arg("timeout", |arg| {
    arg.help("How long to wait for the slot; the command itself has no time limit")
}))]
pub struct RunArgs {
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    pub command: Vec<OsString>,
    /// The name of this run's pipeline in the project's deployments
    #[arg(long, value_name = "NAME", default_value = "run")]
    pub pipeline: String,
    /// How long the server keeps the slot without a sign of life from this process; the command is ended before that
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_lease)]
    pub lease: Duration,
    /// How long the command may take to stop after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_grace)]
    pub grace: Duration,
    /// Send no copy of the output to the server
    #[arg(long)]
    pub no_logs: bool,
    /// Environment variables whose values are masked in the server's copy of the output
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub mask: Vec<String>,
    /// Go back on purpose: accept a lower build number
    #[arg(long)]
    pub rollback: bool,
    /// What is deployed, and who deploys it.
    #[command(flatten)]
    pub source: Source,
    /// What to do when another deployment holds the slot
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = RunWhenHeld::Wait, help_heading = "Waiting")]
    pub on_conflict: RunWhenHeld,
    /// How it waits in line.
    #[command(flatten)]
    pub line: LineArgs,
    /// How the job ends.
    #[command(flatten)]
    pub end: JobEndArgs,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// What `run` does when another deployment holds the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunWhenHeld {
    /// Wait in line for it
    Wait,
    /// Do not wait: fail
    Fail,
}

/// `protect`.
#[derive(Args, Debug)]
pub struct ProtectArgs {
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    pub command: Vec<OsString>,
}

/// `fence`.
#[derive(Subcommand, Debug)]
pub enum FenceCommand {
    /// Exit with 0 if the run still holds the slot, with 123 if not, with 125 if that is unknown
    Check(FenceCheckArgs),
}

/// `fence check`.
#[derive(Args, Debug)]
pub struct FenceCheckArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text)?;
    // What the server takes, in whole seconds.
    let fits = (Duration::from_secs(2)..=Duration::from_secs(60 * 60)).contains(&lease) && lease.subsec_nanos() == 0;
    if fits { Ok(lease) } else { Err("it is from 2s to 1h, in whole seconds".to_owned()) }
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace > Duration::from_secs(60 * 60) { Err("it is at most 1h".to_owned()) } else { Ok(grace) }
}

/// A `run` by itself.
#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    run: Box<RunArgs>,
}

impl RunArgs {
    /// A `run` whose arguments are valid. This fast path saves reading the definitions of all other
    /// commands. Invalid arguments are left to the full parser, which reports them.
    pub fn read_alone(args: impl IntoIterator<Item = OsString>) -> Option<Box<RunArgs>> {
        let mut args = args.into_iter().skip(1).peekable();
        args.peek().filter(|verb| *verb == "run")?;
        read::<Alone>(args).ok().map(|alone| alone.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{AnyCommand, Cli, ClientCommand};

    #[test]
    fn a_run_is_read_alone_as_it_is_among_all() {
        let read = |line: &str| RunArgs::read_alone(line.split(' ').map(OsString::from));
        for line in ["singletrack run --project a --no-logs -- true -x", "singletrack run --lease 20s --project a -- b"]
        {
            let whole = Cli::try_parse_from(line.split(' ')).expect(line);
            let AnyCommand::Client(ClientCommand::Run(whole)) = whole.command else { panic!("{line}") };
            assert_eq!(format!("{:?}", read(line).expect(line)), format!("{whole:?}"));
        }
        for line in ["singletrack", "singletrack run --help", "singletrack run --porject a -- b", "singletrack list"] {
            assert!(read(line).is_none(), "{line}");
        }
    }
}
