//! The list of commands, as clap reads it. The flags of a command stand in its own file. Names and exit codes are a contract.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource};

use super::{
    AgentArgs, CancelArgs, CheckConfigArgs, CompletionsArgs, DemoArgs, DeployArgs, ExplainArgs, FenceCommand, ListArgs,
    LogsArgs, ManArgs, ProtectArgs, RedeployArgs, ReleaseArgs, RunArgs, ServeArgs, StatusArgs, StoreCommand,
    TokenCommand, VersionArgs, WaitArgs, WhyArgs,
};
use crate::model::{DeploymentName, ProjectName};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the deployment FAILED
  2    usage
  121  still blocked at the deadline
  122  cancelled or superseded
  123  lease lost
  124  --timeout passed
  125  no server, or a fault on the way to it
  130  interrupted; the client cancelled its deployment first

Environment:
  SINGLETRACK_URL      the server, as --server
  SINGLETRACK_PROJECT  the project, as --project
  SINGLETRACK_TOKEN    the token; there is no flag for it, because other processes can read arguments
  NO_COLOR             no colours";

/// One deploy at a time: the slot that CI pipelines race for, and the client that waits its turn.
#[derive(Debug, Parser)]
#[command(name = "singletrack", version, about, after_long_help = EXIT_CODES, arg_required_else_help = true)]
#[command(subcommand_required = true, max_term_width = 100, infer_subcommands = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: AnyCommand,
}

impl Cli {
    /// The command of this process's arguments.
    ///
    /// # Errors
    /// The arguments are not valid, or ask for help.
    pub fn read() -> Result<Self, clap::Error> {
        match RunArgs::read_alone(std::env::args_os()) {
            Some(run) => Ok(Cli { command: AnyCommand::Client(ClientCommand::Run(run)) }),
            None => read(std::env::args_os()),
        }
    }
}

/// Reads arguments and variables. An empty variable counts as not set, because CI systems set an empty value where the
/// real value does not exist.
pub(super) fn read<T: CommandFactory + FromArgMatches>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let args: Vec<_> = args.into_iter().collect();
    let mut command = without_empty_variables(T::command());
    // A flag wins over a variable; `--no-order` also wins over the variable of `--order`.
    if args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--no-order") {
        command = without_variable(command, "order");
    }
    let args = with_project_of_deployment(&mut command, args)?;
    let matches = command.try_get_matches_from(args)?;
    T::from_arg_matches(&matches)
}

/// Adds `--project` for a deployment's name that has the project, as in `status web#17`. That project wins over
/// the variable.
fn with_project_of_deployment(
    command: &mut clap::Command,
    mut args: Vec<OsString>,
) -> Result<Vec<OsString>, clap::Error> {
    if !args.iter().any(|arg| arg.as_encoded_bytes().contains(&b'#')) {
        return Ok(args);
    }
    // Other errors are found by the full parse below.
    let Ok(matches) = without_need_of_project(command.clone()).try_get_matches_from(&args) else { return Ok(args) };
    let Some((verb, matches)) = matches.subcommand() else { return Ok(args) };
    let named =
        ["id", "deployment"].into_iter().find_map(|id| matches.try_get_one::<DeploymentName>(id).ok().flatten());
    let Some(named) = named else { return Ok(args) };
    let Some(project) = &named.project else { return Ok(args) };
    if matches.value_source("project") == Some(ValueSource::CommandLine) {
        return match matches.get_one::<ProjectName>("project") {
            Some(other) if other != project => {
                let message =
                    format!("--project is {other}, but {named} is a deployment of {project}; leave one of them out");
                Err(command.error(ErrorKind::ArgumentConflict, message))
            }
            Some(_) | None => Ok(args),
        };
    }
    let flag = format!("--project={project}").into();
    let at = args.iter().position(|arg| arg == verb).map_or(args.len(), |at| at + 1);
    args.insert(at, flag);
    Ok(args)
}

fn without_need_of_project(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| if arg.get_id() == "project" { arg.required(false) } else { arg });
    command.mut_subcommands(without_need_of_project)
}

fn without_variable(command: clap::Command, id: &'static str) -> clap::Command {
    let command = command.mut_args(|arg| if arg.get_id() == id { arg.env(None::<&'static str>) } else { arg });
    command.mut_subcommands(|command| without_variable(command, id))
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum AnyCommand {
    /// What a client asks of a server.
    #[command(flatten)]
    Client(ClientCommand),
    /// Run the server
    Serve(ServeArgs),
    /// Run pipelines on this machine for a server: the agent's configuration has the pipelines, the server sends the inputs
    Agent(AgentArgs),
    /// Check whether a server's configuration is valid
    CheckConfig(CheckConfigArgs),
    /// Make and read tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Back up, copy or restore a store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Watch a server and three racing pipelines on this machine
    Demo(DemoArgs),
    /// Say what an error code or an exit code means, and what to do
    Explain(ExplainArgs),
    /// Print the version, the commit of the build, and the time of the build
    Version(VersionArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
}

/// What a client asks of a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Deploy: take the project's slot or wait for it, then follow the deployment to its end
    Deploy(Box<DeployArgs>),
    /// Run a command here while holding the project's slot: take it or wait for it, run, give it back
    Run(Box<RunArgs>),
    /// Inside a run: keep a cancel away from a command until it has ended
    Protect(ProtectArgs),
    /// Inside a run: ask whether the run still holds the slot
    #[command(subcommand)]
    Fence(FenceCommand),
    /// Run an earlier deployment again, with its artifact and inputs, even if newer ones were deployed since
    Redeploy(Box<RedeployArgs>),
    /// Show one deployment; without an ID, the one that holds the slot, else the latest
    Status(StatusArgs),
    /// Wait until a deployment is final, and exit with its exit code; a wait that is stopped does not stop the deployment
    Wait(WaitArgs),
    /// Show who holds the slot, who waits and for how long, and what you can do
    Why(WhyArgs),
    /// Print a deployment's output; without an ID, of the one that holds the slot, else of the latest
    Logs(LogsArgs),
    /// List a project's deployments, newest first; without a project, list the projects
    List(ListArgs),
    /// Cancel a deployment: ask it to stop
    Cancel(CancelArgs),
    /// Free a project's slot by force, whatever its holder does; the release is recorded
    Release(ReleaseArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// Parts of clap's own error texts: a flag must not show them.
    const WORDS_OF_THE_LIBRARY: [&str; 6] =
        ["invalid digit", "digit found", "invalid socket", "is not in ", "number too large", "empty string"];

    #[test]
    fn whatever_a_flag_does_not_take_is_refused_in_words_that_say_what_it_takes() {
        let mut refused = Vec::new();
        each_flag(Cli::command(), &["singletrack".to_owned()], &mut |path, flag| {
            for value in ["x", "-1", "99999999999999999999", "1.5", ""] {
                let args = path.iter().cloned().chain([format!("--{flag}={value}")]);
                let Err(error) = Cli::command().try_get_matches_from(args) else { continue };
                let text = error.to_string();
                if text.contains(&format!("for '--{flag}")) {
                    refused.push(flag.to_owned());
                    let library = WORDS_OF_THE_LIBRARY.iter().find(|words| text.contains(**words));
                    assert_eq!(library, None, "{path:?} --{flag}={value}: {text}");
                }
            }
        });
        for flag in ["limit", "max-concurrent", "listen", "order", "timeout", "lease", "grace"] {
            assert!(refused.iter().any(|refused| refused == flag), "--{flag} takes anything: {refused:?}");
        }
    }

    fn each_flag(command: clap::Command, path: &[String], hear: &mut dyn FnMut(&[String], &str)) {
        for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            arg.get_long().into_iter().for_each(|flag| hear(path, flag));
        }
        for below in command.get_subcommands().cloned().collect::<Vec<_>>() {
            let path: Vec<_> = path.iter().cloned().chain([below.get_name().to_owned()]).collect();
            each_flag(below, &path, hear);
        }
    }
}
