//! The list of commands, as clap reads it. The flags of a command stand in its own file. Names and exit codes are a contract.

use clap::{Parser, Subcommand};

use super::{
    AgentArgs, AuditArgs, CancelArgs, CheckConfigArgs, CompletionsArgs, CurrentArgs, DemoArgs, DeployArgs, ExplainArgs,
    FenceCommand, ForgetArgs, ListArgs, LogsArgs, ManArgs, NotificationsArgs, OrderArgs, PauseArgs, ProtectArgs,
    RedactArgs, RedeployArgs, ReleaseArgs, ReloadArgs, ResumeArgs, RollbackArgs, RunArgs, ServeArgs, StatusArgs,
    StoreCommand, TokenCommand, VersionArgs, WaitArgs, WhyArgs, exit::EXIT_CODES, read::read,
};

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
    /// Back up, copy, restore, prune or compact a store
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
    /// Go back: deploy an earlier success again, before all others, and follow it to its end; what runs is cancelled
    Rollback(Box<RollbackArgs>),
    /// Show one deployment; without an ID, the one that holds the slot, else the latest
    Status(StatusArgs),
    /// Wait until a deployment is final, and exit with its exit code; a wait that is stopped does not stop the deployment
    Wait(WaitArgs),
    /// Show who holds the slot, who waits and for how long, and what you can do
    Why(WhyArgs),
    /// Show what is live: the last deployment that succeeded, since when, and who deployed it; without a project, of all
    Current(CurrentArgs),
    /// Print a deployment's output; without an ID, of the one that holds the slot, else of the latest
    Logs(LogsArgs),
    /// List a project's deployments, newest first; without a project, list the projects
    List(ListArgs),
    /// Cancel a deployment: ask it to stop
    Cancel(CancelArgs),
    /// Show the server's audit log: who did what, from where, and with which request
    Audit(AuditArgs),
    /// List notifications that wait to be sent or were given up, and try one anew
    Notifications(NotificationsArgs),
    /// Hold a project: what runs goes on, and nobody else gets the slot until the pause ends
    Pause(PauseArgs),
    /// End the pause of a project: the next in line gets the slot
    Resume(ResumeArgs),
    /// Show or set the mark of a project: the build number below which no deployment starts
    Order(OrderArgs),
    /// Free a project's slot by force, whatever its holder does; the release is recorded
    Release(ReleaseArgs),
    /// Take a leaked secret out of a deployment's output and record for good; that it was done is recorded
    Redact(RedactArgs),
    /// Forget a project that nobody uses, such as a typing mistake, with its whole history
    Forget(ForgetArgs),
    /// Have the server read its configuration again, as SIGHUP does; a bad file changes nothing
    Reload(ReloadArgs),
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
