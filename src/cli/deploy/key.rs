//! The idempotency key of a submit: given by a flag, or generated. See decision 0047.
//!
//! A generated key attaches a repeated step to the deployment of its first attempt while that deployment is not final. After
//! that, a repeated step is meant to deploy again: its key is derived from the former key and that deployment, so that two
//! racing repetitions still make one deployment. A key from a flag is never changed.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::{
    cli::{
        ci::CiRun,
        exit::{Exit, Failure},
    },
    model::{IdempotencyKey, InvalidId, ProjectName},
};

/// The key of a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    key: IdempotencyKey,
    /// How many more keys may follow: none after a given key, and none after a random key, under which nothing can be found.
    followers_left: u32,
}

/// How often one step of a job may be repeated: more often than any real step, and still bounded.
const REPEATS_LIMIT: u32 = 100;

impl Key {
    /// A key that the user gave.
    pub fn given(key: IdempotencyKey) -> Self {
        Key { key, followers_left: 0 }
    }

    /// A key from what the CI says about the job, else a random one.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn made(ci: Option<&CiRun>, project: &ProjectName, body: &[u8]) -> Result<Self, Failure> {
        let (text, followers_left) = match ci.and_then(|ci| ci.key(project.as_str(), body)) {
            Some(text) => (text, REPEATS_LIMIT),
            None => {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)
                    .map_err(|error| Failure::new(Exit::Fault, format!("the system gives no random bytes: {error}")))?;
                (format!("cli-{}", HEXLOWER.encode(&bytes)), 0)
            }
        };
        let key = text.parse().map_err(|error: InvalidId| Failure::new(Exit::Fault, error.to_string()))?;
        Ok(Key { key, followers_left })
    }

    /// The key as it is sent.
    pub fn get(&self) -> &IdempotencyKey {
        &self.key
    }

    /// The next key after a key from the CI whose deployment is final; `None` after the hundredth, and after any other kind
    /// of key.
    pub fn after(&self, over: &str) -> Option<Self> {
        let followers_left = self.followers_left.checked_sub(1)?;
        let mut digest = Sha256::new();
        digest.update(self.key.as_str());
        digest.update([0]);
        digest.update(over);
        let key = format!("again-{}", HEXLOWER.encode(&digest.finalize())).parse().ok()?;
        Some(Key { key, followers_left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ci::System;

    #[test]
    fn the_key_that_follows_is_the_same_for_all_who_look_and_another_each_time() {
        let project = "web".parse().expect("a name");
        let job = CiRun { identity: vec!["job".to_owned()], ..CiRun::of(System::GitHub) };
        let first = Key::made(Some(&job), &project, b"{}").expect("a key");
        let next = first.after("a").expect("it was made");
        assert_eq!(first.after("a"), Some(next.clone()));
        assert_ne!(first.after("b"), Some(next.clone()));
        assert_ne!(next.after("a"), Some(next));
        assert_eq!(Key::given("mine".parse().expect("a key")).after("a"), None);
        assert_eq!(Key::made(None, &project, b"{}").expect("randomness").after("a"), None);
        let last = (0..REPEATS_LIMIT).try_fold(first, |key, _| key.after("a")).expect("so many follow");
        assert_eq!(last.after("a"), None);
    }
}
