//! Secret inputs at the door: told apart from the others, sealed, and kept out of what is recorded. See decision 0071.

use std::collections::BTreeMap;

use super::{App, error::ErrorAnswer};
use crate::{
    model::{DeploymentId, IdempotencyKey, Mention, ProjectName, RunBy, Spec},
    queue::sealed,
    wire::ErrorCode,
};

/// How keys begin that a client has made from the whole request.
const MADE_KEYS: [&str; 2] = ["ci-", "again-"];

/// The inputs of a deployment.
pub(super) struct Inputs {
    /// Those that everybody may see.
    pub(super) plain: BTreeMap<String, String>,
    /// What is shown of the others.
    pub(super) shown: BTreeMap<String, String>,
    /// The values of the others, sealed.
    pub(super) sealed: Option<Vec<u8>>,
}

impl App {
    /// Tells the secret inputs of a submit apart, and seals their values. `former` is what the deployment was asked for that is
    /// run again.
    ///
    /// # Errors
    /// That deployment had secret inputs which are not given again.
    pub(super) fn told_apart(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        executor: RunBy,
        inputs: BTreeMap<String, String>,
        former: Option<(&Spec, &Mention)>,
    ) -> Result<Inputs, ErrorAnswer> {
        let patterns = self.secret_inputs(project);
        let was_secret = |name: &str| former.is_some_and(|(spec, _)| spec.secret_inputs.contains_key(name));
        let (secret, mut plain): (BTreeMap<_, _>, BTreeMap<_, _>) =
            inputs.into_iter().partition(|(name, _)| patterns.has(name) || was_secret(name));
        if let Some((spec, mention)) = former.filter(|_| plain.is_empty()) {
            let gone: Vec<_> = spec.secret_inputs.keys().filter(|name| !secret.contains_key(*name)).collect();
            if let Some(first) = gone.first() {
                let names = gone.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(ErrorAnswer::new(
                    ErrorCode::SecretInputsGone,
                    format!(
                        "the values of the secret inputs of {mention} were kept until it ended, and no longer: {names}; give them \
                         again, such as --input {first}=VALUE"
                    ),
                ));
            }
            plain.clone_from(&spec.inputs);
        }
        let pepper = self.queue.store().pepper();
        let shown =
            secret.iter().map(|(name, value)| (name.clone(), sealed::shown(&pepper, id, name, value))).collect();
        let sealed = match executor {
            RunBy::Worker if !secret.is_empty() => Some(
                sealed::seal(&pepper, id, &secret)
                    .map_err(|_| ErrorAnswer::new(ErrorCode::Internal, "the secret inputs could not be sealed"))?,
            ),
            // The client has them itself.
            RunBy::Worker | RunBy::Submitter => None,
        };
        Ok(Inputs { plain, shown, sealed })
    }

    /// The key and the fingerprint under which a request is recorded. Those of a request with secret inputs are made with a key
    /// of this store, because a short value could be guessed by a plain digest.
    pub(super) fn recorded_key(
        &self,
        project: &ProjectName,
        (key, fingerprint): (IdempotencyKey, [u8; 32]),
        inputs: &BTreeMap<String, String>,
    ) -> (IdempotencyKey, [u8; 32]) {
        let patterns = self.secret_inputs(project);
        if !inputs.keys().any(|name| patterns.has(name)) {
            return (key, fingerprint);
        }
        let pepper = self.queue.store().pepper();
        let made = MADE_KEYS.iter().find(|begin| key.as_str().starts_with(**begin));
        let recorded = made.and_then(|begin| {
            let digest = sealed::keyed_digest(&pepper, "idempotency key", key.as_str().as_bytes());
            format!("{begin}{}", data_encoding::HEXLOWER.encode(&digest)).parse().ok()
        });
        (recorded.unwrap_or(key), sealed::keyed_digest(&pepper, "fingerprint", &fingerprint))
    }
}
