//! The `[projects.…]` tables: each project's policy, and its pipelines of phases.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};
use toml::Spanned;

use super::{
    duration::format_duration,
    first_repeated, freeze,
    pass_env::{self, PassEnv},
    reader::ConfigTable,
    require,
    retention::{self, RetentionRules},
    secret_inputs::{self, SecretInputs},
};
use crate::model::{LinePolicy, Policy, Preempt, ProjectName};

/// The longest name of a pipeline or a phase.
const NAME_LIMIT: usize = 63;
/// How long a pipeline may take when its configuration is silent: a deploy that hangs must not hold its slot for ever.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How long a deployment waits for an agent when the configuration is silent: a reboot of the agent's machine fits.
const DEFAULT_UNCLAIMED_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// One project: its rules, and its pipelines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProjectConfig {
    /// The rules of its slot and its line.
    pub policy: Policy,
    /// Set where agents run its deployments with pipelines of their own, and not this server.
    pub agents: Option<ByAgents>,
    /// Which variables phases get of the server's or agent's own environment, besides those that they always get.
    pub pass_env: PassEnv,
    /// How long its deployments and their output are kept.
    pub retention: RetentionRules,
    /// Which inputs of its deployments are secret.
    pub secret_inputs: SecretInputs,
    /// The pipelines, by name. All of a project's pipelines share its one slot.
    pub pipelines: BTreeMap<String, Pipeline>,
}

/// The settings of a project whose deployments agents run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByAgents {
    /// The answer to a submit when no agent could run it.
    pub without_agent: WithoutAgent,
    /// How long a deployment that holds the slot may wait for an agent.
    pub unclaimed_timeout: Duration,
}

/// The answer to a submit when no agent could run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutAgent {
    /// It is refused.
    Refuse,
    /// It is accepted, and waits for one.
    Wait,
}

/// The phases of one deployment, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// How long all phases may take together, without rollbacks.
    #[serde(rename = "timeoutSeconds", serialize_with = "seconds")]
    pub timeout: Duration,
    /// Whether the configuration says so itself.
    #[serde(skip)]
    pub is_timeout_given: bool,
    /// How long a command may go without a sign of life, if that is limited.
    #[serde(rename = "stallTimeoutSeconds", serialize_with = "optional_seconds")]
    pub stall_timeout: Option<Duration>,
    /// The phases in order; never empty, and no two have the same name.
    pub phases: Vec<Phase>,
}

/// One step of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// The name that people see; unique in its pipeline.
    pub name: String,
    /// The work of the phase.
    #[serde(flatten)]
    pub action: PhaseAction,
    /// The command that takes it back when this phase or a later one fails or is cancelled.
    pub rollback: Option<String>,
    /// Whether a cancel waits until this phase is over.
    pub protected: bool,
    /// How long this phase, and its rollback, may take.
    #[serde(rename = "timeoutSeconds", serialize_with = "optional_seconds")]
    pub timeout: Option<Duration>,
}

/// The work of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PhaseAction {
    /// Runs a script under `sh -ec`.
    Run(String),
    /// Asks a URL until it answers well.
    Check(Check),
}

/// A URL that is asked until it answers well.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// An `http:` or `https:` URL, asked by GET.
    pub url: String,
    /// How long it may take until the first good answer.
    #[serde(rename = "timeoutSeconds", serialize_with = "seconds")]
    pub timeout: Duration,
    /// How long to wait between two tries.
    #[serde(rename = "intervalSeconds", serialize_with = "seconds")]
    pub interval: Duration,
    /// The one status that is good; any 2xx if unset.
    pub expect_status: Option<u16>,
}

/// Whether a pipeline or a phase may have this name: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
pub fn is_pipeline_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= NAME_LIMIT && name.bytes().all(fits) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

pub(super) fn read_all(
    root: &mut ConfigTable<'_>,
    pass_env: &PassEnv,
    secret_inputs: &SecretInputs,
    retention: RetentionRules,
) -> BTreeMap<ProjectName, ProjectConfig> {
    let mut projects = BTreeMap::new();
    for (name, section) in root.named_sections("projects") {
        let name = root.document.project_name(&name);
        // What is wrong inside a project with an invalid name is listed, too.
        let project = read_project(section, pass_env, secret_inputs, retention);
        projects.extend(name.map(|name| (name, project)));
    }
    projects
}

fn check_name(what: &str, name: &Spanned<String>, section: &ConfigTable<'_>) {
    if !is_pipeline_name(name.get_ref()) {
        section.document.problem(
            name.span(),
            format!(
                "a {what}'s name is a letter or digit, then letters, digits, `.`, `_` and `-`, {NAME_LIMIT} in all at most"
            ),
        );
    }
}

fn read_project(
    mut section: ConfigTable<'_>,
    pass_env: &PassEnv,
    secret_inputs: &SecretInputs,
    retention: RetentionRules,
) -> ProjectConfig {
    let default = Policy::default();
    let policy = Policy {
        line: section.parsed("line", parse_line).unwrap_or(default.line),
        line_limit: section.number("line_limit", 0..=1_000_000).unwrap_or(default.line_limit),
        preempt: read_preempt(&mut section).unwrap_or(default.preempt),
        paused: section.boolean("paused").unwrap_or(default.paused),
        freezes: freeze::read(&mut section),
    };
    let agents = read_agents(&mut section);
    let pass_env = pass_env.with(pass_env::read(&mut section));
    let retention = section.section("retention").map_or(retention, |own| retention::read_rules(own, retention));
    let secret_inputs = secret_inputs.with(secret_inputs::read(&mut section));
    let mut pipelines = BTreeMap::new();
    for (name, pipeline) in section.named_sections("pipelines") {
        check_name("pipeline", &name, &pipeline);
        pipelines.insert(name.into_inner(), read_pipeline(pipeline));
    }
    section.finish();
    ProjectConfig { policy, agents, pass_env, secret_inputs, retention, pipelines }
}

fn read_agents(section: &mut ConfigTable<'_>) -> Option<ByAgents> {
    let by_agents = section.parsed("run_by", |text| match text {
        "server" => Ok(false),
        "agents" => Ok(true),
        _ => Err("must be \"server\" or \"agents\"".to_owned()),
    });
    let without_agent = section.parsed("without_agent", |text| match text {
        "refuse" => Ok(WithoutAgent::Refuse),
        "wait" => Ok(WithoutAgent::Wait),
        _ => Err("must be \"refuse\" or \"wait\"".to_owned()),
    });
    let unclaimed_timeout = section.duration("unclaimed_timeout");
    if by_agents == Some(true) {
        return Some(ByAgents {
            without_agent: without_agent.unwrap_or(WithoutAgent::Wait),
            unclaimed_timeout: unclaimed_timeout.unwrap_or(DEFAULT_UNCLAIMED_TIMEOUT),
        });
    }
    for key in ["without_agent", "unclaimed_timeout"] {
        if section.has(key) {
            let message = format!("`{}` is only for projects with run_by = \"agents\"", section.path_of(key));
            section.document.problem(section.span_of(key), message);
        }
    }
    None
}

fn parse_line(text: &str) -> Result<LinePolicy, String> {
    match text {
        "all" => Ok(LinePolicy::All),
        "latest" => Ok(LinePolicy::Latest),
        _ => {
            Err("must be \"all\" (everyone is served) or \"latest\" (a newer one supersedes those that wait)"
                .to_owned())
        }
    }
}

fn read_preempt(section: &mut ConfigTable<'_>) -> Option<Preempt> {
    if let Some(mut table) = section.section_if_table("preempt") {
        let times = table.number("times", 1..=1_000_000);
        require(&table, "times", times.is_none());
        table.finish();
        return times.map(|times| Preempt::Times { times });
    }
    section.parsed("preempt", |text| match text {
        "allow" => Ok(Preempt::Allow),
        "never" => Ok(Preempt::Never),
        _ => Err("must be \"allow\", \"never\" or { times = 2 }".to_owned()),
    })
}

fn read_pipeline(mut section: ConfigTable<'_>) -> Pipeline {
    let given = section.duration("timeout");
    let timeout = given.unwrap_or(DEFAULT_TIMEOUT);
    let stall_timeout = section.duration("stall_timeout");
    if stall_timeout.is_some_and(|stall| stall > timeout) {
        let message = format!(
            "`{}` is longer than the whole pipeline's timeout ({})",
            section.path_of("stall_timeout"),
            format_duration(timeout)
        );
        section.document.problem(section.span_of("stall_timeout"), message);
    }
    let mut phases = Vec::new();
    let mut names = Vec::new();
    for mut phase in section.sections("phases") {
        names.extend(phase.string("name").map(|name| Spanned::new(phase.span_of("name"), name)));
        phases.extend(read_phase(phase, timeout));
    }
    if let Some(name) = first_repeated(&names) {
        let message = format!("another phase of `{}` is called `{}` too", section.path, name.get_ref());
        section.document.problem(name.span(), message);
    }
    require(&section, "phases", true);
    if section.is_empty_array("phases") {
        let message = format!("`{}` must have at least one phase", section.path);
        section.document.problem(section.span_of("phases"), message);
    }
    section.finish();
    Pipeline { timeout, is_timeout_given: given.is_some(), stall_timeout, phases }
}

fn read_phase(mut section: ConfigTable<'_>, pipeline_timeout: Duration) -> Option<Phase> {
    let name = section.string("name");
    require(&section, "name", name.is_none());
    if let Some(name) = &name {
        check_name("phase", &Spanned::new(section.span_of("name"), name.clone()), &section);
    }
    let run = section.parsed("run", parse_script);
    let check = section.section("check");
    let rollback = section.parsed("rollback", parse_script);
    let protected = section.boolean("protected").unwrap_or(false);
    let timeout = section.duration("timeout");
    if timeout.is_some_and(|timeout| timeout > pipeline_timeout) {
        let path = section.path_of("timeout");
        let whole = format_duration(pipeline_timeout);
        section
            .document
            .problem(section.span_of("timeout"), format!("`{path}` is longer than the whole pipeline's ({whole})"));
    }
    let has_run = section.has("run");
    let has_check = section.has("check");
    if has_run == has_check {
        let path = &section.path;
        let message =
            if has_run { "has both `run` and `check`; make them two phases" } else { "needs `run` or `check`" };
        section.document.problem(section.span.clone(), format!("`{path}` {message}"));
    }
    let check = check.and_then(|check| read_check(check, timeout.unwrap_or(pipeline_timeout)));
    section.finish();
    let action = run.map(PhaseAction::Run).or(check.map(PhaseAction::Check))?;
    Some(Phase { name: name?, action, rollback, protected, timeout })
}

fn parse_script(text: &str) -> Result<String, String> {
    match text {
        text if text.trim().is_empty() => Err("must be a command".to_owned()),
        text if text.contains('\0') => Err("contains a NUL character".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn read_check(mut section: ConfigTable<'_>, limit: Duration) -> Option<Check> {
    let url = section.parsed("url", parse_url);
    require(&section, "url", url.is_none());
    let timeout = section.duration("timeout").unwrap_or(Duration::from_secs(60).min(limit));
    let interval = section.duration("interval").unwrap_or(Duration::from_secs(2).min(timeout));
    let expect_status = section.number("expect_status", 100..=599).and_then(|status| u16::try_from(status).ok());
    for (key, longer, of_what, shorter) in [
        ("timeout", timeout, "the phase's or pipeline's timeout", limit),
        ("interval", interval, "the check's timeout", timeout),
    ] {
        if longer > shorter {
            let message = format!("`{}` is longer than {of_what} ({})", section.path_of(key), format_duration(shorter));
            section.document.problem(section.span_of(key), message);
        }
    }
    section.finish();
    Some(Check { url: url?, timeout, interval, expect_status })
}

fn parse_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match url {
        Some(_) => Ok(text.to_owned()),
        None => Err("must be a URL such as http://127.0.0.1:8080/healthz".to_owned()),
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match duration.subsec_nanos() {
        0 => serializer.serialize_u64(duration.as_secs()),
        _ => serializer.serialize_f64(duration.as_secs_f64()),
    }
}

fn optional_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}
