//! The peers: what people use today instead of Singletrack. Each peer is started from its package, and used in the way
//! that is best practice for it.

mod daemon;
mod etcd;
mod etcd_api;
mod flock;
mod grpc;
mod jobs;
mod nats;
mod nats_wire;
mod nchan;
mod postgres;
mod redis;
mod resp;

#[cfg(test)]
mod tests;

use crate::subject::Peer;

/// All peers, in the order of the report.
pub fn all() -> Vec<Peer> {
    vec![
        etcd::ETCD,
        redis::SET_NX,
        redis::BLPOP,
        nats::KV,
        postgres::ROW,
        postgres::ADVISORY,
        flock::FLOCK,
        etcd::ETCDCTL,
        nchan::ONE_WORKER,
        nchan::TWO_WORKERS,
        jobs::BULLMQ,
        jobs::PG_BOSS,
        jobs::GRAPHILE_WORKER,
        jobs::PROCRASTINATE,
    ]
}
