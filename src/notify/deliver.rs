//! One attempt to send one notification.

use std::sync::Arc;

use reqwest::{Client, Method, header::HeaderMap};

use super::{
    chat,
    client::{Undelivered, client, send},
    github, gitlab,
    message::{HeldUp, Message},
    webhook,
};
use crate::{
    clock::Clock,
    config::{NotifyTarget, TargetKind, TargetUrl},
    model::{NotificationEvent, Status},
    store::{Notification, Store, StoreError},
};

/// What an attempt needs.
#[derive(Clone)]
pub(super) struct Courier {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub public_url: Option<String>,
}

/// What came of an attempt that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    Sent,
    /// It is not so any more, or nothing is known of the deployment.
    NothingToTell,
}

/// What is read from files and variables for one attempt.
struct PreparedRequest {
    client: Client,
    url: String,
    secret: Option<String>,
}

impl Courier {
    /// Sends a notification.
    ///
    /// # Errors
    /// Why it was not sent.
    pub(super) async fn deliver(
        &self,
        row: &Notification,
        target: &Arc<NotifyTarget>,
    ) -> Result<Delivered, Undelivered> {
        let unread = |error: StoreError| Undelivered::now(format!("the deployment could not be read: {error}"));
        let Some(message) = self.message(row).await.map_err(unread)? else { return Ok(Delivered::NothingToTell) };
        let preparing = target.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&preparing)).await;
        let prepared = prepared.map_err(|_| Undelivered::now("the request could not be prepared"))??;
        self.tell(row, target, &message, prepared).await?;
        Ok(Delivered::Sent)
    }

    async fn tell(
        &self,
        row: &Notification,
        target: &NotifyTarget,
        message: &Message,
        PreparedRequest { client, url, secret }: PreparedRequest,
    ) -> Result<(), Undelivered> {
        let secret = secret.unwrap_or_default();
        let (headers, body) = match (target.kind, message.deployment()) {
            (TargetKind::Webhook, _) => {
                let body = message.body();
                (webhook::headers(&row.id, self.clock.wall(), &body, &secret)?, body)
            }
            (TargetKind::Slack, _) => (HeaderMap::new(), chat::slack(message).to_string().into_bytes()),
            (TargetKind::Teams, _) => (HeaderMap::new(), chat::teams(message).to_string().into_bytes()),
            (TargetKind::Github, Some(deployment)) => {
                return github::tell(&client, target, &url, &secret, message, deployment).await;
            }
            (TargetKind::Gitlab, Some(deployment)) => {
                return gitlab::tell(&client, target, &url, &secret, message, deployment).await;
            }
            (TargetKind::Github | TargetKind::Gitlab, None) => return Ok(()),
        };
        send(&client, target, Method::POST, &url, headers, Some(body)).await?.success().map(|_| ())
    }

    /// What it says; `None` where there is nothing to tell any more.
    async fn message(&self, row: &Notification) -> Result<Option<Message>, StoreError> {
        let Some(id) = row.deployment else { return Ok(Some(Message::of_pause(row))) };
        let Some(placed) = self.store.deployment(row.project.clone(), id).await? else { return Ok(None) };
        let public_url = self.public_url.as_deref();
        if row.event != NotificationEvent::Waiting {
            return Ok(Some(Message::of_deployment(row, &placed.deployment, None, public_url)));
        }
        if placed.deployment.status() != Status::Pending {
            return Ok(None);
        }
        let project = self.store.project(row.project.clone(), 0).await?;
        let now = self.clock.wall();
        let held_up = HeldUp {
            position: placed.position,
            holder: project.as_ref().and_then(|project| project.holder.as_ref()),
            pause: project.as_ref().and_then(|it| it.project.pause.as_ref()).filter(|pause| pause.lasts(now)),
        };
        Ok(Some(Message::of_deployment(row, &placed.deployment, Some(held_up), public_url)))
    }
}

fn prepare(target: &NotifyTarget) -> Result<PreparedRequest, Undelivered> {
    let url = match &target.url {
        TargetUrl::Url(url) => url.clone(),
        TargetUrl::Kept(source) => source.read().map_err(Undelivered::now)?,
    };
    let secret = target.secret.as_ref().map(|source| source.read().map_err(Undelivered::now)).transpose()?;
    Ok(PreparedRequest { client: client(target, &url)?, url, secret })
}
