//! Deployments and their statuses at GitHub. The deployment there is found by its task, which names ours, so that nothing has
//! to be kept about it, and an attempt that is made twice makes one deployment.

use reqwest::{
    Client, Method,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::json;

use super::{
    chat,
    client::{Undelivered, send},
    message::{Message, ToldDeployment},
};
use crate::{config::NotifyTarget, model::NotificationEvent};

/// The longest description that GitHub takes, in characters.
const DESCRIPTION_LIMIT: usize = 140;

/// Tells GitHub how a deployment stands.
pub(super) async fn tell(
    client: &Client,
    target: &NotifyTarget,
    base: &str,
    token: &str,
    message: &Message,
    deployment: &ToldDeployment,
) -> Result<(), Undelivered> {
    let repository = target.repository.as_deref().unwrap_or_default();
    let all = format!("{}/repos/{repository}/deployments", base.trim_end_matches('/'));
    let environment = target.environment.as_deref().unwrap_or(message.project.as_str());
    let task = format!("singletrack:{}", deployment.id);
    let headers = headers(token)?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("task", &task)
        .append_pair("environment", environment)
        .append_pair("per_page", "1")
        .finish();
    let found = send(client, target, Method::GET, &format!("{all}?{query}"), headers.clone(), None).await?.json()?;
    let number = match found.get(0).and_then(|first| first["id"].as_u64()) {
        Some(number) => number,
        None => {
            let commit = deployment.commit.as_ref().or(deployment.ref_name.as_ref());
            let Some(commit) = commit else {
                return Err(Undelivered::forever(
                    "GitHub keeps deployments of commits, and this one names neither a commit nor a ref",
                ));
            };
            let body = json!({
                "ref": commit,
                "task": task,
                "environment": environment,
                "description": described(&format!("{}#{} by Singletrack", message.project, deployment.number)),
                "auto_merge": false,
                "required_contexts": [],
            });
            let made = send(client, target, Method::POST, &all, headers.clone(), Some(bytes(&body))).await?.json()?;
            made["id"].as_u64().ok_or_else(|| Undelivered::now("GitHub's answer has no id"))?
        }
    };
    let environment_url = target.environment_url.as_ref().or(deployment.environment_url.as_ref());
    let mut body = json!({
        "state": state(message.event),
        "environment": environment,
        "description": described(&chat::title(message)),
    });
    for (key, value) in
        [("log_url", deployment.url.as_ref().or(message.link.as_ref())), ("environment_url", environment_url)]
    {
        if let Some(value) = value.filter(|url| super::message::is_link(url)) {
            body[key] = json!(value);
        }
    }
    let statuses = format!("{all}/{number}/statuses");
    send(client, target, Method::POST, &statuses, headers, Some(bytes(&body))).await?.success().map(|_| ())
}

fn state(event: NotificationEvent) -> &'static str {
    match event {
        NotificationEvent::Started => "in_progress",
        NotificationEvent::Succeeded => "success",
        NotificationEvent::Failed => "failure",
        NotificationEvent::Superseded | NotificationEvent::Cancelled | NotificationEvent::Released => "error",
        // No rule for GitHub has these.
        NotificationEvent::Waiting | NotificationEvent::Paused | NotificationEvent::Resumed => "pending",
    }
}

fn headers(token: &str) -> Result<HeaderMap, Undelivered> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Undelivered::now("the token has characters that no token has"))?;
    bearer.set_sensitive(true);
    Ok(HeaderMap::from_iter([
        (AUTHORIZATION, bearer),
        (ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
        (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28")),
    ]))
}

fn described(text: &str) -> String {
    text.chars().take(DESCRIPTION_LIMIT).collect()
}

fn bytes(body: &serde_json::Value) -> Vec<u8> {
    body.to_string().into_bytes()
}
