//! What a person who logged in may do, by the rules of the present configuration. A session keeps the claims of its log-in, and
//! each reload judges them anew. See decision 0090.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use super::{
    grant::{self, Wanted},
    rules::{self, Permit},
    token,
};
use crate::{
    config::{Config, OidcLogIn},
    http::{
        guard::Grant,
        validity::{AccessEnd, Validity},
    },
    model::{Caller, Identity},
};

/// What the rules allow to the holder of a session.
#[derive(Default)]
pub struct Licence(Mutex<Option<JudgedLicence>>);

/// What the rules of one configuration allow.
struct JudgedLicence {
    of: Arc<Config>,
    permits: Vec<Permit>,
    /// Ends when the rules change what they allow.
    validity: Validity,
}

impl Licence {
    /// What the rules allow now. Where that is nothing, the grant has ended.
    pub fn grant(
        &self,
        config: &Arc<Config>,
        who: &Identity,
        claims: &Map<String, Value>,
        wanted: Wanted<'_>,
    ) -> Grant {
        let (permits, validity) = self.judge(config, who, claims);
        grant::of_permits(Caller::new(who.clone()), &permits, validity, wanted)
    }

    /// Judges the claims anew if the configuration is another one, and ends what waits for what it does not allow any more.
    pub fn follow(&self, config: &Arc<Config>, who: &Identity, claims: &Map<String, Value>) {
        self.judge(config, who, claims);
    }

    fn judge(&self, config: &Arc<Config>, who: &Identity, claims: &Map<String, Value>) -> (Vec<Permit>, Validity) {
        let mut judged = self.lock();
        if let Some(known) = judged.as_ref().filter(|known| Arc::ptr_eq(&known.of, config)) {
            return (known.permits.clone(), known.validity.clone());
        }
        let permits = permits_of(config, who, claims);
        let same = judged.take_if(|known| known.permits == permits);
        if let Some(former) = &*judged {
            former.validity.end(AccessEnd::Revoked);
        }
        let validity = same.map(|same| same.validity).unwrap_or_default();
        if permits.is_empty() {
            validity.end(AccessEnd::Revoked);
        }
        *judged = Some(JudgedLicence { of: config.clone(), permits: permits.clone(), validity: validity.clone() });
        (permits, validity)
    }

    fn lock(&self) -> MutexGuard<'_, Option<JudgedLicence>> {
        // What is in here is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What each rule allows that the person meets; nothing where the issuer is gone.
fn permits_of(config: &Config, who: &Identity, claims: &Map<String, Value>) -> Vec<Permit> {
    let Identity::Oidc { issuer: name, .. } = who else { return Vec::new() };
    let claimed = claims.get("iss").and_then(Value::as_str);
    let is_same = |log_in: &&OidcLogIn| {
        let issuer = &log_in.issuer;
        issuer.name == *name && claimed == Some(&*issuer.issuer) && token::is_for(claims, &issuer.audience)
    };
    let found = config.page.log_ins.iter().find(is_same);
    found.and_then(|log_in| rules::permits(&log_in.issuer, claims).ok()).unwrap_or_default()
}
