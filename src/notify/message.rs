//! What a notification says: facts of the deployment, as it stood at that event. It holds no inputs, and of the outputs only
//! the address of the environment.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    model::{
        CancelCause, Deployment, Mention, NotificationEvent, Outcome, Pause, PauseDetail, ProjectName, State, Status,
        bounds,
    },
    store::Notification,
};

/// The output that says where the deployed environment can be seen.
const URL_OUTPUT: &str = "url";
/// How a masked value begins.
const MASK: &str = "***";
/// How many characters of a text that a user or a worker wrote are told.
const TEXT_LIMIT: usize = 500;

/// A notification with all that its message says. It is the same for each attempt, but for a deployment that waits.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub event: NotificationEvent,
    pub at: Timestamp,
    pub project: ProjectName,
    pub told: ToldOf,
    /// The deployment, where people reach this server.
    pub link: Option<String>,
}

/// What it is about.
#[derive(Clone, Debug)]
pub(super) enum ToldOf {
    Deployment(Box<ToldDeployment>),
    Pause(PauseDetail),
}

/// A deployment at the moment of the event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToldDeployment {
    pub id: String,
    pub number: u64,
    pub status: &'static str,
    pub pipeline: String,
    #[serde(rename = "ref")]
    pub ref_name: Option<String>,
    pub commit: Option<String>,
    pub message: Option<String>,
    pub actor: Option<String>,
    /// Who submitted it, as the server knows it.
    pub submitted_by: Option<String>,
    /// The CI run.
    pub url: Option<String>,
    pub order: Option<u64>,
    pub is_rollback: bool,
    #[serde(serialize_with = "moment")]
    pub created_at: Timestamp,
    #[serde(serialize_with = "moment_or_none")]
    pub started_at: Option<Timestamp>,
    #[serde(serialize_with = "moment_or_none")]
    pub ended_at: Option<Timestamp>,
    /// From the submit to the start, or to the end where it never started.
    pub wait_seconds: Option<i64>,
    /// From the start to the end.
    pub run_seconds: Option<i64>,
    pub error_code: Option<&'static str>,
    pub error_message: Option<String>,
    pub phase: Option<String>,
    /// The newer deployment that took its place.
    pub superseded_by: Option<String>,
    /// Who asked for the cancel, and why.
    pub cancelled_by: Option<String>,
    pub cancel_reason: Option<String>,
    /// Who forced the slot free.
    pub released_by: Option<String>,
    /// For what it waits.
    pub waits_for: Option<String>,
    pub position: Option<u64>,
    /// Where the environment can be seen.
    pub environment_url: Option<String>,
}

/// What a webhook's body says.
#[derive(Serialize)]
struct WebhookBody<'m> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(serialize_with = "moment")]
    timestamp: Timestamp,
    data: WebhookData<'m>,
}

#[derive(Serialize)]
struct WebhookData<'m> {
    project: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'m ToldDeployment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<&'m PauseDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'m str>,
}

/// What holds a deployment up.
pub(super) struct HeldUp<'s> {
    /// How many are served before it, itself included.
    pub position: u64,
    /// The deployment that has the slot.
    pub holder: Option<&'s Deployment>,
    /// The project's pause.
    pub pause: Option<&'s Pause>,
}

impl Message {
    /// About a pause, or its end.
    pub(super) fn of_pause(row: &Notification) -> Self {
        let detail = row.detail.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Message { event: row.event, at: row.at, project: row.project.clone(), told: ToldOf::Pause(detail), link: None }
    }

    /// About a deployment, as it stands now. A start is told without the end.
    pub(super) fn of_deployment(
        row: &Notification,
        deployment: &Deployment,
        held_up: Option<HeldUp<'_>>,
        public_url: Option<&str>,
    ) -> Self {
        let told = ToldDeployment::of(row.event, deployment, held_up);
        // The page, which people can read. An earlier version gave its deployments no numbers.
        let name = if deployment.number == 0 { deployment.id.to_string() } else { deployment.number.to_string() };
        let link = public_url.map(|base| format!("{base}/projects/{}/deployments/{name}", row.project));
        let (event, at, project) = (row.event, row.at, row.project.clone());
        Message { event, at, project, told: ToldOf::Deployment(Box::new(told)), link }
    }

    /// The deployment that it is about.
    pub(super) fn deployment(&self) -> Option<&ToldDeployment> {
        match &self.told {
            ToldOf::Deployment(deployment) => Some(deployment),
            ToldOf::Pause(_) => None,
        }
    }

    /// The body of a webhook.
    pub(super) fn body(&self) -> Vec<u8> {
        let (about, deployment, pause) = match &self.told {
            ToldOf::Deployment(deployment) => ("deployment", Some(&**deployment), None),
            ToldOf::Pause(pause) => ("project", None, Some(pause)),
        };
        let data = WebhookData { project: self.project.as_str(), deployment, pause, link: self.link.as_deref() };
        let body = WebhookBody { kind: format!("{about}.{}", self.event.as_str()), timestamp: self.at, data };
        // All of it is text and numbers, so this cannot fail.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl ToldDeployment {
    fn of(event: NotificationEvent, deployment: &Deployment, held_up: Option<HeldUp<'_>>) -> Self {
        let spec = &deployment.spec;
        let text = |text: &Option<String>| text.clone().map(|text| shortened(&text));
        let ended = match &deployment.state {
            // What came later is told later.
            _ if matches!(event, NotificationEvent::Started | NotificationEvent::Waiting) => None,
            State::Finished { outcome, at, .. } => Some((outcome, *at)),
            State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => None,
        };
        let status = match event {
            NotificationEvent::Started => Status::Running,
            NotificationEvent::Waiting => Status::Pending,
            _ => deployment.status(),
        };
        let started_at = deployment.started_at.filter(|_| event != NotificationEvent::Waiting);
        let ended_at = ended.map(|(_, at)| at);
        let (error_message, phase) = match ended {
            Some((Outcome::Failed { message, phase, .. }, _)) => (Some(shortened(message)), phase.clone()),
            Some((Outcome::Cancelled { message, .. }, _)) => (Some(shortened(message)), None),
            Some((Outcome::Succeeded, _)) | None => (None, None),
        };
        let superseded = matches!(ended, Some((Outcome::Cancelled { cause: CancelCause::Superseded { .. }, .. }, _)));
        let cancel = deployment.cancel.as_ref().filter(|_| ended.is_some());
        let environment_url = deployment.outputs.get(URL_OUTPUT).filter(|_| ended.is_some());
        ToldDeployment {
            id: deployment.id.to_string(),
            number: deployment.number,
            status: status.as_str(),
            pipeline: spec.pipeline.clone(),
            ref_name: text(&spec.ref_name),
            commit: text(&spec.commit),
            message: text(&spec.message),
            actor: text(&spec.actor),
            submitted_by: spec.submitted_by.as_ref().map(ToString::to_string),
            url: spec.url.clone(),
            order: spec.order,
            is_rollback: spec.rollback,
            created_at: deployment.created_at,
            started_at,
            ended_at,
            wait_seconds: started_at.or(ended_at).map(|end| seconds(deployment.created_at, end)),
            run_seconds: started_at.zip(ended_at).map(|(start, end)| seconds(start, end)),
            error_code: ended.and_then(|(outcome, _)| outcome.error_code()),
            error_message,
            phase,
            superseded_by: cancel
                .filter(|_| superseded)
                .and_then(|it| it.superseded_by.as_ref())
                .map(Mention::to_string),
            cancelled_by: cancel.and_then(|cancel| cancel.by.as_ref()).map(ToString::to_string),
            cancel_reason: cancel.and_then(|cancel| text(&cancel.reason)),
            released_by: deployment.released_by.as_ref().filter(|_| ended.is_some()).map(ToString::to_string),
            waits_for: held_up.as_ref().and_then(|held_up| waits_for(deployment, held_up)),
            position: held_up.map(|held_up| held_up.position).filter(|position| *position > 0),
            environment_url: environment_url.filter(|url| is_link(url) && !url.contains(MASK)).cloned(),
        }
    }
}

/// For what a deployment waits that has not started.
fn waits_for(deployment: &Deployment, HeldUp { position: _, holder, pause }: &HeldUp<'_>) -> Option<String> {
    if let Some(pause) = pause.filter(|_| !deployment.spec.override_pause) {
        return Some(shortened(&format!("the project is paused by {}: {}", pause.by, pause.reason)));
    }
    match holder {
        Some(holder) if holder.id == deployment.id => match holder.state {
            State::Ready => Some("it has the slot, and no worker has taken it".to_owned()),
            _ => Some("it has the slot, and its client has not come back".to_owned()),
        },
        Some(holder) => Some(shortened(&holder.mention().to_string())),
        None => None,
    }
}

/// Whether people may be led there.
pub(super) fn is_link(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://"))
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// One line, without characters that change how the text around them is read.
pub(super) fn shortened(text: &str) -> String {
    let is_bidi = |letter: char| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}');
    let clean: String = text
        .chars()
        .filter(|letter| !is_bidi(*letter))
        .map(|letter| if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') { ' ' } else { letter })
        .collect();
    let clean = clean.trim().to_owned();
    if bounds::fits(&clean, TEXT_LIMIT) {
        return clean;
    }
    clean.chars().take(TEXT_LIMIT - 1).chain(['…']).collect()
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    let lasted: SignedDuration = to.duration_since(from);
    lasted.as_secs().max(0)
}

fn moment<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

fn moment_or_none<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => moment(at, serializer),
        None => serializer.serialize_none(),
    }
}
