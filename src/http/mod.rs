//! The HTTP server: routes, guards, encodings, and the one map from errors to HTTP. Rules are elsewhere.

mod access;
mod access_log;
mod address;
mod admin;
mod agents;
mod answer;
mod artifacts;
mod attempts;
mod audit;
mod body;
mod cancel;
mod claims;
mod connection;
mod door;
mod early;
mod error;
mod events;
mod feed;
mod forget;
mod guard;
mod intake;
mod line;
mod live_tokens;
mod mark;
mod meta;
mod metrics;
mod names;
mod needs;
mod notifications;
mod oidc;
mod page;
mod params;
mod pause;
mod phase_times;
mod phases;
mod plan;
mod projects;
mod rarely;
mod read;
mod redact;
mod refusals;
mod request_id;
mod rollback;
mod router;
mod scan;
mod screens;
mod secrets;
mod serve;
mod session;
mod socket;
mod submit;
mod tls;
mod token_text;
mod tokens;
mod uploads;
mod validity;
mod waits;
mod workers;

use std::{ops::Bound, sync::Arc, time::Duration};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

pub use access::LiveAccess;
pub use early::Early;
pub use guard::{Access, Grant};
pub use live_tokens::{LiveTokens, TASK as TOKENS_TASK};
pub use metrics::Metrics;
pub use router::route_table;
pub use serve::{END_LIMIT, HttpServer, ServeError, require_protection, serve};
pub use token_text::{NewToken, new_token};

use crate::{
    artifacts::retention::Retention,
    config::{ByAgents, Config, Pipeline, SecretInputs, nearest},
    health::Health,
    model::{self, EventBody, ProjectName, RunBy, State},
    queue::{Queue, absence::some_of},
    watch::Watch,
    wire::{self, ErrorCode},
};
use access_log::AccessLog;
use agents::{Agents, KnownAgents};
use attempts::Attempts;
use error::{ErrorAnswer, echo};
use metrics::Scrape;
use oidc::LiveOidc;
use phase_times::PhaseTimes;
use refusals::RefusalLog;
use uploads::Uploads;

/// How many of the last events are searched for the moment at which a deployment that waits for an agent got the slot.
const SLOT_LOOK_LIMIT: usize = 50;

/// The state that handlers need.
pub struct App {
    queue: Queue,
    watch: Watch,
    access: Arc<LiveAccess>,
    agents: Agents,
    metrics: Arc<Metrics>,
    scrape: Scrape,
    health: Health,
    artifacts: Retention,
    attempts: Attempts,
    oidc: Arc<LiveOidc>,
    live_tokens: Arc<LiveTokens>,
    uploads: Uploads,
    phase_times: PhaseTimes,
    access_log: AccessLog,
    refusals: Arc<RefusalLog>,
    rows: screens::Rows,
    day_charts: screens::DayCharts,
    deployment_parts: screens::DeploymentParts,
    /// Cancelled at shutdown, for work that need not be finished.
    shutdown: CancellationToken,
}

impl App {
    fn now(&self) -> Timestamp {
        self.queue.clock().wall()
    }

    /// The configuration at this moment.
    fn config(&self) -> Arc<Config> {
        self.queue.config().now()
    }

    fn is_configured(&self, project: &ProjectName) -> bool {
        self.config().projects.contains_key(project)
    }

    /// The next configured projects after this one for which `is_wanted` holds, by name.
    fn project_names_after(
        &self,
        after: Option<&ProjectName>,
        count: usize,
        is_wanted: impl Fn(&ProjectName) -> bool,
    ) -> Vec<ProjectName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let config = self.config();
        let following = config.projects.range::<ProjectName, _>((from, Bound::Unbounded));
        following.map(|(name, _)| name).filter(|name| is_wanted(name)).take(count).cloned().collect()
    }

    /// The project's settings for agents, if agents run it.
    fn by_agents(&self, project: &ProjectName) -> Option<ByAgents> {
        self.config().projects.get(project)?.agents
    }

    /// Which inputs of this project are secret.
    fn secret_inputs(&self, project: &ProjectName) -> SecretInputs {
        let config = self.config();
        config.projects.get(project).map_or_else(|| config.secret_inputs.clone(), |it| it.secret_inputs.clone())
    }

    fn pipeline_names(&self, project: &ProjectName, known: &KnownAgents) -> Vec<String> {
        if self.by_agents(project).is_some() {
            return known.pipelines().into_iter().cloned().collect();
        }
        let config = self.config();
        config.projects.get(project).map(|project| project.pipelines.keys().cloned().collect()).unwrap_or_default()
    }

    /// Fails for a pipeline that no known agent has ever offered. If no agent was ever seen, nothing is known and it
    /// passes.
    async fn require_offered(&self, project: &ProjectName, pipeline: &str) -> Result<(), ErrorAnswer> {
        let known = self.agents.of(project).await?;
        let offered = known.pipelines();
        if offered.is_empty() || offered.iter().any(|offered| *offered == pipeline) {
            return Ok(());
        }
        Err(unknown_pipeline(pipeline, offered.into_iter()))
    }

    /// The sentence that a deployment which holds its slot waits for an agent, that no agent is there, and until when
    /// it waits; `None` if that does not apply.
    async fn agent_absence(&self, holder: &model::Deployment) -> Result<Option<String>, ErrorAnswer> {
        let is_by_agents = self.by_agents(&holder.project).is_some() && holder.spec.executor == RunBy::Worker;
        if holder.state != State::Ready || !is_by_agents || holder.message.is_some() {
            return Ok(None);
        }
        let known = self.agents.of(&holder.project).await?;
        let Some(absence) = known.absence(&holder.project, &holder.spec.pipeline) else { return Ok(None) };
        let after = holder.event_count.saturating_sub(SLOT_LOOK_LIMIT as u64);
        let events = self.queue.store().events(holder.id, after, SLOT_LOOK_LIMIT).await?;
        let has_slot = |event: &&model::Event| matches!(event.body, EventBody::Queue { position: 0, .. });
        let since = events.iter().find(has_slot).map_or(holder.created_at, |event| event.at);
        let patience = Duration::from_secs(holder.spec.claim_within_seconds.unwrap_or_default());
        let until = since.checked_add(patience).unwrap_or(since);
        // With the date only if it is not today.
        let format =
            if patience < Duration::from_secs(12 * 60 * 60) { "%H:%M:%S UTC" } else { "%Y-%m-%d %H:%M:%S UTC" };
        Ok(Some(format!("{absence}; waits until {}", until.strftime(format))))
    }

    /// What a holder waits for, and how long that may take: an absent agent, or a phase that a cancel may not
    /// interrupt.
    async fn holder_wait(&self, holder: &model::Deployment) -> Result<Option<String>, ErrorAnswer> {
        match self.agent_absence(holder).await? {
            Some(absence) => Ok(Some(absence)),
            None => self.protected_wait(holder).await,
        }
    }

    /// A deployment for the wire, with a note if it waits for something that only this server knows.
    async fn with_absence(
        &self,
        holder: &model::Deployment,
        mut told: wire::Deployment,
    ) -> Result<wire::Deployment, ErrorAnswer> {
        if let Some(wait) = self.holder_wait(holder).await? {
            told.waits_for = Some(wait);
        }
        Ok(told)
    }

    /// The holder of the slot, for a deployment that it blocks; with the same note.
    async fn conflict(
        &self,
        blocker: Option<&model::Deployment>,
        counters: &model::Project,
        own_url: Option<&str>,
    ) -> Result<wire::Conflict, ErrorAnswer> {
        let Some(blocker) = blocker else { return Ok(wire::Conflict::default()) };
        let mut blocker_told = answer::blocker(blocker, counters, self.now(), own_url);
        if let Some(wait) = self.holder_wait(blocker).await? {
            blocker_told.blocking.message = Some(wait);
        }
        Ok(wire::Conflict { blocker: Some(blocker_told), ..wire::Conflict::default() })
    }

    /// How long a run of this pipeline takes. Only agents and clients know how long their own pipelines take.
    fn takes(&self, project: &model::Project, spec: &model::Spec) -> wire::Takes {
        let config = self.config();
        let configured = config.projects.get(&project.name).filter(|configured| configured.agents.is_none());
        let pipeline = configured.and_then(|configured| configured.pipelines.get(&spec.pipeline));
        let given = pipeline.filter(|pipeline| spec.executor == RunBy::Worker && pipeline.is_timeout_given);
        wire::Takes {
            pipeline_timeout_seconds: given.map(|pipeline| pipeline.timeout.as_secs()),
            usual_duration: project.eta(&spec.pipeline, Duration::ZERO),
        }
    }

    /// Distinguishes definitions of a configured pipeline.
    fn pipeline_digest(&self, project: &ProjectName, name: &str) -> Result<String, ErrorAnswer> {
        let definition = serde_json::to_vec(pipeline(&self.config(), project, name)?).unwrap_or_default();
        Ok(HEXLOWER.encode(&Sha256::digest(definition))[..16].to_owned())
    }

    /// Fails for a name that no configuration has, where only those are taken. The error names the nearest one that the
    /// caller may see. Everything that could make a project needs this.
    fn require_known(&self, project: &ProjectName, sees: impl Fn(&ProjectName) -> bool) -> Result<(), ErrorAnswer> {
        let config = self.config();
        if !config.known_projects_only || config.projects.contains_key(project) {
            return Ok(());
        }
        let names: Vec<_> = config.projects.keys().filter(|name| sees(name)).map(ProjectName::as_str).collect();
        let hint = match nearest(project.as_str(), &names) {
            Some(nearest) => format!("did you mean '{nearest}'?"),
            None if names.is_empty() => "it takes only projects of its configuration".to_owned(),
            None => format!("it takes {}", some_of(names.into_iter())),
        };
        Err(ErrorAnswer::new(
            ErrorCode::UnknownProject,
            format!("this server's configuration has no project '{}'; {hint}", echo(project.as_str())),
        ))
    }

    /// Fails for a project that is not configured and was never deployed.
    async fn require_project(&self, project: &ProjectName) -> Result<(), ErrorAnswer> {
        if self.is_configured(project) || self.queue.store().project(project.clone(), 0).await?.is_some() {
            return Ok(());
        }
        Err(ErrorAnswer::not_found())
    }
}

/// A configured pipeline.
fn pipeline<'a>(config: &'a Config, project: &ProjectName, name: &str) -> Result<&'a Pipeline, ErrorAnswer> {
    let pipelines = &config.projects.get(project).ok_or_else(ErrorAnswer::not_found)?.pipelines;
    pipelines.get(name).ok_or_else(|| unknown_pipeline(name, pipelines.keys()))
}

fn unknown_pipeline<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> ErrorAnswer {
    let known = some_of(known.map(String::as_str));
    let name = echo(name);
    ErrorAnswer::new(ErrorCode::UnknownPipeline, format!("there is no pipeline '{name}' here; there are: {known}"))
}
