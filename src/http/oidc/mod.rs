//! Tokens of OIDC issuers, such as GitHub Actions and GitLab: who sends one, and what that caller may do. See decision 0075.
//!
//! `token` takes a token apart and judges its times, `keys` keeps the keys of one issuer, `fetch` gets them, `rules` says
//! what the claims of a verified token allow. A token is verified once and remembered until it expires, so that a poll
//! costs a look-up.

mod fetch;
mod grant;
mod keys;
mod licence;
mod live;
mod log_in;
mod rejection;
mod rules;
mod token;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::validity::{AccessEnd, Validity};
use crate::{
    clock::Clock,
    config::{OidcIssuer, OidcLogIn},
    model::Identity,
};
use fetch::KeySource;
use keys::Keys;
use log_in::LogIn;
use rejection::TokenRejection;
use rules::Permit;
use token::Unverified;

pub use grant::Wanted;
pub use licence::Licence;
pub use live::LiveOidc;
pub use log_in::{LogInSecret, LoggedIn, cookie_text, from_cookie_text};

/// How many verified tokens are remembered.
const REMEMBERED_LIMIT: usize = 10_000;

/// A verified token.
struct Verified {
    /// Who it is.
    identity: Arc<Identity>,
    /// What each rule that it meets allows; never empty.
    permits: Vec<Permit>,
    /// Ends when the token stops to count.
    validity: Validity,
    until: Timestamp,
    claims: Map<String, Value>,
    /// The keys that it was verified with, and which set of them.
    keys: Arc<Keys>,
    key_set: u64,
}

/// The issuers whose tokens are accepted.
pub struct Oidc {
    issuers: Vec<(OidcIssuer, Arc<Keys>)>,
    /// Where people log in.
    log_ins: Vec<Arc<LogIn>>,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<[u8; 32], Arc<Verified>>>,
}

impl Oidc {
    /// Nothing is fetched before the first token comes.
    pub fn new(issuers: &[OidcIssuer], log_ins: &[OidcLogIn], clock: Arc<dyn Clock>) -> Self {
        let keys = |issuer: &OidcIssuer| Arc::new(Keys::new(KeySource::of(issuer), clock.clone()));
        let issuers = issuers.iter().map(|issuer| (issuer.clone(), keys(issuer))).collect();
        let log_in = |settings: &OidcLogIn| {
            let keys = Arc::new(Keys::new(KeySource::of(&settings.issuer), clock.clone()));
            Arc::new(LogIn::new(settings.clone(), keys, clock.clone()))
        };
        let log_ins = log_ins.iter().map(log_in).collect();
        Oidc { issuers, log_ins, clock, remembered: Mutex::default() }
    }

    /// The issuer of this name where people log in.
    pub fn log_in(&self, name: &str) -> Option<Arc<LogIn>> {
        self.log_ins.iter().find(|log_in| log_in.settings.issuer.name == name).cloned()
    }

    /// The same with other issuers and rules. The keys of an issuer that stays are kept. A token that meets no rule any more
    /// stops to count, and with it what waits on its behalf.
    #[must_use]
    pub fn with_issuers(&self, issuers: &[OidcIssuer], log_ins: &[OidcLogIn]) -> Self {
        let mut new = Oidc::new(issuers, log_ins, self.clock.clone());
        for log_in in &mut new.log_ins {
            if let Some(kept) = self.log_ins.iter().find(|kept| kept.settings == log_in.settings) {
                *log_in = kept.clone();
            }
        }
        for (_, keys) in &mut new.issuers {
            if let Some((_, kept)) = self.issuers.iter().find(|(_, kept)| kept.source() == keys.source()) {
                *keys = kept.clone();
            }
        }
        let mut kept = HashMap::new();
        for (sha256, verified) in self.lock().drain() {
            let own = &verified.keys.source().issuer;
            let found = new.issuers.iter().find(|(issuer, _)| issuer.issuer == *own);
            let found = found.filter(|(issuer, _)| token::is_for(&verified.claims, &issuer.audience));
            let same_keys = found.is_some_and(|(_, keys)| Arc::ptr_eq(keys, &verified.keys));
            match found.map(|(issuer, _)| rules::permits(issuer, &verified.claims)) {
                Some(Ok(permits)) if same_keys && permits == verified.permits => _ = kept.insert(sha256, verified),
                // It is judged anew when it is shown again.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => verified.validity.end(AccessEnd::Revoked),
            }
        }
        *new.lock() = kept;
        new
    }

    /// Whether there is no issuer.
    fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The token with this SHA-256, if it was verified before and still counts.
    fn remembered(&self, sha256: &[u8; 32]) -> Option<Arc<Verified>> {
        let mut remembered = self.lock();
        let verified = remembered.get(sha256)?;
        // A key that has left the set takes its tokens along.
        if verified.until > self.clock.wall() && verified.keys.generation() == verified.key_set {
            return Some(verified.clone());
        }
        remembered.remove(sha256);
        None
    }

    /// Verifies a token, and remembers it. May wait for the issuer's keys. `under_lease`: a token that has expired is let
    /// in, already ended, because the secret of a lease proves the rest.
    ///
    /// # Errors
    /// It is not accepted.
    async fn verify(&self, token: &str, sha256: [u8; 32], under_lease: bool) -> Result<Arc<Verified>, TokenRejection> {
        let unverified = Unverified::parse(token)?;
        let (issuer, keys) = self.issuer_of(&unverified)?;
        // The times come first: they cost nothing, and an expired token must not make the server fetch keys.
        let now = self.clock.wall();
        let until = match unverified.check_times(now) {
            Ok(until) => until,
            Err(TokenRejection::Expired(_)) if under_lease => now,
            Err(rejection) => return Err(rejection),
        };
        unverified.check_audience(&issuer.audience)?;
        let (key, key_set) = keys.find(&unverified.header).await?;
        let claims = token::verify(token, &unverified.header, &key)?;
        let identity = Identity::Oidc { issuer: issuer.name.clone(), subject: subject(&claims)? };
        let permits = rules::permits(issuer, &claims)?;
        let (identity, keys, validity) = (identity.into(), keys.clone(), Validity::default());
        let verified = Verified { identity, permits, validity, until, claims, keys, key_set };
        Ok(self.remember(sha256, verified, now))
    }

    fn issuer_of(&self, token: &Unverified) -> Result<(&OidcIssuer, &Arc<Keys>), TokenRejection> {
        let found = self.issuers.iter().find(|(issuer, _)| issuer.issuer == token.issuer);
        found.map(|(issuer, keys)| (issuer, keys)).ok_or_else(|| {
            TokenRejection::NotAccepted(format!(
                "this server takes no tokens of the issuer '{}'; its configuration names the issuers in [[oidc]]",
                token::shown(&token.issuer)
            ))
        })
    }

    fn remember(&self, sha256: [u8; 32], verified: Verified, now: Timestamp) -> Arc<Verified> {
        let left = verified.until.duration_since(now);
        let Some(left) = std::time::Duration::try_from(left).ok().filter(|left| !left.is_zero()) else {
            verified.validity.end(AccessEnd::Expired);
            return Arc::new(verified);
        };
        let mut remembered = self.lock();
        if let Some(known) = remembered.get(&sha256).filter(|known| known.key_set == verified.key_set) {
            // Another request of the same job was faster.
            return known.clone();
        }
        if remembered.len() >= REMEMBERED_LIMIT {
            remembered.retain(|_, verified| verified.until > now);
        }
        if remembered.len() >= REMEMBERED_LIMIT {
            // Whichever it is, that token is only verified once more.
            let any = remembered.keys().next().copied();
            any.map(|any| remembered.remove(&any));
        }
        let validity = verified.validity.clone();
        let verified = Arc::new(verified);
        remembered.insert(sha256, verified.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(left) => validity.end(AccessEnd::Expired),
                () = validity.ended() => {}
            }
        });
        verified
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Verified>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn subject(claims: &Map<String, Value>) -> Result<String, TokenRejection> {
    token::person_of(claims, "sub").map_err(TokenRejection::NotAccepted)
}
