//! Reads what a PostgreSQL store holds, past everything that serves it.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::{NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::history::{Kept, KeptEvent};

const DEPLOYMENTS: &str = "SELECT p.name, d.id, d.ticket, d.revision, d.state, d.fencing_token, d.event_count, \
    (d.log_trimmed_at_bytes > 0)::int, k.key, d.spec FROM singletrack.deployments AS d \
    JOIN singletrack.projects AS p ON p.number = d.project \
    LEFT JOIN singletrack.idempotency_keys AS k ON k.deployment = d.number ORDER BY d.number";

const EVENTS: &str = "SELECT d.id, e.seq, e.type, e.body FROM singletrack.events AS e \
    JOIN singletrack.deployments AS d ON d.number = e.deployment ORDER BY e.deployment, e.seq";

/// All deployments with their events, as of one moment.
pub async fn read(url: &str) -> Result<Vec<Kept>, String> {
    let failed = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(told) => told.message().to_owned(),
        None => error.to_string(),
    };
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(failed)?;
    tokio::spawn(connection);
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
    let mut kept = Vec::new();
    let mut places = HashMap::new();
    for row in rows(client.simple_query(DEPLOYMENTS).await.map_err(failed)?) {
        let deployment = deployment(&row)?;
        places.insert(deployment.id.clone(), kept.len());
        kept.push(deployment);
    }
    for row in rows(client.simple_query(EVENTS).await.map_err(failed)?) {
        let place = places.get(text(&row, 0)?).ok_or("an event of no deployment")?;
        let body: Value = serde_json::from_str(text(&row, 3)?).map_err(|error| error.to_string())?;
        let lines = body["lines"].as_array().into_iter().flatten();
        let lines = lines.map(|line| line.as_str().unwrap_or_default().to_owned()).collect();
        kept[*place].events.push(KeptEvent { seq: number(&row, 1)?, kind: text(&row, 2)?.to_owned(), lines });
    }
    Ok(kept)
}

fn deployment(row: &SimpleQueryRow) -> Result<Kept, String> {
    let state = text(row, 4)?;
    let status = match state {
        "waiting" | "reserved" | "ready" => "PENDING".to_owned(),
        other => other.to_uppercase(),
    };
    let spec: Value = serde_json::from_str(text(row, 9)?).map_err(|error| error.to_string())?;
    Ok(Kept {
        project: text(row, 0)?.to_owned(),
        id: text(row, 1)?.to_owned(),
        ticket: number(row, 2)?,
        revision: number(row, 3)?,
        status,
        holds_slot: matches!(state, "reserved" | "ready" | "running"),
        fencing_token: row.get(5).map(|_| number(row, 5)).transpose()?,
        event_count: number(row, 6)?,
        events: Vec::new(),
        is_trimmed: number(row, 7)? != 0,
        key: row.get(8).map(str::to_owned),
        commit: spec["commit"].as_str().map(str::to_owned),
    })
}

fn rows(messages: Vec<SimpleQueryMessage>) -> impl Iterator<Item = SimpleQueryRow> {
    messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn text(row: &SimpleQueryRow, at: usize) -> Result<&str, String> {
    row.get(at).ok_or_else(|| format!("column {at} is empty"))
}

fn number(row: &SimpleQueryRow, at: usize) -> Result<u64, String> {
    text(row, at)?.parse().map_err(|_| format!("column {at} is no number"))
}
