//! The tokens that were made at run time, as this server has them in memory: a request that shows one costs no query. See
//! decision 0073.
//!
//! They are loaded at the start, and again at every hint that a token was made or revoked, at whichever server. A token that
//! is not here is looked for in the store, once for each request and within limits: another server may have made it a moment
//! ago.
//!
//! Sessions of browsers stand among them (decision 0089). What a session allows is what its token allows at the moment of
//! each request.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    access::LiveAccess,
    guard::Grant,
    oidc::{Licence, Wanted},
    session::PageSession,
    validity::{AccessEnd, Validity},
};
use crate::{
    clock::Clock,
    config::LiveConfig,
    health::{Pulse, Task, ticks},
    model::{SessionSource, TokenRecord},
    store::{Store, StoreError, tokens::TokensMark},
};

/// How the task that keeps them is supervised.
pub const TASK: Task = Task::new("tokens", Duration::from_secs(60));

/// How often is looked whether a token has expired: that many seconds later its streams end at the latest.
const TICK: Duration = Duration::from_secs(1);
/// After how many ticks the store of several servers is asked whether a token was made or revoked, should hints not come.
const TICKS_PER_LOOK: u64 = 3;
/// The same while there is no token, so that servers that use none leave the database alone.
const TICKS_PER_LOOK_FOR_THE_FIRST: u64 = 15;
/// After how many ticks the last uses are written.
const TICKS_PER_USE: u64 = 60;
/// How long the store may take for it. The next tick asks again.
const STORE_LIMIT: Duration = Duration::from_secs(3);
/// How exactly the last use of a token is known.
const USE_PRECISION_MS: i64 = 60_000;
/// How many tokens that give no access any more are remembered.
const ENDED_LIMIT: usize = 10_000;

/// The tokens in memory.
pub struct LiveTokens {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    config: LiveConfig,
    access: Arc<LiveAccess>,
    known: RwLock<KnownTokens>,
    /// Held from each read of the store until what was read is in memory, so that no older read comes after a newer one.
    reading: Mutex<()>,
}

#[derive(Default)]
struct KnownTokens {
    by_sha256: HashMap<[u8; 32], Arc<KnownToken>>,
    mark: TokensMark,
}

/// A token in memory.
pub struct KnownToken {
    record: TokenRecord,
    grant: Grant,
    validity: Validity,
    /// What it is to a browser, if it is a session.
    session: Option<(SessionSource, Arc<PageSession>)>,
    /// What the rules allow to a person who logged in.
    licence: Licence,
    used_at_ms: AtomicI64,
    written_at_ms: AtomicI64,
}

impl KnownToken {
    fn new(record: TokenRecord) -> Self {
        let validity = Validity::default();
        if record.revoked.is_some() {
            validity.end(AccessEnd::Revoked);
        }
        let used_at_ms = record.last_used_at.map_or(0, Timestamp::as_millisecond);
        let session = record.session.clone().map(|source| {
            let (id, name, validity) = (record.id, record.name.clone(), validity.clone());
            (source, Arc::new(PageSession { id, name, validity }))
        });
        KnownToken {
            session,
            licence: Licence::default(),
            grant: Grant::of_record(&record, validity.clone()),
            validity,
            used_at_ms: AtomicI64::new(used_at_ms),
            written_at_ms: AtomicI64::new(used_at_ms),
            record,
        }
    }

    fn is_revoked(&self) -> bool {
        self.validity.how_ended() == Some(AccessEnd::Revoked)
    }

    fn is_live(&self, now: Timestamp) -> bool {
        !self.is_revoked() && !self.record.has_expired(now)
    }

    /// Notes a use. Most requests only read the last one.
    fn note_use(&self, now: Timestamp) {
        let (now, last) = (now.as_millisecond(), self.used_at_ms.load(Ordering::Relaxed));
        if now - last >= USE_PRECISION_MS {
            self.used_at_ms.store(now, Ordering::Relaxed);
        }
    }
}

impl LiveTokens {
    /// Loads them.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        config: LiveConfig,
    ) -> Result<Arc<Self>, StoreError> {
        let access = Arc::new(LiveAccess::new(config.clone()));
        let tokens = LiveTokens { store, clock, config, access, known: RwLock::default(), reading: Mutex::default() };
        tokens.refresh().await?;
        Ok(Arc::new(tokens))
    }

    /// What the configuration says about access, its own tokens among it.
    pub fn access(&self) -> &Arc<LiveAccess> {
        &self.access
    }

    /// Whether there is a token that gives access at this moment.
    pub fn has_any(&self) -> bool {
        let now = self.clock.wall();
        let gives_access = |token: &Arc<KnownToken>| token.session.is_none() && token.is_live(now);
        self.read(|known| known.by_sha256.values().any(gives_access))
    }

    /// What the token with this hash grants, also if it has ended (see [`Grant::end`]); `None` if it is not in memory, or is
    /// the session of a browser, which is no token.
    pub fn grant(&self, sha256: &[u8; 32]) -> Option<Grant> {
        self.known(sha256).filter(|token| token.session.is_none()).map(|token| token.grant.clone())
    }

    /// The same for a token of the configuration, too, and until when it holds at most.
    pub fn token(&self, sha256: &[u8; 32]) -> Option<(Grant, Option<Timestamp>)> {
        if let Some(grant) = self.access.now().configured(sha256) {
            return Some((grant.clone(), None));
        }
        let token = self.known(sha256).filter(|token| token.session.is_none())?;
        Some((token.grant.clone(), token.record.expires_at))
    }

    /// What the session with this hash grants, also if it or its token has ended (see [`Grant::end`]); `None` if it is not
    /// in memory.
    pub fn session(&self, sha256: &[u8; 32], wanted: Wanted<'_>) -> Option<Grant> {
        let known = self.known(sha256)?;
        let (source, session) = known.session.as_ref()?;
        let grant = match source {
            SessionSource::Token(sha256) => self.token(sha256).map(|(grant, _)| grant),
            SessionSource::LogIn(claims) => {
                Some(known.licence.grant(&self.config.now(), &known.record.created_by, claims, wanted))
            }
        };
        Some(grant.unwrap_or_else(Grant::gone).in_session(session.clone()))
    }

    /// The token or session with this hash, and its use noted if it has not ended.
    fn known(&self, sha256: &[u8; 32]) -> Option<Arc<KnownToken>> {
        let token = self.read(|known| known.by_sha256.get(sha256).cloned())?;
        let now = self.clock.wall();
        if token.record.has_expired(now) {
            token.validity.end(AccessEnd::Expired);
        }
        let token = match token.validity.how_ended() {
            // The clock went on too far for a while, and back.
            Some(AccessEnd::Expired) if !token.record.has_expired(now) => self.renewed(&token),
            Some(_) => return Some(token),
            None => token,
        };
        token.note_use(now);
        Some(token)
    }

    /// Looks in the store for a token or session that is not in memory, and for the token of a session.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn look_up(&self, sha256: &[u8; 32]) -> Result<(), StoreError> {
        let _reading = self.reading.lock().await;
        let mut wanted = Some(*sha256);
        while let Some(sha256) = wanted.take() {
            let Some(record) = self.store.tokens().by_sha256(sha256).await? else { break };
            if let Some(SessionSource::Token(token)) = &record.session {
                wanted = Some(*token).filter(|token| self.token(token).is_none());
            }
            self.write(|known| {
                known.forget_ended(self.clock.wall());
                known.by_sha256.entry(sha256).or_insert_with(|| Arc::new(KnownToken::new(record)));
            });
        }
        Ok(())
    }

    /// Reads all tokens again that are not revoked, and ends those that are.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _reading = self.reading.lock().await;
        // The mark first: a change between the two reads makes the next look read again.
        let mark = self.store.tokens().mark().await?;
        let unrevoked = self.store.tokens().unrevoked().await?;
        let ended = self.write(|known| {
            let is_left: HashSet<_> = unrevoked.iter().map(|record| record.sha256).collect();
            let is_ended = |token: &&Arc<KnownToken>| !token.is_revoked() && !is_left.contains(&token.record.sha256);
            let ended: Vec<_> = known.by_sha256.values().filter(is_ended).cloned().collect();
            for record in unrevoked {
                // One that is there again was lost to a database that went back, and came back.
                if known.by_sha256.get(&record.sha256).is_none_or(|token| token.is_revoked()) {
                    known.by_sha256.insert(record.sha256, Arc::new(KnownToken::new(record)));
                }
            }
            known.mark = mark;
            known.forget_ended(self.clock.wall());
            ended
        });
        for token in ended {
            match token.session {
                Some(_) => tracing::debug!(session = %token.record.name, "a session was ended"),
                None => tracing::info!(token = %token.record.name, "a token was revoked; what waits under it ends"),
            }
            token.validity.end(AccessEnd::Revoked);
        }
        Ok(())
    }

    /// Keeps them up to date until `shutdown`.
    pub async fn run(self: Arc<Self>, mut hints: watch::Receiver<()>, pulse: Pulse, shutdown: CancellationToken) {
        let mut ticks = ticks(TICK);
        let mut tick_count = 0_u64;
        // Whether a hint was not followed yet, because the store did not answer.
        let mut is_due = false;
        loop {
            let is_hint = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                hint = hints.changed() => hint.is_ok(),
                _ = ticks.tick() => false,
            };
            self.end_expired();
            // What a reload took away ends even if no request comes.
            self.access.now();
            self.judge_log_ins();
            is_due |= is_hint;
            tick_count += u64::from(!is_hint);
            let is_time = |every: u64| !is_hint && tick_count.is_multiple_of(every);
            let kept = timeout(STORE_LIMIT, async {
                let ticks_per_look = if self.has_any() { TICKS_PER_LOOK } else { TICKS_PER_LOOK_FOR_THE_FIRST };
                let looks = !is_due && self.store.is_shared() && is_time(ticks_per_look);
                if is_due || (looks && self.store.tokens().mark().await? != self.read(|known| known.mark)) {
                    self.refresh().await?;
                }
                if is_time(TICKS_PER_USE) { self.write_uses().await } else { Ok(()) }
            });
            match kept.await {
                Ok(Ok(())) => is_due = false,
                Ok(Err(error)) => tracing::debug!(%error, "the tokens could not be read again"),
                Err(_) => tracing::debug!("the tokens could not be read again in time"),
            }
            pulse.done();
        }
        // Nothing is lost but the minute of a last use, if this fails.
        let _ = timeout(STORE_LIMIT, self.write_uses()).await;
    }

    /// Ends what waits under tokens whose time is over.
    fn end_expired(&self) {
        let now = self.clock.wall();
        self.read(|known| {
            let over = known.by_sha256.values().filter(|token| token.record.has_expired(now));
            over.for_each(|token| token.validity.end(AccessEnd::Expired));
        });
    }

    /// Ends what waits under sessions of people whom the present rules allow something else.
    fn judge_log_ins(&self) {
        let config = self.config.now();
        self.read(|known| {
            for token in known.by_sha256.values() {
                if let Some((SessionSource::LogIn(claims), _)) = &token.session {
                    token.licence.follow(&config, &token.record.created_by, claims);
                }
            }
        });
    }

    async fn write_uses(&self) -> Result<(), StoreError> {
        let used: Vec<_> = self.read(|known| {
            let at = |token: &Arc<KnownToken>| {
                let used_at_ms = token.used_at_ms.load(Ordering::Relaxed);
                (used_at_ms > token.written_at_ms.load(Ordering::Relaxed)).then(|| (token.clone(), used_at_ms))
            };
            known.by_sha256.values().filter_map(at).collect()
        });
        if used.is_empty() {
            return Ok(());
        }
        let uses =
            used.iter().filter_map(|(token, at)| Some((token.record.id, Timestamp::from_millisecond(*at).ok()?)));
        self.store.tokens().note_use(uses.collect()).await?;
        used.iter().for_each(|(token, at)| token.written_at_ms.store(*at, Ordering::Relaxed));
        Ok(())
    }

    /// The same token, under which something can wait again.
    fn renewed(&self, token: &Arc<KnownToken>) -> Arc<KnownToken> {
        let fresh = Arc::new(KnownToken::new(token.record.clone()));
        self.write(|known| known.by_sha256.insert(token.record.sha256, fresh.clone()));
        fresh
    }

    fn read<T>(&self, read: impl FnOnce(&KnownTokens) -> T) -> T {
        // Every change of it leaves it whole.
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut KnownTokens) -> T) -> T {
        write(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KnownTokens {
    /// Forgets those that give no access, where there are too many. They are looked up again when they are shown.
    fn forget_ended(&mut self, now: Timestamp) {
        let ended_count = self.by_sha256.values().filter(|token| !token.is_live(now)).count();
        if ended_count > ENDED_LIMIT {
            self.by_sha256.retain(|_, token| token.is_live(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;
    use crate::{
        clock::BootInstant,
        model::{Caller, Identity, Scopes, TokenId},
        store::{
            memory::MemoryStore,
            tokens::{RevokeToken, TokenCreation, TokenEnd},
        },
    };

    /// A wall clock that a test sets, in milliseconds.
    #[derive(Debug)]
    struct SetClock(AtomicI64);

    impl Clock for SetClock {
        fn wall(&self) -> Timestamp {
            Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).expect("it is a time")
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_start(Duration::ZERO)
        }
    }

    async fn known(expires_in_ms: Option<i64>) -> (Arc<LiveTokens>, Arc<SetClock>, TokenRecord) {
        let clock = Arc::new(SetClock(AtomicI64::new(1_800_000_000_000)));
        let store = Arc::new(MemoryStore::new(Arc::new(|_, _| {})));
        let token = TokenRecord {
            id: TokenId::generate(),
            name: "ci".to_owned(),
            sha256: [7; 32],
            scopes: Scopes::all(),
            projects: None,
            created_at: clock.wall(),
            created_by: Identity::Local,
            expires_at: expires_in_ms
                .map(|ms| Timestamp::from_millisecond(1_800_000_000_000 + ms).expect("it is a time")),
            last_used_at: None,
            revoked: None,
            session: None,
        };
        let created = store.tokens().create(token.clone(), Caller::server()).await.expect("it is kept");
        assert_eq!(created, TokenCreation::Created);
        let tokens = LiveTokens::load(store, clock.clone(), LiveConfig::default()).await.expect("they are loaded");
        (tokens, clock, token)
    }

    #[tokio::test]
    async fn a_clock_that_jumps_over_an_expiry_and_back_ends_what_waits_and_not_the_token() {
        let (tokens, clock, token) = known(Some(60_000)).await;
        let waiting = tokens.grant(&token.sha256).expect("it is known");
        assert_eq!(waiting.end(), None);
        clock.0.fetch_add(3_600_000, Ordering::SeqCst);
        tokens.end_expired();
        waiting.ended().await;
        let expired = tokens.grant(&token.sha256).and_then(|grant| grant.end());
        assert_eq!(expired, Some(AccessEnd::Expired));
        clock.0.fetch_sub(3_600_000, Ordering::SeqCst);
        assert_eq!(tokens.grant(&token.sha256).and_then(|grant| grant.end()), None);
        assert_eq!(waiting.end(), Some(AccessEnd::Expired), "what has ended stays ended");
    }

    #[tokio::test]
    async fn a_token_that_is_revoked_elsewhere_ends_with_the_next_refresh_and_stays_so() {
        let (tokens, clock, token) = known(None).await;
        let waiting = tokens.grant(&token.sha256).expect("it is known");
        let wish = RevokeToken { id: token.id, caller: Caller::server(), at: clock.wall(), leaves_admin: false };
        assert!(matches!(tokens.store.tokens().revoke(wish).await, Ok(TokenEnd::Revoked(_))));
        assert_eq!(waiting.end(), None, "nobody has told this server yet");
        tokens.refresh().await.expect("the store answers");
        waiting.ended().await;
        assert_eq!(tokens.grant(&token.sha256).and_then(|grant| grant.end()), Some(AccessEnd::Revoked));
        // One that is not in memory is looked up, and one that nobody made is none.
        tokens.look_up(&token.sha256).await.expect("the store answers");
        assert_eq!(tokens.grant(&token.sha256).and_then(|grant| grant.end()), Some(AccessEnd::Revoked));
        tokens.look_up(&[8; 32]).await.expect("the store answers");
        assert!(tokens.grant(&[8; 32]).is_none());
    }

    #[tokio::test]
    async fn a_last_use_is_written_at_most_once_a_minute_and_not_within_a_request() {
        let (tokens, clock, token) = known(None).await;
        let written = async || {
            tokens.write_uses().await.expect("the store answers");
            tokens.store.tokens().by_id(token.id).await.expect("the store answers").and_then(|token| token.last_used_at)
        };
        assert_eq!(written().await, None);
        let first = clock.wall();
        tokens.grant(&token.sha256);
        assert_eq!(
            tokens.store.tokens().by_id(token.id).await.expect("it answers").and_then(|it| it.last_used_at),
            None
        );
        assert_eq!(written().await, Some(first));
        clock.0.fetch_add(59_000, Ordering::SeqCst);
        tokens.grant(&token.sha256);
        assert_eq!(written().await, Some(first));
        clock.0.fetch_add(1_000, Ordering::SeqCst);
        tokens.grant(&token.sha256);
        assert_eq!(written().await, Some(clock.wall()));
    }
}
