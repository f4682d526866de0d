//! `rollback`: an earlier success is deployed again, before all others, and followed to its end.

use std::{cell::Cell, time::Duration};

use clap::Args;

use super::{
    ConnectArgs, DeployArgs, FollowMode, JobEndArgs, LineArgs, OriginArgs, Source, SubmitArgs, TargetArgs, WhenHeld,
    deploy::{
        key::Key,
        race::{Race, job},
    },
    exit::{EXIT_CODES, Exit, Failure},
    parse::{parse_deployment, parse_input, parse_key, parse_project, parse_text, parse_timeout},
    report::Reports,
    session::Session,
    signals::Signals,
};
use crate::{
    client::{
        calls::Patience,
        deadline::Deadline,
        resolve::{Ending, Wish},
    },
    model::{DeploymentName, IdempotencyKey, ProjectName},
    wire::RollbackRequest,
};

/// `rollback`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub struct RollbackArgs {
    /// The project [default: --project]
    #[arg(value_name = "PROJECT", value_parser = parse_project, required_unless_present_any = ["project", "to"])]
    pub name: Option<ProjectName>,
    /// The project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    #[arg(display_order = 0)]
    pub project: Option<ProjectName>,
    /// The success to go back to [default: the last one before the live one]
    #[arg(long, value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub to: Option<DeploymentName>,
    /// Leave the project open: else it is paused, so that the next push does not undo the rollback, until `resume`
    #[arg(long)]
    pub no_pin: bool,
    /// The reason; it is recorded, and told to those that the rollback supersedes
    #[arg(long, short, value_parser = parse_text)]
    pub reason: Option<String>,
    /// The value of a secret input of that success, which is not kept; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    pub inputs: Vec<(String, String)>,
    /// Who goes back [default: from the CI, else the user]
    #[arg(long, value_name = "NAME", value_parser = parse_text, help_heading = "Source")]
    pub actor: Option<String>,
    /// A page with more information [default: the CI job's page]
    #[arg(long, value_parser = parse_text, help_heading = "Source")]
    pub url: Option<String>,
    /// How the rollback is followed
    #[arg(long, value_enum, value_name = "HOW", default_value_t = FollowMode::Auto, help_heading = "Waiting")]
    pub follow: FollowMode,
    /// Do not wait: leave the rollback to the server and print its ID
    #[arg(long, conflicts_with_all = ["follow", "follow_successor"], help_heading = "Waiting")]
    pub detach: bool,
    /// How long everything together may take: waiting for what runs to stop, retries, running
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout, help_heading = "Waiting")]
    pub timeout: Duration,
    /// Idempotency key of this request: requests with the same key make one rollback [default: from the CI job]
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// How the job ends.
    #[command(flatten)]
    pub end: JobEndArgs,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

impl RollbackArgs {
    fn project(&self) -> Result<ProjectName, Failure> {
        let of_target = self.to.as_ref().and_then(|to| to.project.clone());
        let named = self.name.clone().or_else(|| of_target.clone()).or_else(|| self.project.clone());
        let named = named.ok_or_else(|| {
            Failure::new(Exit::Usage, "no project is named").hint("name it: `singletrack rollback web`")
        })?;
        match of_target.filter(|target| *target != named) {
            Some(other) => {
                let message = format!("--to names a deployment of {other}, and the project is {named}");
                Err(Failure::new(Exit::Usage, message).hint("leave one of them out"))
            }
            None => Ok(named),
        }
    }

    /// The deploy as which it is followed.
    fn deploy(&self, project: ProjectName) -> DeployArgs {
        let origin = OriginArgs { message: None, actor: self.actor.clone(), url: self.url.clone() };
        let line = LineArgs {
            cancel_in_progress_deployment: false,
            leave_when_overtaken: false,
            override_pause: false,
            resume: false,
            timeout: self.timeout,
        };
        DeployArgs {
            pipeline: None,
            inputs: Vec::new(),
            artifact: None,
            respect_gitignore: false,
            allow_empty: false,
            rollback: true,
            source: Source { ref_name: None, commit: None, origin, order: None, no_order: true },
            submit: SubmitArgs {
                on_conflict: WhenHeld::Queue,
                line,
                follow: self.follow,
                detach: self.detach,
                dry_run: false,
                idempotency_key: self.idempotency_key.clone(),
                end: self.end.clone(),
            },
            target: TargetArgs { project, connect: self.connect.clone() },
            retry_of: None,
        }
    }
}

/// Rolls back.
///
/// # Errors
/// Every end that is not a success, with its exit code.
pub async fn run(args: &RollbackArgs) -> Result<Exit, Failure> {
    let deploy = args.deploy(args.project()?);
    let reports = Reports::wanted(&args.end);
    let ended = roll_back(args, &deploy, &reports).await;
    reports.or_write(&deploy.target.project, &ended);
    ended
}

async fn roll_back(args: &RollbackArgs, deploy: &DeployArgs, reports: &Reports<'_>) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::DEADLINE.within(args.timeout))?;
    let request = RollbackRequest {
        to: args.to.clone(),
        reason: args.reason.clone(),
        actor: args.actor.clone().or_else(|| session.actor()),
        url: args.url.clone().or_else(|| session.ci.as_ref().and_then(|ci| ci.url.clone())),
        inputs: args.inputs.iter().cloned().collect(),
        leave_open: args.no_pin,
        deadline_seconds: Some(args.timeout.as_secs()),
    };
    // The same bytes for every submit: with another body the key would name another request.
    let body = serde_json::to_vec(&request).map_err(|error| Failure::new(Exit::Fault, error.to_string()))?;
    let key = match &args.idempotency_key {
        Some(key) => Key::given(key.clone()),
        None => Key::made(session.ci.as_ref(), &deploy.target.project, &body)?,
    };
    let mut signals = Signals::of_a_job(session.in_ci)?;
    let mut run = Race {
        session: &session,
        args: deploy,
        key,
        body,
        deadline: Deadline::after(session.clock.clone(), args.timeout),
        wish: if args.detach { Wish::Detach } else { Wish::Queue },
        claims: false,
        rolls_back: true,
        grant: None,
        held: None,
        problem: None,
        number: None,
        seen_event: Cell::new(0),
    };
    let ending = run.drive(&mut signals).await?;
    let is_made = matches!(ending, Ending::Ended { .. } | Ending::Detached(_) | Ending::Stopped { .. });
    if is_made && !args.no_pin {
        let project = &deploy.target.project;
        session.screen.line(&format!(
            "{project} is paused, so that nothing undoes this: `singletrack resume {project}` ends that"
        ));
    }
    job(&session, deploy, reports, &run.deadline).conclude(ending, run.problem, &mut signals).await
}
