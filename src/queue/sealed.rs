//! Secret inputs: how their values are kept from the submit to the worker, and what is shown of them. See decision 0071.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hmac,
};
use data_encoding::HEXLOWER;
use tokio::time::sleep;

use super::Queue;
use crate::{
    model::{Deployment, DeploymentId, Pepper, RunBy},
    store::StoreError,
};

/// The length of the nonce that stands before the sealed text.
const NONCE_BYTES: usize = 12;
/// How many bytes of a hash are shown: enough to tell two values of one deployment apart.
const SHOWN_BYTES: usize = 16;
/// How often the sealed values of a deployment that was just claimed are read at most.
const READS_LIMIT: u32 = 5;
/// The pause between two reads.
const READ_PAUSE: Duration = Duration::from_millis(300);

/// Why the values of secret inputs are not there.
pub(super) enum NoValues {
    /// They are gone, or were sealed under another store's secret.
    Gone,
    /// The store did not answer.
    Store(StoreError),
}

/// A key of this store for one purpose and one deployment.
fn key(pepper: &Pepper, purpose: &str, id: DeploymentId) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, pepper.as_bytes()));
    context.update(purpose.as_bytes());
    context.update(id.as_bytes());
    context.sign()
}

/// Seals the values of a deployment's secret inputs.
///
/// # Errors
/// The system gives no random bytes.
pub fn seal(
    pepper: &Pepper,
    id: DeploymentId,
    values: &BTreeMap<String, String>,
) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
    let mut text = serde_json::to_vec(values).map_err(|_| aws_lc_rs::error::Unspecified)?;
    let sealing = RandomizedNonceKey::new(&AES_256_GCM, key(pepper, "sealed inputs", id).as_ref())?;
    let nonce = sealing.seal_in_place_append_tag(Aad::from(id.as_bytes()), &mut text)?;
    Ok([nonce.as_ref().as_slice(), text.as_slice()].concat())
}

fn open(pepper: &Pepper, id: DeploymentId, sealed: &[u8]) -> Option<BTreeMap<String, String>> {
    let (nonce, text) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let opening = RandomizedNonceKey::new(&AES_256_GCM, key(pepper, "sealed inputs", id).as_ref()).ok()?;
    let mut text = text.to_vec();
    let opened = opening.open_in_place(nonce, Aad::from(id.as_bytes()), &mut text).ok()?;
    serde_json::from_slice(opened).ok()
}

/// What is shown of a secret value: a hash under a key of this store and this deployment, so that nobody can guess the value by
/// it, and so that the same value looks different in each deployment.
pub fn shown(pepper: &Pepper, id: DeploymentId, name: &str, value: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key(pepper, "shown inputs", id).as_ref());
    let mut context = hmac::Context::with_key(&key);
    context.update(name.as_bytes());
    context.update(&[0]);
    context.update(value.as_bytes());
    format!("hmac-sha256:{}", HEXLOWER.encode(&context.sign().as_ref()[..SHOWN_BYTES]))
}

/// A digest of a request that has secret inputs, under a key of this store: without the key nobody can guess the values by it.
pub fn keyed_digest(pepper: &Pepper, purpose: &str, digest: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, pepper.as_bytes()));
    context.update(purpose.as_bytes());
    context.update(digest);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.sign().as_ref());
    bytes
}

impl Queue {
    /// The values of the secret inputs of a deployment that was claimed. Without secret inputs, nothing is read.
    pub(super) async fn secret_inputs(&self, deployment: &Deployment) -> Result<BTreeMap<String, String>, NoValues> {
        if deployment.spec.secret_inputs.is_empty() || deployment.spec.executor == RunBy::Submitter {
            return Ok(BTreeMap::new());
        }
        let mut read_count = 0;
        let sealed = loop {
            read_count += 1;
            match self.store.sealed_inputs(deployment.id).await {
                Ok(sealed) => break sealed,
                Err(error) if read_count == READS_LIMIT => return Err(NoValues::Store(error)),
                Err(error) => {
                    tracing::warn!(deployment.id = %deployment.id, %error, "secret inputs could not be read yet")
                }
            }
            sleep(READ_PAUSE).await;
        };
        let values = sealed.and_then(|sealed| open(&self.store.pepper(), deployment.id, &sealed));
        let values = values.filter(|values| deployment.spec.secret_inputs.keys().all(|name| values.contains_key(name)));
        values.ok_or(NoValues::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_values_open_for_their_own_deployment_in_their_own_store_only() {
        let (pepper, other) = (Pepper::from_bytes([1; 32]), Pepper::from_bytes([2; 32]));
        let [one, two] = [1, 2].map(|byte| DeploymentId::from_bytes([byte; 16]));
        let values = BTreeMap::from([("DB_TOKEN".to_owned(), "hunter2".to_owned())]);
        let sealed = seal(&pepper, one, &values).expect("randomness");
        assert_eq!(open(&pepper, one, &sealed), Some(values.clone()));
        assert_eq!(open(&pepper, two, &sealed), None);
        assert_eq!(open(&other, one, &sealed), None);
        assert_eq!(open(&pepper, one, &sealed[..5]), None);
        assert_ne!(seal(&pepper, one, &values).expect("randomness"), sealed, "each time under another nonce");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
    }

    #[test]
    fn the_same_value_looks_different_in_each_deployment_and_under_each_name() {
        let pepper = Pepper::from_bytes([1; 32]);
        let [one, two] = [1, 2].map(|byte| DeploymentId::from_bytes([byte; 16]));
        let hash = shown(&pepper, one, "A", "x");
        assert_eq!(hash, shown(&pepper, one, "A", "x"));
        assert!(hash.starts_with("hmac-sha256:") && hash.len() == 12 + 32, "{hash}");
        assert_ne!(hash, shown(&pepper, one, "A", "y"));
        assert_ne!(hash, shown(&pepper, one, "B", "x"));
        assert_ne!(hash, shown(&pepper, two, "A", "x"));
    }
}
