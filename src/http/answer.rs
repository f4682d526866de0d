//! Successful answers: JSON with the right headers, and the members that the wire adds to the model's deployments.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use serde::Serialize;

use super::error::ErrorAnswer;
use crate::{
    model::{Deployment, Eta, Lease, LeaseSecret, Project, State, order::is_same_run},
    store::Placed,
    watch::Seen,
    wire::{self, Blocker, Blocking, ErrorCode, Liveness, Relation},
};

/// An answer with this body.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match wire::ascii::to_vec(body) {
        Ok(bytes) => whole(status, bytes.into()),
        Err(error) => axum::response::IntoResponse::into_response(formless(&error)),
    }
}

/// A deployment as it was read. Other requests may share the same read.
///
/// # Errors
/// It cannot be encoded; that is a fault of ours.
pub fn seen(seen: &Seen) -> Result<Response, ErrorAnswer> {
    let bytes = match seen.encoded.get() {
        Some(bytes) => bytes.clone(),
        None => {
            let body = wire::Deployment::of(&seen.deployment, seen.position);
            let bytes = Bytes::from(wire::ascii::to_vec(&body).map_err(|error| formless(&error))?);
            seen.encoded.get_or_init(|| bytes).clone()
        }
    };
    Ok(whole(StatusCode::OK, bytes))
}

/// The size of a value on the wire, in bytes.
pub fn size(body: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // A value that has no JSON form causes an error where it is answered.
    let _ = serde_json::to_writer(&mut count, body);
    count.0
}

fn whole(status: StatusCode, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn formless(error: &serde_json::Error) -> ErrorAnswer {
    tracing::error!(%error, "an answer has no JSON form");
    ErrorAnswer::new(ErrorCode::Internal, "the server has a fault")
}

/// A deployment on the wire.
pub fn deployment(placed: &Placed) -> wire::Deployment {
    wire::Deployment::of(&placed.deployment, placed.position)
}

/// A deployment that does not wait in line, on the wire.
pub fn unplaced(deployment: &Deployment) -> wire::Deployment {
    wire::Deployment::of(deployment, 0)
}

/// A lease for its worker. No other caller may see it.
pub fn lease(lease: &Lease, secret: &LeaseSecret) -> wire::Lease {
    wire::Lease { secret: secret.reveal(), fencing_token: lease.fencing_token, ttl_seconds: lease.ttl.as_secs() }
}

/// The members that describe the holder of the slot.
pub fn blocker(blocker: &Deployment, project: &Project, now: jiff::Timestamp, own_url: Option<&str>) -> Blocker {
    let spec = &blocker.spec;
    // A job that waits for a deployment of its own run waits for itself.
    let relation = if is_same_run(own_url, spec.url.as_deref()) { Relation::Own } else { Relation::Other };
    Blocker {
        deployment_id: blocker.id,
        blocking: Blocking {
            number: Some(blocker.number),
            actor: spec.actor.clone(),
            ref_name: spec.ref_name.clone(),
            commit: spec.commit.clone(),
            url: spec.url.clone(),
            pipeline: spec.pipeline.clone(),
            status: blocker.status(),
            phase: blocker.phase.clone(),
            message: blocker.message.clone(),
            progress: blocker.progress,
            started_at: blocker.started_at,
            last_heartbeat_at: blocker.last_heartbeat_at,
            cancel_requested_at: blocker.cancel.as_ref().map(|cancel| cancel.at),
            liveness: liveness(blocker, now),
            eta: eta(blocker, project, now),
        },
        relation,
    }
}

/// Whether the holder's worker lives, judged by its last heartbeat. For display only: the reaper decides by its own
/// observation.
pub fn liveness(holder: &Deployment, now: jiff::Timestamp) -> Liveness {
    let State::Running(lease) = &holder.state else { return Liveness::Alive };
    let silent_ms = holder.last_heartbeat_at.map_or(0, |at| now.as_millisecond() - at.as_millisecond());
    let silent = std::time::Duration::from_millis(u64::try_from(silent_ms).unwrap_or(0));
    // Heartbeats come every sixth of a lease: after half of it several are missing.
    if silent >= lease.ttl {
        Liveness::Lost
    } else if silent >= lease.ttl / 2 {
        Liveness::Silent
    } else {
        Liveness::Alive
    }
}

/// How much longer the holder is expected to take.
pub fn eta(holder: &Deployment, project: &Project, now: jiff::Timestamp) -> Option<Eta> {
    project.rest_of(holder, now)
}
