//! A worker's claim on a running deployment: a secret that proves it, and a fencing token that orders it.
//! See decision 0012.

use std::{fmt, str::FromStr, time::Duration};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::ids::{DeploymentId, Revision};

/// The secret that the servers of one store share, and that nobody else knows.
#[derive(Clone, Copy)]
pub struct Pepper([u8; 32]);

impl Pepper {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Pepper(bytes))
    }

    /// The pepper with these bytes, as a store keeps it.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Pepper(bytes)
    }

    /// Its bytes, for a store to keep.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// The proof that a worker sends with each call: 256 bits that cannot be guessed, and are never stored.
#[derive(Clone)]
pub struct LeaseSecret([u8; 32]);

impl LeaseSecret {
    /// The secret of a deployment's lease with this fencing token: an HMAC under the store's own secret. So a worker
    /// whose answer was lost can be told its secret again, although the secret is stored nowhere. A deployment has one
    /// lease in its life, but a restored store, or a database after a failover, may have forgotten the claim and grant
    /// a second lease. The second lease has another token, and so another secret: the first worker does not pass for
    /// the second.
    pub fn derive(pepper: &Pepper, deployment: DeploymentId, token: Revision) -> Self {
        LeaseSecret::hmac(pepper, &[deployment.as_bytes(), &token.0.to_be_bytes()])
    }

    /// The secret of this lease. Earlier versions made it without the token.
    pub fn of(pepper: &Pepper, deployment: DeploymentId, lease: &Lease) -> Self {
        let secret = LeaseSecret::derive(pepper, deployment, lease.fencing_token);
        let former = LeaseSecret::hmac(pepper, &[deployment.as_bytes()]);
        if former.hash() == lease.secret { former } else { secret }
    }

    fn hmac(pepper: &Pepper, message: &[&[u8]]) -> Self {
        // HMAC (RFC 2104) with SHA-256, whose blocks are 64 bytes; the key is shorter.
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block.iter_mut().zip(pepper.0).for_each(|(block, key)| *block ^= key);
            block
        };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(b"lease");
        let inner = message.iter().fold(inner, |inner, part| inner.chain_update(part));
        LeaseSecret(Sha256::new().chain_update(pad(0x5c)).chain_update(inner.finalize()).finalize().into())
    }

    /// The secret for the wire: 64 hexadecimal digits.
    pub fn reveal(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The hash of it, which the store keeps.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for LeaseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseSecret(…)")
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a lease is 64 hexadecimal digits")]
pub struct InvalidLease;

impl FromStr for LeaseSecret {
    type Err = InvalidLease;

    fn from_str(text: &str) -> Result<Self, InvalidLease> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| InvalidLease)?;
        Ok(LeaseSecret(bytes.try_into().map_err(|_| InvalidLease)?))
    }
}

/// SHA-256 of a secret: proves that a caller knows the secret, and does not reveal it.
#[derive(Clone, Copy, Debug)]
pub struct SecretHash(pub [u8; 32]);

// Compared in constant time, so that an answer's delay tells nothing.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

/// The worker that runs a deployment, and how long its lease lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Proof of ownership.
    pub secret: SecretHash,
    /// The revision of the claim: strictly greater than that of every earlier lease of the project.
    pub fencing_token: Revision,
    /// How long it lasts after the last answered heartbeat.
    pub ttl: Duration,
    /// The holder of the lease. A server that starts again finds by it the runs of its predecessor.
    pub holder: LeaseHolder,
}

/// Stands between an agent's name and its claim id; neither may contain it.
const CLAIM_SEPARATOR: char = '\u{1f}';

/// The holder of a lease: a worker's name, and for an agent also the id of the claim by which it took the deployment.
/// By the id, an agent that repeats the call gets the same deployment again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseHolder(String);

impl LeaseHolder {
    /// A worker that holds leases by its name alone: the server's own worker, or the client of a `run`.
    pub fn worker(name: impl Into<String>) -> Self {
        LeaseHolder(name.into())
    }

    /// An agent that takes a deployment by this claim.
    pub fn agent(name: &str, claim_id: &str) -> Self {
        LeaseHolder(format!("{name}{CLAIM_SEPARATOR}{claim_id}"))
    }

    /// The holder that a store kept as this text.
    pub const fn from_stored(text: String) -> Self {
        LeaseHolder(text)
    }

    /// The text that a store keeps.
    pub fn as_stored(&self) -> &str {
        &self.0
    }

    /// The worker's name, for people.
    pub fn worker_name(&self) -> &str {
        self.0.split_once(CLAIM_SEPARATOR).map_or(&*self.0, |(name, _)| name)
    }

    /// The id of the claim, if the holder is an agent.
    pub fn claim_id(&self) -> Option<&str> {
        self.0.split_once(CLAIM_SEPARATOR).map(|(_, claim_id)| claim_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_known_by_its_parts_also_when_it_comes_from_the_store() {
        let agent = LeaseHolder::agent("builder-1", "c7");
        assert_eq!(agent.as_stored(), "builder-1\u{1f}c7");
        let stored = LeaseHolder::from_stored(agent.as_stored().to_owned());
        assert_eq!((stored.worker_name(), stored.claim_id()), ("builder-1", Some("c7")));
        let server = LeaseHolder::worker("server");
        assert_eq!((server.worker_name(), server.claim_id()), ("server", None));
    }
}
