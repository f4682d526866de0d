//! Deployments of environments at GitLab. GitLab keeps no name of ours with them, so the deployment there is the newest one of
//! this commit in the environment: one deploy at a time is what Singletrack is for.

use reqwest::{
    Client, Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use super::{
    client::{Undelivered, send},
    message::{Message, ToldDeployment, is_link},
};
use crate::{config::NotifyTarget, model::NotificationEvent};

/// How many of the newest deployments of the environment are searched.
const SEARCHED: usize = 20;

struct Forge<'t> {
    client: &'t Client,
    target: &'t NotifyTarget,
    project: String,
    headers: HeaderMap,
}

/// Tells GitLab how a deployment stands.
pub(super) async fn tell(
    client: &Client,
    target: &NotifyTarget,
    base: &str,
    token: &str,
    message: &Message,
    deployment: &ToldDeployment,
) -> Result<(), Undelivered> {
    let Some(commit) = &deployment.commit else {
        return Err(Undelivered::forever("GitLab keeps deployments of commits, and this one names no commit"));
    };
    let path: String =
        form_urlencoded::byte_serialize(target.repository.as_deref().unwrap_or_default().as_bytes()).collect();
    let mut secret = HeaderValue::try_from(token.to_owned())
        .map_err(|_| Undelivered::now("the token has characters that no token has"))?;
    secret.set_sensitive(true);
    let headers = HeaderMap::from_iter([(HeaderName::from_static("private-token"), secret)]);
    let forge = Forge { client, target, project: format!("{}/projects/{path}", base.trim_end_matches('/')), headers };
    let environment = target.environment.as_deref().unwrap_or(message.project.as_str());
    let status = status(message.event);
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("environment", environment)
        .append_pair("order_by", "id")
        .append_pair("sort", "desc")
        .append_pair("per_page", &SEARCHED.to_string())
        .finish();
    let known = forge.ask(Method::GET, &format!("deployments?{query}"), None).await?;
    let same = known.as_array().into_iter().flatten().find(|known| known["sha"] == json!(commit));
    let present = same.and_then(|same| same["status"].as_str());
    match (same.and_then(|same| same["id"].as_u64()), present) {
        // An attempt before this one came through.
        (Some(_), Some(present)) if present == status => {}
        (Some(number), Some("created" | "running" | "blocked")) => {
            let path = format!("deployments/{number}");
            forge.ask(Method::PUT, &path, Some(&json!({ "status": status }))).await?;
        }
        _ => {
            let body = json!({
                "environment": environment,
                "sha": commit,
                "ref": deployment.ref_name.as_ref().unwrap_or(commit),
                "tag": false,
                "status": status,
            });
            forge.ask(Method::POST, "deployments", Some(&body)).await?;
        }
    }
    let url = target.environment_url.as_ref().or(deployment.environment_url.as_ref()).filter(|url| is_link(url));
    match url {
        Some(url) if message.event == NotificationEvent::Succeeded => forge.show(environment, url).await,
        _ => Ok(()),
    }
}

impl Forge<'_> {
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Undelivered> {
        let url = format!("{}/{path}", self.project);
        let body = body.map(|body| body.to_string().into_bytes());
        send(self.client, self.target, method, &url, self.headers.clone(), body).await?.json()
    }

    /// Says where the environment can be seen.
    async fn show(&self, environment: &str, url: &str) -> Result<(), Undelivered> {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("name", environment).finish();
        let found = self.ask(Method::GET, &format!("environments?{query}"), None).await?;
        let Some(first) = found.get(0) else { return Ok(()) };
        match first["id"].as_u64() {
            Some(number) if first["external_url"] != json!(url) => {
                let body = json!({ "external_url": url });
                self.ask(Method::PUT, &format!("environments/{number}"), Some(&body)).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

fn status(event: NotificationEvent) -> &'static str {
    match event {
        NotificationEvent::Started => "running",
        NotificationEvent::Succeeded => "success",
        NotificationEvent::Failed | NotificationEvent::Released => "failed",
        NotificationEvent::Superseded | NotificationEvent::Cancelled => "canceled",
        // No rule for GitLab has these.
        NotificationEvent::Waiting | NotificationEvent::Paused | NotificationEvent::Resumed => "created",
    }
}
