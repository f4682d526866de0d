//! Texts for chats. What users wrote is shown as it is: it can neither format the text, nor mention anybody, nor lead
//! anywhere.

use std::time::Duration;

use serde_json::{Value, json};

use super::message::{Message, ToldDeployment, ToldOf, is_link};
use crate::{config::format_duration, model::NotificationEvent};

/// How many digits of a commit are shown.
const COMMIT_DIGITS: usize = 10;
/// Breaks a character of formatting off from the word after it, and is not seen.
const BREAK: char = '\u{200b}';

/// A message as lines of text and links.
struct ChatText {
    text: Vec<String>,
    links: Vec<(&'static str, String)>,
}

/// The body for Slack, and for chats that take the same.
pub(super) fn slack(message: &Message) -> Value {
    let ChatText { text, links } = lines(message);
    let mut all: Vec<String> = text.iter().map(|line| escape_mrkdwn(line)).collect();
    let links: Vec<String> = links
        .iter()
        .map(|(name, url)| {
            format!(
                "<{}|{name}>",
                url.replace('|', "%7C").replace('<', "%3C").replace('>', "%3E").replace('&', "&amp;")
            )
        })
        .collect();
    if !links.is_empty() {
        all.push(links.join(" · "));
    }
    json!({ "text": all.join("\n"), "unfurl_links": false, "unfurl_media": false })
}

/// The body for Teams: a card whose texts have no formatting, and buttons for the links.
pub(super) fn teams(message: &Message) -> Value {
    let ChatText { text, links } = lines(message);
    let block = |(place, line): (usize, &String)| {
        let run = json!({ "type": "TextRun", "text": line, "weight": if place == 0 { "bolder" } else { "default" } });
        json!({ "type": "RichTextBlock", "inlines": [run] })
    };
    let blocks: Vec<_> = text.iter().enumerate().map(block).collect();
    let actions: Vec<_> =
        links.iter().map(|(name, url)| json!({ "type": "Action.OpenUrl", "title": name, "url": url })).collect();
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": blocks,
                "actions": actions,
            },
        }],
    })
}

/// One line, for a forge.
pub(super) fn title(message: &Message) -> String {
    lines(message).text.into_iter().next().unwrap_or_default()
}

fn lines(message: &Message) -> ChatText {
    let project = &message.project;
    match &message.told {
        ToldOf::Pause(pause) => {
            let who = match (&pause.actor, &pause.by) {
                (Some(actor), Some(by)) => Some(format!("{actor} ({by})")),
                (actor, by) => actor.clone().or_else(|| by.clone()),
            };
            let what = match (message.event, who) {
                (NotificationEvent::Paused, Some(who)) => format!("{project} was paused by {who}"),
                (NotificationEvent::Paused, None) => format!("{project} was paused"),
                (_, Some(who)) => format!("{project} was resumed by {who}"),
                (_, None) => format!("{project}: the pause is over"),
            };
            let until = pause.until.map(|until| format!("until {until:.0}"));
            let text = [Some(what), pause.reason.clone(), until].into_iter().flatten();
            ChatText { text: text.map(|line| super::message::shortened(&line)).collect(), links: Vec::new() }
        }
        ToldOf::Deployment(deployment) => {
            let mut text = vec![what(message, deployment)];
            text.extend(from(deployment));
            text.extend(deployment.message.clone());
            let links = [
                ("CI run", deployment.url.clone()),
                ("deployment", message.link.clone()),
                ("environment", deployment.environment_url.clone()),
            ];
            let links = links.into_iter().filter_map(|(name, url)| Some((name, url.filter(|url| is_link(url))?)));
            ChatText { text, links: links.collect() }
        }
    }
}

/// What happened: `web#17 failed after 3m2s in migrate: the command ended with 1`.
fn what(message: &Message, deployment: &ToldDeployment) -> String {
    let name = format!("{}#{}", message.project, deployment.number);
    let after = deployment.run_seconds.map(|seconds| format!(" after {}", lasted(seconds))).unwrap_or_default();
    let because = |why: &Option<String>| why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let by = |who: &Option<String>| who.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    match message.event {
        NotificationEvent::Started => {
            let waited = deployment.wait_seconds.filter(|seconds| *seconds > 0);
            let waited = waited.map(|seconds| format!(", it waited {}", lasted(seconds))).unwrap_or_default();
            let what = if deployment.is_rollback { "started, a rollback" } else { "started" };
            format!("{name} {what}{waited}")
        }
        NotificationEvent::Succeeded => format!("{name} succeeded{after}"),
        NotificationEvent::Failed => {
            let phase = deployment.phase.as_ref().map(|phase| format!(" in {phase}")).unwrap_or_default();
            format!("{name} failed{after}{phase}{}", because(&deployment.error_message))
        }
        NotificationEvent::Superseded => {
            format!("{name} was superseded{}{after}", by(&deployment.superseded_by))
        }
        NotificationEvent::Cancelled => {
            let why = deployment.cancel_reason.clone().or_else(|| deployment.error_message.clone());
            format!("{name} was cancelled{}{after}{}", by(&deployment.cancelled_by), because(&why))
        }
        NotificationEvent::Released => {
            format!(
                "{name} was ended by force{}{after}{}",
                by(&deployment.released_by),
                because(&deployment.error_message)
            )
        }
        NotificationEvent::Waiting => {
            let since = format!("{name} has not started, and waits since {:.0}", deployment.created_at);
            let place = deployment.position.map(|position| format!(", number {position} in line")).unwrap_or_default();
            format!("{since}{place}{}", because(&deployment.waits_for))
        }
        NotificationEvent::Paused | NotificationEvent::Resumed => name,
    }
}

/// Who deploys what: `alice · main · 3f2a91c07e`.
fn from(deployment: &ToldDeployment) -> Option<String> {
    let commit = deployment.commit.as_ref().map(|commit| commit.chars().take(COMMIT_DIGITS).collect::<String>());
    let who = deployment.actor.clone().or_else(|| deployment.submitted_by.clone());
    let known: Vec<_> = [who, deployment.ref_name.clone(), commit].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(" · "))
}

fn lasted(seconds: i64) -> String {
    format_duration(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Slack reads `&`, `<` and `>` as its own in any place, and `*`, `_`, `~` and backticks before a word or after it.
fn escape_mrkdwn(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '*' | '_' | '~' | '`' | '@' | '[' => escaped.extend([BREAK, letter, BREAK]),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_formats_nothing_and_mentions_nobody() {
        let escaped = escape_mrkdwn("<!channel> <https://evil.example|click> *bold* _x_ `code` & @here");
        assert!(!escaped.contains('<') && !escaped.contains('>'), "{escaped}");
        assert!(escaped.contains("&lt;!channel&gt;") && escaped.contains("&amp;"), "{escaped}");
        assert!(!escaped.contains("*bold") && !escaped.contains("`code") && !escaped.contains("@here"), "{escaped}");
    }
}
