//! How long what was granted to a caller holds: until its token is revoked or expires. What waits on its behalf ends then.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Why a token gives no access any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEnd {
    /// Its time is over.
    Expired,
    /// Somebody has revoked it, or taken it out of the configuration.
    Revoked,
}

const VALID: u8 = 0;
const EXPIRED: u8 = 1;
const REVOKED: u8 = 2;

/// Whether a token still gives access. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Validity(Arc<ValidityState>);

#[derive(Debug, Default)]
struct ValidityState {
    end: AtomicU8,
    ended: CancellationToken,
}

impl Validity {
    /// Ends it. A token that has expired can still be revoked, but not the other way round.
    pub fn end(&self, how: AccessEnd) {
        let end = match how {
            AccessEnd::Expired => EXPIRED,
            AccessEnd::Revoked => REVOKED,
        };
        self.0.end.fetch_max(end, Ordering::AcqRel);
        self.0.ended.cancel();
    }

    /// How it ended, if it has.
    pub fn how_ended(&self) -> Option<AccessEnd> {
        match self.0.end.load(Ordering::Acquire) {
            VALID => None,
            EXPIRED => Some(AccessEnd::Expired),
            _ => Some(AccessEnd::Revoked),
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_expired_token_can_be_revoked_and_a_revoked_one_stays_so() {
        let validity = Validity::default();
        assert_eq!(validity.how_ended(), None);
        validity.end(AccessEnd::Expired);
        validity.ended().await;
        assert_eq!(validity.clone().how_ended(), Some(AccessEnd::Expired));
        validity.end(AccessEnd::Revoked);
        validity.end(AccessEnd::Expired);
        assert_eq!(validity.how_ended(), Some(AccessEnd::Revoked));
    }
}
