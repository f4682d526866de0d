//! The id of each request: in the answer's header, in an error's body, in the log and in the audit log. See decision 0077.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::http::HeaderMap;

use crate::{model::RequestId, wire::REQUEST_ID_HEADER};

/// Where this process begins to count: random, so that no other server and no earlier process counts from there.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(std::process::id())));

/// The step of the count: odd, so that all 2^64 values come before one comes again.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The id of a request with these headers: the one that a trusted proxy gave it, else a new one.
pub fn request_id(headers: &HeaderMap, is_by_trusted_proxy: bool) -> RequestId {
    let mut given = headers.get_all(REQUEST_ID_HEADER).iter();
    match (given.next(), given.next()) {
        (Some(given), None) if is_by_trusted_proxy => {
            given.to_str().ok().and_then(|given| given.parse().ok()).unwrap_or_else(new_request_id)
        }
        (Some(_) | None, _) => new_request_id(),
    }
}

/// A new id. Ids are told apart, and need not be secret.
pub fn new_request_id() -> RequestId {
    // SplitMix64: a permutation, so that no two ids of a process are equal.
    let mut mixed = NEXT.fetch_add(STEP, Ordering::Relaxed);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    RequestId::made(mixed ^ (mixed >> 31))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_comes_twice() {
        let ids: HashSet<_> = (0..10_000).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
