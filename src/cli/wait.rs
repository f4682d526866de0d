//! `wait`: looks on until a deployment is final. Whatever stops the wait, the deployment goes on.

use std::{future::pending, time::Duration};

use clap::Args;

use super::{
    TargetArgs,
    exit::{Exit, Failure},
    parse::{parse_deployment, parse_timeout},
    result,
    session::Session,
    signals::Signals,
};
use crate::{
    client::{
        calls::{Fault, Patience},
        deadline::Deadline,
        follow::{FollowLimits, Follower, How, Update},
    },
    model::{DeploymentName, ProjectName, Which},
    wire::Deployment,
};

const WAIT_HELP: &str = "\
Exit codes:
  0    the deployment SUCCEEDED
  1    it FAILED
  2    usage, or there is no such deployment
  121  it was still blocked at its deadline, or its client was gone
  122  it was cancelled or superseded
  124  --timeout passed; the deployment goes on
  125  no server, or a fault on the way to it
  130  interrupted; the deployment goes on";

/// `wait`.
#[derive(Args, Debug)]
#[command(after_long_help = WAIT_HELP)]
pub struct WaitArgs {
    /// The deployment: its number, such as 17; its number with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
    /// How long to wait; the deployment goes on after that [default: until it is final]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Show progress while waiting, as `deploy` does; without this flag, only the end is shown
    #[arg(long)]
    pub progress: bool,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Waits for the end of a deployment, and ends as the deployment did.
///
/// # Errors
/// Every end that is not a success of the deployment, with its exit code.
pub async fn run(args: &WaitArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, patience(args.timeout))?;
    let how = if args.progress { How::Auto } else { How::EndOnly };
    let mut signals = Signals::of_a_job(session.in_ci)?;
    let onlooker = Onlooker {
        session: &session,
        project: &args.target.project,
        name: args.id.clone(),
        timeout: args.timeout,
        meanwhile: "the deployment goes on",
    };
    let deployment = onlooker.until_final(how, &mut signals).await?;
    session.screen.clear();
    result::tell_onlooker(&session, &deployment)
}

/// How long `wait` tolerates a server that does not answer.
pub(super) fn patience(timeout: Option<Duration>) -> Patience {
    match timeout {
        Some(timeout) => Patience::DEADLINE.within(timeout),
        None => Patience::WATCH,
    }
}

/// A client that waits for the end of a deployment, and changes nothing.
pub(super) struct Onlooker<'a> {
    pub(super) session: &'a Session,
    pub(super) project: &'a ProjectName,
    pub(super) name: DeploymentName,
    pub(super) timeout: Option<Duration>,
    /// What is true when the wait ends before the deployment does.
    pub(super) meanwhile: &'static str,
}

impl Onlooker<'_> {
    /// Waits and returns the final deployment. A signal or `--timeout` ends only the wait.
    ///
    /// # Errors
    /// The deployment is not final yet, or no usable answer came.
    pub(super) async fn until_final(&self, how: How, signals: &mut Signals) -> Result<Deployment, Failure> {
        let Onlooker { session, project, name, .. } = self;
        let deadline = self.timeout.map(|timeout| Deadline::after(session.clock.clone(), timeout));
        let passed = async {
            match &deadline {
                Some(deadline) => deadline.passed().await,
                None => pending().await,
            }
        };
        session.screen.note(&format!("waiting for the end of {}", self.told()));
        let mut show = |update: Update| session.screen.update(project, &update);
        let watched = async {
            let id = match name.which {
                Which::Id(id) => id,
                Which::Number(_) => session.connection.deployment(project, name).await?.id,
            };
            let limits = FollowLimits::default();
            let mut follower = Follower { connection: &session.connection, project, id, limits, after: 0 };
            follower.follow(how, &mut show).await
        };
        let is_told = how != How::EndOnly;
        tokio::select! {
            ended = watched => Ok(ended.map_err(|fault| self.lost(fault))?),
            () = signals.first() => Err(self.left(Exit::Interrupted, "interrupted")),
            () = passed => Err(self.left(Exit::TimedOut, "the --timeout passed")),
            never = session.screen.break_silence(), if is_told => match never {},
        }
    }

    fn left(&self, exit: Exit, why: &str) -> Failure {
        let Onlooker { session, project, name, meanwhile, .. } = self;
        session.screen.clear();
        let trouble = session.connection.trouble().map(|trouble| format!("; the server does not answer: {trouble}"));
        let trouble = trouble.unwrap_or_default();
        Failure::new(exit, format!("{why} before {} had ended; {meanwhile}{trouble}", self.told()))
            .hint(format!("`singletrack wait --project {project} {}` waits again", name.which))
    }

    /// The deployment's name for people.
    fn told(&self) -> String {
        match self.name.which {
            Which::Id(id) => format!("deployment {id}"),
            Which::Number(number) => format!("{}#{number}", self.project),
        }
    }

    /// Adds to a failure that the outcome of the deployment is unknown.
    fn lost(&self, fault: Fault) -> Failure {
        match fault {
            Fault::Refused(_) => fault.into(),
            Fault::Unreachable { .. } | Fault::Foreign { .. } | Fault::Proxy { .. } | Fault::NoToken { .. } => {
                let failure = Failure::from(fault);
                let message = format!("{}; the outcome of {} is unknown", failure.message, self.told());
                Failure { message, ..failure }
            }
        }
    }
}
