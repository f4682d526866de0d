//! Wake-ups between servers: each server tells the others about its commits. See decisions 0015 and 0063.
//!
//! ```text
//! commit ─▶ pending ─▶ one task, one connection: NOTIFY ─▶ the database ─▶ every server's same connection: LISTEN ─▶ hint
//! ```
//!
//! Hints are sent after the commit and never within it, because a transaction that notifies takes a lock of the whole
//! database when it commits. Hints that come while others are under way go together with the next ones. A server also
//! receives its own hints, and so it knows that they come through. While they do not, the slow poll replaces them. After
//! a reconnect, a server looks at everything again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    connect::{Connector, Hear},
    fault::DatabaseFault,
    link::Link,
};
use crate::{
    health::{Pulse, Task},
    model::{Changes, DeploymentId, Hint},
    store::OnHint,
};

/// How many bytes one notification may have: a little less than the database's limit.
const PAYLOAD_LIMIT: usize = 7_900;
/// How many hints may wait. With more, every waiter looks at everything once, because that costs less than so many
/// hints.
const PENDING_LIMIT: usize = 10_000;
/// How long a hint about output waits for more output. People do not read faster, and so a flood costs five hints a
/// second.
const OUTPUT_PAUSE: Duration = Duration::from_millis(200);
/// How often the connection is tested while there are no hints to send.
const TRIAL_PAUSE: Duration = Duration::from_secs(15);
/// How long our own hint may take to come back.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
/// How long sending to the database may take.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// How it is supervised: each of its steps has a limit, and none takes this long.
pub(super) const TASK: Task = Task::new("wake-ups", Duration::from_secs(90));

/// The hints of one server.
pub(super) struct Wakes {
    /// Distinguishes this server's hints from the others'.
    server: String,
    channel: String,
    /// The lock that a server holds as long as it serves this database, so that nobody fills it meanwhile.
    served_key: String,
    pending: Mutex<UntoldHints>,
    stirred: Notify,
    on_hint: OnHint,
}

/// The hints that are to be sent to the other servers.
#[derive(Debug, Default)]
struct UntoldHints {
    hints: HashSet<Hint>,
    /// Whether there are other hints than output.
    is_urgent: bool,
}

impl Wakes {
    /// The hints of a new server, on the channel of the tables in `schema`.
    pub(super) fn new(schema: &str, on_hint: OnHint) -> Arc<Self> {
        Arc::new(Wakes {
            server: Uuid::now_v7().simple().to_string(),
            // A channel is shared by the whole database; its name has at most 63 bytes.
            channel: format!("singletrack_{}", channel_of(schema)),
            served_key: served_key(schema),
            pending: Mutex::default(),
            stirred: Notify::new(),
            on_hint,
        })
    }

    /// Queues hints to the other servers about a commit.
    pub(super) fn tell(&self, changes: &Changes) {
        self.tell_hints(changes.hints());
    }

    /// Queues these hints to the other servers.
    pub(super) fn tell_hints(&self, hints: impl IntoIterator<Item = Hint>) {
        let mut pending = self.pending();
        let before = pending.hints.len();
        for hint in hints {
            pending.is_urgent |= !matches!(hint, Hint::Output(_));
            pending.hints.insert(hint);
        }
        if pending.hints.len() > PENDING_LIMIT {
            pending.hints = HashSet::from([Hint::Anything]);
        }
        if pending.hints.len() != before {
            self.stirred.notify_one();
        }
    }

    /// Sends and receives until `shutdown`; reconnects whenever it must.
    pub(super) async fn run(
        self: Arc<Self>,
        connector: Arc<Connector>,
        mut is_first: bool,
        pulse: Pulse,
        shutdown: CancellationToken,
    ) {
        let mut pauses = pauses();
        loop {
            pulse.beat();
            let began = Instant::now();
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                ended = self.serve(&connector, is_first, &pulse) => ended,
            };
            is_first = false;
            if connector.shares_sessions() {
                // Behind a pooler no notifications arrive; that was logged already.
                return pulse.resting(self.forget(&shutdown)).await;
            }
            tracing::warn!(fault = ?ended, "wake-ups between servers are interrupted; the slow poll stands in");
            if began.elapsed() > TRIAL_PAUSE {
                pauses = self::pauses();
            }
            let pause = pauses.next().unwrap_or(TRIAL_PAUSE);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Sends the pending hints when this server shuts down.
    pub(super) async fn last_words(&self, connector: &Connector) {
        let hints = std::mem::take(&mut *self.pending()).hints;
        if hints.is_empty() || connector.shares_sessions() {
            return;
        }
        if let Ok((Link { client, .. }, _)) = connector.connect(None, None).await
            && let Err(fault) = self.send(&client, hints, 0).await
        {
            tracing::debug!(?fault, "the last wake-ups were not sent; the others' slow poll finds what they told of");
        }
    }

    async fn serve(self: &Arc<Self>, connector: &Connector, is_first: bool, pulse: &Pulse) -> DatabaseFault {
        if connector.shares_sessions() {
            return DatabaseFault::Silent;
        }
        // The number of the last of our own messages that came back.
        let (heard, mut echo) = watch::channel(0);
        let this = self.clone();
        let hear: Hear = Arc::new(move |message| {
            if let AsyncMessage::Notification(word) = message {
                this.hear(word.payload(), &heard);
            }
        });
        let (Link { client, .. }, branch) = match connector.connect(Some(hear), None).await {
            Ok(connected) => connected,
            Err(fault) => return fault,
        };
        tokio::select! {
            listened = self.listen(&client, is_first, &mut echo, pulse) => match listened {
                Ok(never) => match never {},
                Err(fault) => fault,
            },
            // The other servers listen on the new branch by now.
            () = connector.moved_from(branch.name) => DatabaseFault::Moved,
        }
    }

    async fn listen(
        &self,
        client: &Client,
        is_first: bool,
        echo: &mut watch::Receiver<u64>,
        pulse: &Pulse,
    ) -> Result<std::convert::Infallible, DatabaseFault> {
        let listen = format!("LISTEN {}; SELECT pg_advisory_lock_shared({})", self.channel, self.served_key);
        timeout(SEND_LIMIT, client.batch_execute(&listen)).await.map_err(|_| DatabaseFault::Silent)??;
        // Earlier hints are lost, those to us and those from us.
        (self.on_hint)(Hint::Anything);
        let mut hints = if is_first { HashSet::new() } else { HashSet::from([Hint::Anything]) };
        let mut number = 0;
        loop {
            pulse.beat();
            number += 1;
            self.send(client, hints, number).await?;
            // Until our own message is back, new hints wait for the next message, so that many commits share it.
            let came_back = async { echo.wait_for(|heard| *heard >= number).await.is_ok() };
            if timeout(ECHO_LIMIT, came_back).await != Ok(true) {
                return Err(DatabaseFault::Silent);
            }
            if number == 1 {
                tracing::debug!(channel = self.channel, "wake-ups between servers come through");
            }
            hints = self.next(echo).await?;
        }
    }

    /// The hints to send next; none when it is time for a test.
    async fn next(&self, echo: &mut watch::Receiver<u64>) -> Result<HashSet<Hint>, DatabaseFault> {
        let trial = Instant::now() + TRIAL_PAUSE;
        let mut wanted = trial;
        loop {
            {
                let mut pending = self.pending();
                let now = Instant::now();
                if !pending.hints.is_empty() && (now >= wanted || pending.is_urgent) {
                    return Ok(std::mem::take(&mut *pending).hints);
                }
                if !pending.hints.is_empty() {
                    wanted = wanted.min(now + OUTPUT_PAUSE);
                }
            }
            tokio::select! {
                () = self.stirred.notified() => {}
                () = sleep_until(wanted) => if wanted == trial { return Ok(HashSet::new()) },
                // The connection's task holds the sender, which is gone with the connection.
                changed = echo.changed() => if changed.is_err() { return Err(DatabaseFault::Silent) },
            }
        }
    }

    async fn send(&self, client: &Client, hints: HashSet<Hint>, number: u64) -> Result<(), DatabaseFault> {
        // Letters, digits, blanks and signs that need no quoting, so the text can be sent unchanged, on any connection.
        let words: Vec<String> = payloads(&self.server, number, hints)
            .into_iter()
            .map(|payload| format!("SELECT pg_notify('{}', '{payload}')", self.channel))
            .collect();
        let words = words.join(";");
        timeout(SEND_LIMIT, client.batch_execute(&words)).await.map_err(|_| DatabaseFault::Silent)??;
        Ok(())
    }

    fn hear(&self, payload: &str, heard: &watch::Sender<u64>) {
        let mut words = payload.split(' ');
        if words.next() == Some(self.server.as_str()) {
            if let Some(number) = words.next().and_then(|number| number.parse().ok()) {
                heard.send_replace(number);
            }
            return;
        }
        // A hint of a newer version that we do not understand may mean anything.
        words.skip(1).for_each(|word| (self.on_hint)(parse(word).unwrap_or(Hint::Anything)));
    }

    /// Discards the hints, because no task sends them.
    async fn forget(&self, shutdown: &CancellationToken) {
        loop {
            *self.pending() = UntoldHints::default();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.stirred.notified() => {}
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, UntoldHints> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lock that every server of the tables in `schema` shares.
pub(super) fn served_key(schema: &str) -> String {
    format!("hashtextextended('singletrack.{schema}.served', 0)")
}

/// A number that distinguishes schemas, whatever their names contain.
fn channel_of(schema: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(schema)[..16])
}

/// Messages `<server> <number> <hint>…`, as many as needed, at least one.
fn payloads(server: &str, number: u64, hints: HashSet<Hint>) -> Vec<String> {
    let head = format!("{server} {number}");
    let mut payloads = vec![head.clone()];
    for hint in hints {
        let word = word(hint);
        let is_full = payloads.last().is_none_or(|payload| payload.len() + 1 + word.len() > PAYLOAD_LIMIT);
        if is_full {
            payloads.push(head.clone());
        }
        if let Some(payload) = payloads.last_mut() {
            payload.push(' ');
            payload.push_str(&word);
        }
    }
    payloads
}

fn word(hint: Hint) -> String {
    let named = |kind: char, id: DeploymentId| format!("{kind}{}", Uuid::from_bytes(*id.as_bytes()).simple());
    match hint {
        Hint::State(id) => named('s', id),
        Hint::History(id) => named('h', id),
        Hint::Output(id) => named('o', id),
        Hint::Project(project) => format!("j{project}"),
        Hint::Work(project) => format!("w{project}"),
        Hint::Agents => "g".to_owned(),
        Hint::Pauses => "p".to_owned(),
        Hint::Tokens => "t".to_owned(),
        Hint::Anything => "a".to_owned(),
    }
}

fn parse(word: &str) -> Option<Hint> {
    let id = || Uuid::try_parse(word.get(1..)?).ok().map(|id| DeploymentId::from_bytes(id.into_bytes()));
    match word.as_bytes().first()? {
        b's' => id().map(Hint::State),
        b'h' => id().map(Hint::History),
        b'o' => id().map(Hint::Output),
        b'j' => word.get(1..)?.parse().ok().map(Hint::Project),
        b'w' => word.get(1..)?.parse().ok().map(Hint::Work),
        b'g' => Some(Hint::Agents),
        b'p' => Some(Hint::Pauses),
        b't' => Some(Hint::Tokens),
        _ => Some(Hint::Anything),
    }
}

/// The pauses before connecting again, random, so that not all servers connect at once.
fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn hints_come_out_as_they_went_in_and_fit_into_notifications() {
        let ids = (0..1000_u128).map(|number| DeploymentId::from_bytes(number.to_be_bytes()));
        let mut hints: HashSet<Hint> =
            ids.flat_map(|id| [Hint::State(id), Hint::History(id), Hint::Output(id)]).collect();
        let project = |name: &str| name.parse().map(Hint::Work).unwrap();
        hints.extend([
            project("web"),
            project(&"x".repeat(255)),
            "web".parse().map(Hint::Project).unwrap(),
            Hint::Agents,
            Hint::Pauses,
            Hint::Tokens,
            Hint::Anything,
        ]);
        let sent = payloads("0123456789abcdef0123456789abcdef", 7, hints.clone());
        assert!(sent.iter().all(|payload| payload.len() < 8000));
        let heard: Vec<Hint> =
            sent.iter().flat_map(|payload| payload.split(' ').skip(2)).map(|word| parse(word).unwrap()).collect();
        assert_eq!(heard.len(), hints.len());
        assert_eq!(heard.into_iter().collect::<HashSet<_>>(), hints);
    }

    #[tokio::test]
    async fn output_waits_for_more_of_it_and_all_else_takes_it_along() {
        let wakes = Wakes::new("public", Arc::new(|_| {}));
        let (_heard, mut echo) = watch::channel(0);
        let (work, output) =
            (Hint::Work("web".parse().unwrap()), Hint::Output(DeploymentId::from_bytes(7_u128.to_be_bytes())));
        wakes.tell_hints([output.clone()]);
        assert!(wakes.next(&mut echo).now_or_never().is_none());
        wakes.tell_hints([work.clone()]);
        let both = HashSet::from([work, output]);
        assert_eq!(wakes.next(&mut echo).now_or_never().unwrap().unwrap(), both);
    }

    #[test]
    fn what_is_not_understood_may_be_anything() {
        assert_eq!(parse("z17"), Some(Hint::Anything));
        assert_eq!(parse("snonsense"), None);
        assert_eq!(parse("w"), None);
    }
}
