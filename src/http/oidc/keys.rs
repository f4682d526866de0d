//! The keys of one issuer: kept, fetched anew when they are old or when a token names one that is not there, and never by
//! two requests at once.
//!
//! Keys that are older than [`FRESH`] are fetched anew while they are used. Keys older than [`CALM`] are waited for, so that
//! a key that the issuer took back after a quiet night is not used once more; if the issuer does not answer, they go on until
//! they are older than [`USABLE`]. A fetch is a task of its own: a client that hangs up does not end it for the others.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    fetch::{self, KeySource},
    rejection::TokenRejection,
    token::{TokenHeader, shown},
};
use crate::clock::{BootInstant, Clock, span};

/// How old keys may be before they are fetched anew beside their use.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// How old keys may be before a fetch is waited for.
const CALM: Duration = Duration::from_secs(60 * 60);
/// How old keys may be at all.
const USABLE: Duration = Duration::from_secs(24 * 60 * 60);
/// The least time between two fetches for keys that were not there, and after a fetch that failed.
const PAUSE: Duration = Duration::from_secs(10);
/// How many keys an issuer may have.
const KEYS_LIMIT: usize = 100;
/// The bits of an RSA key: a shorter one can be broken, a longer one costs a check too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of one issuer.
pub(super) struct Keys {
    source: KeySource,
    clock: Arc<dyn Clock>,
    state: Mutex<KeysState>,
    /// Changes when a fetch has ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct KeysState {
    keys: Vec<PublicKey>,
    /// When these keys were fetched; `None` before the first time.
    fetched_at: Option<BootInstant>,
    /// Counts the sets of keys that differ.
    generation: u64,
    is_fetching: bool,
    /// When the last fetch ended that failed, or that was begun for a key that was not there.
    pause_from: Option<BootInstant>,
    /// Why the last fetch failed, if it did.
    failure: Option<String>,
}

/// What to do for a token.
enum KeySearch {
    Use(DecodingKey, u64),
    /// It is being fetched.
    Wait,
    Refuse(TokenRejection),
}

impl Keys {
    pub fn new(source: KeySource, clock: Arc<dyn Clock>) -> Self {
        Keys { source, clock, state: Mutex::default(), ended: watch::Sender::new(0) }
    }

    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// Counts the sets of keys that differ.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// The key that a token names, and the set that it comes from.
    ///
    /// # Errors
    /// The issuer has no such key, or its keys cannot be had now.
    pub async fn find(self: &Arc<Self>, header: &TokenHeader) -> Result<(DecodingKey, u64), TokenRejection> {
        let (mut ended, asked_at) = (self.ended.subscribe(), self.clock.boot());
        loop {
            match self.next(header, asked_at) {
                KeySearch::Use(key, generation) => return Ok((key, generation)),
                KeySearch::Refuse(rejection) => return Err(rejection),
                // The sender lives as long as `self`.
                KeySearch::Wait => _ = ended.changed().await,
            }
        }
    }

    fn next(self: &Arc<Self>, header: &TokenHeader, asked_at: BootInstant) -> KeySearch {
        let now = self.clock.boot();
        let mut state = self.state();
        let age = state.fetched_at.map(|at| now.since(at)).filter(|age| *age < USABLE);
        let is_pausing = state.pause_from.is_some_and(|at| now.since(at) < PAUSE);
        if let (Some(key), Some(age)) = (state.key(header).cloned(), age) {
            // After a failure nobody waits, because the next attempt may take as long as the last one.
            let goes_on = age < CALM || is_pausing || state.failure.is_some();
            if age >= FRESH && !is_pausing {
                self.begin(&mut state, false);
            }
            return if goes_on { KeySearch::Use(key.key, state.generation) } else { KeySearch::Wait };
        }
        if state.is_fetching {
            return KeySearch::Wait;
        }
        let is_new = state.fetched_at.is_some_and(|at| at >= asked_at);
        if is_new || is_pausing {
            return KeySearch::Refuse(self.refusal(&state, header, now));
        }
        self.begin(&mut state, age.is_some());
        KeySearch::Wait
    }

    /// Begins to fetch, unless a fetch is under way.
    fn begin(self: &Arc<Self>, state: &mut KeysState, is_for_missing: bool) {
        if !std::mem::replace(&mut state.is_fetching, true) {
            tokio::spawn(Fetching { keys: self.clone(), pauses: is_for_missing }.run());
        }
    }

    /// Why there is no key, just after a fetch.
    fn refusal(&self, state: &KeysState, header: &TokenHeader, now: BootInstant) -> TokenRejection {
        let KeySource { name, issuer, .. } = &self.source;
        if let Some(failure) = &state.failure {
            return TokenRejection::NoKeys(format!(
                "the keys of the issuer '{name}' cannot be had ({issuer}: {failure})"
            ));
        }
        let key = match &header.key_id {
            Some(id) => format!("the key '{}'", shown(id)),
            None => "one key, and the token names none".to_owned(),
        };
        let since = state.fetched_at.map(|at| span(now.since(at))).unwrap_or_default();
        TokenRejection::NotAccepted(format!(
            "the issuer '{name}' has not {key} for {:?}; its keys were fetched {since} ago",
            header.algorithm
        ))
    }

    fn state(&self) -> MutexGuard<'_, KeysState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeysState {
    /// The key for this token. A token that names none has only one key to mean.
    fn key(&self, header: &TokenHeader) -> Option<&PublicKey> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(header));
        let first = fitting.next();
        first.filter(|_| header.key_id.is_some() || fitting.next().is_none())
    }
}

/// A fetch under way. However it ends, the next one may begin.
struct Fetching {
    keys: Arc<Keys>,
    /// Whether the next fetch of the same kind has to wait.
    pauses: bool,
}

impl Fetching {
    async fn run(mut self) {
        let source = &self.keys.source;
        let fetched = fetch::keys(source).await.and_then(|text| read(&text));
        let now = self.keys.clock.boot();
        let mut state = self.keys.state();
        match fetched {
            Ok(keys) => {
                if keys != state.keys {
                    state.generation += 1;
                    tracing::info!(issuer = source.name, key_count = keys.len(), "an OIDC issuer's keys are new");
                }
                (state.keys, state.fetched_at, state.failure) = (keys, Some(now), None);
            }
            Err(error) => {
                tracing::warn!(issuer = source.name, %error, "an OIDC issuer's keys could not be fetched");
                state.failure = Some(error);
                self.pauses = true;
            }
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let now = self.keys.clock.boot();
        let mut state = self.keys.state();
        state.is_fetching = false;
        if self.pauses {
            state.pause_from = Some(now);
        }
        drop(state);
        self.keys.ended.send_modify(|count| *count += 1);
    }
}

/// A key that can check signatures.
#[derive(Clone)]
struct PublicKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    /// The key as it came, by which two are told apart.
    form: Jwk,
    key: DecodingKey,
}

impl PublicKey {
    fn fits(&self, header: &TokenHeader) -> bool {
        let is_named = header.key_id.is_none() || header.key_id == self.id;
        is_named && self.algorithms.contains(&header.algorithm)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form
    }
}

/// A key as the issuer writes it: RFC 7517.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The usable keys of a set; the others are for something else, or for a newer server.
fn read(text: &[u8]) -> Result<Vec<PublicKey>, String> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<Value>,
    }
    let set: KeySet = serde_json::from_slice(text).map_err(|error| format!("its keys cannot be read: {error}"))?;
    if set.keys.len() > KEYS_LIMIT {
        return Err(format!("it has {} keys, and at most {KEYS_LIMIT} are taken", set.keys.len()));
    }
    let keys: Vec<_> =
        set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok().and_then(usable)).collect();
    if keys.is_empty() { Err("it has no key that can check a signature".to_owned()) } else { Ok(keys) }
}

fn usable(form: Jwk) -> Option<PublicKey> {
    let is_for_signatures = form.r#use.as_deref().is_none_or(|r#use| r#use == "sig")
        && form.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !is_for_signatures {
        return None;
    }
    let (mut algorithms, key) = match (form.kty.as_str(), form.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (form.n.as_deref()?, form.e.as_deref()?);
            let modulus = BASE64URL_NOPAD.decode(n.as_bytes()).ok()?;
            let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
            if !RSA_BITS.contains(&bits) {
                return None;
            }
            let algorithms = vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
            (algorithms, DecodingKey::from_rsa_components(n, e))
        }
        ("EC", Some("P-256")) => {
            (vec![Algorithm::ES256], DecodingKey::from_ec_components(form.x.as_deref()?, form.y.as_deref()?))
        }
        ("EC", Some("P-384")) => {
            (vec![Algorithm::ES384], DecodingKey::from_ec_components(form.x.as_deref()?, form.y.as_deref()?))
        }
        ("OKP", Some("Ed25519")) => (vec![Algorithm::EdDSA], DecodingKey::from_ed_components(form.x.as_deref()?)),
        (_, _) => return None,
    };
    if let Some(named) = &form.alg {
        algorithms.retain(|algorithm| named.parse() == Ok::<_, jsonwebtoken::errors::Error>(*algorithm));
    }
    let key = key.ok().filter(|_| !algorithms.is_empty())?;
    Some(PublicKey { id: form.kid.clone(), algorithms, form, key })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use jiff::Timestamp;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A clock that a test sets.
    #[derive(Default)]
    struct SetClock(AtomicU64);

    impl Clock for SetClock {
        fn wall(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_start(Duration::from_secs(self.0.load(Ordering::Relaxed)))
        }
    }

    /// An issuer's keys, and what happens to them.
    struct Trial {
        clock: Arc<SetClock>,
        keys: Arc<Keys>,
        fetch_count: Arc<AtomicUsize>,
        shown: Arc<Mutex<Option<String>>>,
    }

    impl Trial {
        /// The issuer shows keys under these ids; `None`: it answers with an error.
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (fetch_count, shown) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None::<String>)));
            let (count, answers) = (fetch_count.clone(), shown.clone());
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 4096]).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    let body = answers.lock().expect("it is whole").clone();
                    let status = if body.is_some() { "200 OK" } else { "500 Broken" };
                    let body = body.unwrap_or_default();
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                }
            });
            let clock = Arc::new(SetClock(AtomicU64::new(1_000_000)));
            let source = KeySource {
                name: "ci".to_owned(),
                issuer: "https://ci.example".to_owned(),
                jwks_uri: Some(format!("http://{address}/jwks")),
                ca_cert: None,
            };
            let keys = Arc::new(Keys::new(source, clock.clone()));
            let trial = Trial { clock, keys, fetch_count, shown };
            trial.show(Some(&["old"]));
            trial
        }

        fn show(&self, ids: Option<&[&str]>) {
            let key = |id: &&str| json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": "A".repeat(43) });
            let set = ids.map(|ids| json!({ "keys": ids.iter().map(key).collect::<Vec<_>>() }).to_string());
            *self.shown.lock().expect("it is whole") = set;
        }

        fn pass(&self, seconds: u64) {
            self.clock.0.fetch_add(seconds, Ordering::Relaxed);
        }

        /// Whether the key is found, and how often the keys were fetched until now.
        async fn find(&self, id: &str) -> (Result<(), String>, usize) {
            let header = TokenHeader { algorithm: Algorithm::EdDSA, key_id: Some(id.to_owned()) };
            let found = self.keys.find(&header).await.map(|_| ()).map_err(|rejection| match rejection {
                TokenRejection::NoKeys(_) => "out of reach".to_owned(),
                TokenRejection::NotAccepted(_) => "unknown".to_owned(),
                other => format!("{other:?}"),
            });
            (found, self.fetch_count.load(Ordering::Relaxed))
        }

        /// Waits until no fetch is under way.
        async fn rest(&self) {
            let mut ended = self.keys.ended.subscribe();
            while self.keys.state().is_fetching {
                let _ = ended.changed().await;
            }
        }
    }

    const OUT_OF_REACH: &str = "out of reach";
    const UNKNOWN: &str = "unknown";

    #[tokio::test]
    async fn keys_are_kept_and_fetched_anew_beside_their_use() {
        let trial = Trial::start().await;
        assert_eq!(trial.find("old").await, (Ok(()), 1));
        trial.pass(14 * 60);
        assert_eq!(trial.find("old").await, (Ok(()), 1));
        trial.pass(2 * 60);
        assert_eq!(trial.find("old").await.0, Ok(()));
        trial.rest().await;
        assert_eq!(trial.find("old").await, (Ok(()), 2), "older than a quarter of an hour");
        assert_eq!(trial.keys.generation(), 1, "they are the same");
    }

    #[tokio::test]
    async fn a_key_that_was_taken_back_in_a_quiet_night_is_not_used_once_more() {
        let trial = Trial::start().await;
        assert_eq!(trial.find("old").await, (Ok(()), 1));
        trial.show(Some(&["new"]));
        trial.pass(8 * 60 * 60);
        assert_eq!(trial.find("old").await, (Err(UNKNOWN.to_owned()), 2));
        assert_eq!(trial.find("new").await, (Ok(()), 2));
        assert_eq!(trial.keys.generation(), 2);
    }

    #[tokio::test]
    async fn while_the_issuer_is_out_of_reach_its_keys_go_on_for_a_day() {
        let trial = Trial::start().await;
        assert_eq!(trial.find("old").await, (Ok(()), 1));
        trial.show(None);
        trial.pass(2 * 60 * 60);
        assert_eq!(trial.find("old").await, (Ok(()), 2), "the fetch fails, and the key is used");
        assert_eq!(trial.find("old").await, (Ok(()), 2), "the next fetch has to wait");
        assert_eq!(trial.find("new").await, (Err(OUT_OF_REACH.to_owned()), 2));
        trial.pass(23 * 60 * 60);
        assert_eq!(trial.find("old").await, (Err(OUT_OF_REACH.to_owned()), 3), "older than a day");
        trial.show(Some(&["old"]));
        trial.pass(11);
        assert_eq!(trial.find("old").await, (Ok(()), 4));
    }

    #[tokio::test]
    async fn unknown_keys_cause_one_fetch_and_then_the_next_one_has_to_wait() {
        let trial = Trial::start().await;
        assert_eq!(trial.find("old").await, (Ok(()), 1));
        trial.pass(1);
        for nth in 0..100 {
            assert_eq!(trial.find(&format!("{nth}")).await, (Err(UNKNOWN.to_owned()), 2));
        }
        trial.show(Some(&["old", "new"]));
        assert_eq!(trial.find("new").await, (Err(UNKNOWN.to_owned()), 2));
        trial.pass(11);
        assert_eq!(trial.find("new").await, (Ok(()), 3));
    }
}
