//! `fan-out`: ten thousand parked long-polls and one event, a thousand streams of one deployment, and both at once.
//! When does the last client get the event, and what does a parked poll cost the server?

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use crate::{
    http::Http,
    process::usage,
    report::{Outcome, Times},
    run::{Contender, Run},
    stream::{Message, Watcher},
    subject::{Ability, Subject, Topic},
};

/// How many connections are opened at once: fewer than a server's backlog.
const OPENING: usize = 64;
/// Nobody is waited for longer.
const LIMIT: Duration = Duration::from_secs(50);

pub const POLLS: &str = "fan-out, 10,000 polls of one deployment";
pub const SPREAD_POLLS: &str = "fan-out, 10,000 polls of 1,000 deployments";
pub const STREAMS: &str = "fan-out, 1,000 streams of one deployment";
pub const BOTH: &str = "fan-out, polls and streams at once";

/// What every watcher must do.
pub const IN_ORDER: &str = "every watcher reads every message once and in order";

/// How large each one is.
#[derive(Clone, Copy)]
struct Size {
    polls: usize,
    topics: usize,
    streams: usize,
    messages: usize,
}

pub async fn run(run: &Run) -> Result<()> {
    let size = Size {
        polls: run.scale(10_000, 200),
        topics: run.scale(1_000, 20),
        streams: run.scale(1_000, 30),
        messages: run.scale(200, 20),
    };
    let contenders = run.contenders(Ability::Polls, "").await?;
    run.take_turns(POLLS, &contenders, async |one| polls(one, size.polls, 1).await).await?;
    drop(contenders);
    let contenders = run.contenders(Ability::Polls, "").await?;
    run.take_turns(SPREAD_POLLS, &contenders, async |one| polls(one, size.polls, size.topics).await).await?;
    let own = &contenders[..1];
    run.take_turns(BOTH, own, async |one| both(&*one.subject, size).await).await?;
    drop(contenders);
    let contenders = run.contenders(Ability::Streams, "").await?;
    run.take_turns(STREAMS, &contenders, async |one| streams(one, size).await).await
}

/// When a poll was answered, and what with.
struct Answered {
    at: Instant,
    body: Vec<u8>,
}

type Polls = JoinSet<Result<Answered>>;

/// Opens this many connections, each with a request that parks.
async fn park(topics: &[Box<dyn Topic>], count: usize) -> Result<Polls> {
    let mut parked = JoinSet::new();
    let mut opening = JoinSet::new();
    for number in 0..count {
        let topic = &topics[number % topics.len()];
        let (address, get) = (topic.address(), topic.poll());
        while opening.len() >= OPENING {
            let http: Result<Http> = opening.join_next().await.context("one is being opened")??;
            parked.spawn(answered(http?));
        }
        opening.spawn(async move {
            let mut http = Http::connect(address).await?;
            http.send("GET", &get.path, &get.headers, &[]).await?;
            Ok(http)
        });
    }
    while let Some(http) = opening.join_next().await {
        parked.spawn(answered(http??));
    }
    Ok(parked)
}

async fn answered(mut http: Http) -> Result<Answered> {
    let reply = http.reply().await?;
    let at = Instant::now();
    let body = reply.expect(200)?.body;
    Ok(Answered { at, body })
}

/// Waits until all of them are parked: our own server says how many are; a peer is done when it has nothing left to do.
async fn settle(subject: &dyn Subject, parked: usize) -> Result<()> {
    let begun = Instant::now();
    if let Some(own) = subject.own() {
        while own.server.metric("singletrack_parked_requests").await? < parked as f64 {
            if begun.elapsed() > LIMIT {
                bail!("the requests were not parked in time");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let processes = subject.processes();
    let mut before = usage(&processes).cpu;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = usage(&processes).cpu;
        if now - before < Duration::from_millis(20) {
            break;
        }
        before = now;
    }
    Ok(())
}

/// Answers every topic, and waits for all who are told of it.
async fn fire(topics: &mut [Box<dyn Topic>], mut parked: Polls) -> Result<(Times, Vec<Vec<u8>>)> {
    let fired = Instant::now();
    // All at once: what is measured is telling many, not one sync after the other.
    let all = try_join_all(topics.iter_mut().map(|topic| topic.answer()));
    let told = async {
        let (mut times, mut bodies) = (Times::default(), Vec::new());
        while let Some(answered) = parked.join_next().await {
            let Answered { at, body } = answered??;
            times.add(at.saturating_duration_since(fired));
            bodies.push(body);
        }
        anyhow::Ok((times, bodies))
    };
    let (_, told) = tokio::time::timeout(LIMIT, async { tokio::try_join!(all, told) })
        .await
        .context("not everyone was told in time")??;
    Ok(told)
}

async fn polls(contender: &Contender, count: usize, topics: usize) -> Result<Outcome> {
    let subject = &*contender.subject;
    let processes = subject.processes();
    let mut topics = subject.topics(topics).await?;
    let parked = park(&topics, count).await?;
    settle(subject, count).await?;
    let full = usage(&processes);
    let (times, bodies) = fire(&mut topics, parked).await?;
    let used = usage(&processes) - full;
    let mut outcome = Outcome::default();
    outcome.figure("last one told after", times.max() as f64 / 1e3, "ms");
    outcome.figure("memory per parked poll", (full - contender.fresh).memory as f64 / 1024.0 / count as f64, "KiB");
    outcome.figure("server CPU to tell one", used.cpu.as_secs_f64() * 1e6 / count as f64, "µs");
    outcome.times("told after", times);
    judge_polls(&mut outcome, subject, &bodies, count);
    Ok(outcome)
}

fn judge_polls(outcome: &mut Outcome, subject: &dyn Subject, bodies: &[Vec<u8>], count: usize) {
    if subject.own().is_some() {
        let wrong =
            bodies.iter().filter(|body| memchr::memmem::find(body, br#""status":"SUCCEEDED""#).is_none()).count();
        outcome.check("every poll tells the end", wrong == 0 && bodies.len() == count, || {
            format!("{wrong} of {} tell something else, of {count} that were parked", bodies.len())
        });
    }
}

/// Streams of one topic, open and read.
async fn watch(topic: &dyn Topic, count: usize, messages: usize) -> Result<JoinSet<Result<Watcher>>> {
    let mut watchers = JoinSet::new();
    let mut opening = JoinSet::new();
    for number in 0..count {
        let (address, get) = (topic.address(), topic.stream());
        opening.spawn(async move { Watcher::open(address, &get).await });
        if opening.len() >= OPENING || number + 1 == count {
            while let Some(watcher) = opening.join_next().await {
                let mut watcher: Watcher = watcher??;
                watchers.spawn(async move {
                    watcher.read_until(messages as u64).await?;
                    Ok(watcher)
                });
            }
        }
    }
    Ok(watchers)
}

/// Sends the messages one after the other, each when the last one is accepted.
async fn publish(topic: &mut dyn Topic, messages: usize) -> Result<Vec<Instant>> {
    let mut sent = Vec::with_capacity(messages);
    for number in 1..=messages {
        sent.push(Instant::now());
        topic.publish(&Message::text(number as u64)).await?;
    }
    Ok(sent)
}

async fn streams(contender: &Contender, size: Size) -> Result<Outcome> {
    let subject = &*contender.subject;
    let processes = subject.processes();
    let mut topics = subject.topics(1).await?;
    let watchers = watch(&*topics[0], size.streams, size.messages).await?;
    settle(subject, size.streams).await?;
    let open = usage(&processes);
    let begun = Instant::now();
    let sent = publish(&mut *topics[0], size.messages).await?;
    let accepted = begun.elapsed();
    let Read { last, latency, wrong } = collect(watchers, &sent).await?;
    let used = usage(&processes) - open;
    let deliveries = (size.streams * size.messages) as f64;
    let mut outcome = Outcome::default();
    outcome.figure("deliveries/s", deliveries / (last - begun).as_secs_f64(), "/s");
    outcome.figure("messages accepted/s", size.messages as f64 / accepted.as_secs_f64(), "/s");
    outcome.figure("memory per stream", (open - contender.fresh).memory as f64 / 1024.0 / size.streams as f64, "KiB");
    outcome.figure("server CPU per delivery", used.cpu.as_secs_f64() * 1e6 / deliveries, "µs");
    outcome.times("from sent to read", latency);
    outcome.check_none(IN_ORDER, &wrong);
    topics[0].answer().await?;
    Ok(outcome)
}

/// What all watchers have read.
pub struct Read {
    /// When the last of them had read everything.
    pub last: Instant,
    /// From being sent to being read.
    pub latency: Times,
    /// Watchers that missed a message, or got one twice.
    pub wrong: Vec<String>,
}

/// Waits until all have read everything, or know that they never will.
pub async fn collect(mut watchers: JoinSet<Result<Watcher>>, sent: &[Instant]) -> Result<Read> {
    let mut read = Read { last: Instant::now(), latency: Times::default(), wrong: Vec::new() };
    let mut ends = Vec::new();
    let all = async {
        while let Some(watcher) = watchers.join_next().await {
            match watcher? {
                Ok(watcher) => ends.push(watcher),
                Err(error) => read.wrong.push(format!("{error:#}")),
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, all).await.context("not every message was read in time")??;
    let messages = || ends.iter().flat_map(Watcher::messages);
    read.last = messages().map(|message| message.read_at).max().unwrap_or(read.last);
    for message in messages() {
        let sent_at = sent.get(usize::try_from(message.number)? - 1).context("only what was sent is read")?;
        read.latency.add(message.read_at.saturating_duration_since(*sent_at));
    }
    Ok(read)
}

/// Those who wait for the end of a deployment, while others watch its output.
async fn both(subject: &dyn Subject, size: Size) -> Result<Outcome> {
    let mut topics = subject.topics(1).await?;
    let parked = park(&topics, size.polls).await?;
    let watchers = watch(&*topics[0], size.streams, size.messages).await?;
    settle(subject, size.polls + size.streams).await?;
    let begun = Instant::now();
    let sent = publish(&mut *topics[0], size.messages).await?;
    let Read { last, latency, wrong } = collect(watchers, &sent).await?;
    let (times, bodies) = fire(&mut topics, parked).await?;
    let mut outcome = Outcome::default();
    let deliveries = (size.streams * size.messages) as f64;
    outcome.figure("deliveries/s", deliveries / (last - begun).as_secs_f64(), "/s");
    outcome.figure("last one told after", times.max() as f64 / 1e3, "ms");
    outcome.times("from sent to read", latency);
    outcome.times("told after", times);
    outcome.check_none(IN_ORDER, &wrong);
    judge_polls(&mut outcome, subject, &bodies, size.polls);
    Ok(outcome)
}
