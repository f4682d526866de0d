//! Takes a leaked secret out of the output and the record of one deployment, for good. See decision 0080.

use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use crate::{
    model::{DeploymentId, EventBody},
    store::{
        RedactRoom, StoreError,
        blocks::{BLOCK_BYTES, Block, StoredEvent},
        redact::RowTexts,
    },
};

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";
/// A shorter value would stand in every other line by chance.
const VALUE_MIN: usize = 4;
/// How many rows are looked at together.
const PAGE_LIMIT: usize = 200;
/// It goes over everything until nothing is found, because the compression may have been at work at the same time; but no
/// more often than this.
const PASSES_MAX: usize = 4;

/// What is to be taken out. It is never shown.
pub enum LeakedSecret {
    /// These texts. A text with line ends is looked for line by line, as output is kept.
    Values(Vec<String>),
    /// Whatever matches.
    Pattern(Regex),
}

/// What a redaction changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedactCount {
    /// How many events were changed.
    pub events: u64,
    /// Whether the record itself was changed: its message, inputs, outputs or reasons.
    pub is_record_changed: bool,
    /// How many blocks of output are damaged, so that they could not be searched.
    pub damaged_blocks: u64,
    /// Whether everything was overwritten that the store itself keeps.
    pub is_scrubbed: bool,
}

impl LeakedSecret {
    /// This value, without the line end behind it.
    ///
    /// # Errors
    /// It is too short.
    pub fn value(text: &str) -> Result<LeakedSecret, &'static str> {
        let lines = text.lines().map(str::trim_end).filter(|line| line.chars().count() >= VALUE_MIN);
        let mut values: Vec<_> = lines.map(str::to_owned).collect();
        // The longest first, in case one stands within another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        if values.is_empty() { Err("the value has fewer than 4 characters") } else { Ok(LeakedSecret::Values(values)) }
    }

    /// Whatever matches this regular expression.
    ///
    /// # Errors
    /// It is none, or matches the empty text. The error does not show it.
    pub fn pattern(text: &str) -> Result<LeakedSecret, &'static str> {
        let pattern = Regex::new(text).map_err(|_| "the pattern is not a regular expression")?;
        if pattern.is_match("") {
            Err("the pattern matches the empty text")
        } else {
            Ok(LeakedSecret::Pattern(pattern))
        }
    }

    /// Whether the text holds it.
    pub fn is_in(&self, text: &str) -> bool {
        self.clean(text).is_some()
    }

    /// The text without the secret; `None` if it is not in there.
    fn clean(&self, text: &str) -> Option<String> {
        match self {
            LeakedSecret::Values(values) => {
                let found = values.iter().any(|value| text.contains(value.as_str()));
                found.then(|| values.iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), REDACTED)))
            }
            LeakedSecret::Pattern(pattern) => {
                let cleaned = pattern.replace_all(text, regex::NoExpand(REDACTED));
                (cleaned != text).then(|| cleaned.into_owned())
            }
        }
    }

    fn clean_here(&self, text: &mut String) -> bool {
        self.clean(text).map(|cleaned| *text = cleaned).is_some()
    }

    fn clean_option(&self, text: &mut Option<String>) -> bool {
        text.as_mut().is_some_and(|text| self.clean_here(text))
    }

    fn clean_body(&self, body: &mut EventBody) -> bool {
        match body {
            EventBody::Log { lines, .. } => {
                lines.iter_mut().filter_map(|line| self.clean_here(line).then_some(())).count() > 0
            }
            EventBody::Output { value, .. } => self.clean_here(value),
            EventBody::Phase { message, .. } | EventBody::Progress { message, .. } => self.clean_option(message),
            EventBody::Cancel { reason, .. } => self.clean_option(reason),
            EventBody::Queue { .. } | EventBody::Status { .. } | EventBody::Gap { .. } | EventBody::Complete => false,
        }
    }

    fn clean_event(&self, event: &StoredEvent) -> Option<StoredEvent> {
        let mut body: EventBody = serde_json::from_str(&event.body).ok()?;
        if !self.clean_body(&mut body) {
            return None;
        }
        Some(StoredEvent { body: serde_json::to_string(&body).ok()?, ..event.clone() })
    }

    /// Every text in a JSON value.
    fn clean_value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => self.clean_here(text),
            Value::Array(items) => items.iter_mut().filter_map(|item| self.clean_value(item).then_some(())).count() > 0,
            Value::Object(members) => {
                members.values_mut().filter_map(|item| self.clean_value(item).then_some(())).count() > 0
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// These members of a JSON object, or all of them.
    fn clean_json(&self, text: &mut String, members: Option<&[&str]>) -> bool {
        let Ok(Value::Object(mut object)) = serde_json::from_str(text) else { return false };
        let mut found = false;
        for (name, value) in &mut object {
            if members.is_none_or(|members| members.contains(&name.as_str())) {
                found |= self.clean_value(value);
            }
        }
        if found {
            *text = Value::Object(object).to_string();
        }
        found
    }

    fn clean_row(&self, texts: &RowTexts) -> Option<RowTexts> {
        /// Of a spec, the members that clients write freely; the others have a form, without which the row is broken.
        const FREE: &[&str] = &["ref", "commit", "message", "actor", "url", "inputs", "retryOfNamed"];
        let mut texts = texts.clone();
        let RowTexts { spec, outputs, rollbacks, message, cause_message, cancel_reason } = &mut texts;
        let mut found = self.clean_json(spec, Some(FREE)) | self.clean_json(outputs, None);
        found |= rollbacks.as_mut().is_some_and(|rollbacks| self.clean_json(rollbacks, None));
        for text in [message, cause_message, cancel_reason] {
            found |= self.clean_option(text);
        }
        found.then_some(texts)
    }
}

/// Takes the secret out of everything that is recorded of a deployment by now.
///
/// # Errors
/// The store does not answer. What was changed so far stays so; the same call may be made again.
pub async fn redact(room: &dyn RedactRoom, id: DeploymentId, secret: LeakedSecret) -> Result<RedactCount, StoreError> {
    let secret = Arc::new(secret);
    let mut count = RedactCount::default();
    for _ in 0..PASSES_MAX {
        let found = redact_rows(room, id, &secret).await? + redact_blocks(room, id, &secret, &mut count).await?;
        count.events += found;
        let by = secret.clone();
        let is_changed = room.rewrite_row(id, Arc::new(move |texts| by.clean_row(texts))).await?;
        count.is_record_changed |= is_changed;
        if found == 0 && !is_changed {
            break;
        }
    }
    count.is_scrubbed = room.scrub().await?;
    Ok(count)
}

async fn redact_rows(room: &dyn RedactRoom, id: DeploymentId, secret: &LeakedSecret) -> Result<u64, StoreError> {
    let (mut after, mut count) = (0, 0);
    loop {
        let page = room.event_rows(id, after, PAGE_LIMIT).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = last.seq;
        let (mut changed, mut bytes) = (Vec::new(), 0);
        for event in page.iter().filter_map(|event| secret.clean_event(event)) {
            bytes += event.body.len();
            changed.push(event);
            count += 1;
            // Small transactions, so that deploys go on beside them.
            if bytes >= BLOCK_BYTES {
                room.rewrite_events(id, std::mem::take(&mut changed)).await?;
                bytes = 0;
            }
        }
        if !changed.is_empty() {
            room.rewrite_events(id, changed).await?;
        }
    }
}

async fn redact_blocks(
    room: &dyn RedactRoom,
    id: DeploymentId,
    secret: &LeakedSecret,
    told: &mut RedactCount,
) -> Result<u64, StoreError> {
    let (mut after, mut count, mut damaged) = (0, 0, 0);
    while let Some(block) = room.block_after(id, after).await? {
        after = block.last_seq.max(after + 1);
        let Ok(mut events) = block.events() else {
            damaged += 1;
            continue;
        };
        let mut found = 0;
        for event in &mut events {
            if let Some(cleaned) = secret.clean_event(event) {
                *event = cleaned;
                found += 1;
            }
        }
        if found > 0
            && let Some(block) = Block::of(&events).map_err(StoreError::Unavailable)?
        {
            room.rewrite_block(id, block).await?;
            count += found;
        }
    }
    told.damaged_blocks = damaged;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_each_of_its_lines_and_a_pattern_is_no_trap() {
        let secret = LeakedSecret::value("-----BEGIN-----\nabcdefgh\n\nxy\n").unwrap();
        assert_eq!(secret.clean("key: abcdefgh!").as_deref(), Some("key: [redacted]!"));
        assert_eq!(secret.clean("xy is too short to be looked for"), None);
        assert!(LeakedSecret::value("abc\n").is_err());
        assert!(LeakedSecret::pattern("a*").is_err());
        assert!(LeakedSecret::pattern("(").is_err());
        let pattern = LeakedSecret::pattern("ghp_[A-Za-z0-9]+").unwrap();
        assert_eq!(pattern.clean("a ghp_1 b ghp_2").as_deref(), Some("a [redacted] b [redacted]"));
    }

    #[test]
    fn of_a_spec_what_has_a_form_stays() {
        let texts = RowTexts {
            spec: r#"{"pipeline":"deploy","message":"deploy it","inputs":{"a":"deploy"},"executor":"server"}"#
                .to_owned(),
            outputs: r#"{"url":"deploy"}"#.to_owned(),
            rollbacks: None,
            message: Some("deploy".to_owned()),
            cause_message: None,
            cancel_reason: None,
        };
        let cleaned = LeakedSecret::value("deploy").unwrap().clean_row(&texts).unwrap();
        let spec: Value = serde_json::from_str(&cleaned.spec).unwrap();
        assert_eq!(spec["pipeline"], "deploy");
        assert_eq!((&spec["message"], &spec["inputs"]["a"]), (&"[redacted] it".into(), &REDACTED.into()));
        assert_eq!((cleaned.outputs.as_str(), cleaned.message.as_deref()), (r#"{"url":"[redacted]"}"#, Some(REDACTED)));
    }
}
