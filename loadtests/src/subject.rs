//! What a scenario measures: Singletrack or a peer, behind the same few traits, so that each of them gets the same load
//! from the same client.
//!
//! A [`Peer`] is an entry in the list of what can be measured. Starting a peer gives a [`Subject`]: a running system
//! with temporary data, which ends when the value is dropped. A subject offers what the abilities of its peer promise,
//! and refuses the rest.

use std::{net::SocketAddr, pin::Pin, process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{report::Times, singletrack::Singletrack};

/// What an asynchronous method of an object returns.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What can be measured on a subject.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ability {
    /// Taking and giving back free slots, durably: [`Subject::locker`].
    FreeSlots,
    /// Racing for one slot: [`Subject::racer`].
    Race,
    /// Wrapping a command into a slot, as a whole process: [`Subject::wrapper`].
    Wrap,
    /// Long-polls that park until an event: [`Subject::topics`] and [`Topic::poll`].
    Polls,
    /// Streams of server-sent events: [`Subject::topics`] and [`Topic::stream`].
    Streams,
    /// Durable jobs from being enqueued to being completed: [`Subject::jobs`].
    Jobs,
}

/// Something that people use today, and what of it is measured.
#[derive(Clone, Copy)]
pub struct Peer {
    /// Short and unique: `redis-blpop`. The goals name peers by it.
    pub name: &'static str,
    pub abilities: &'static [Ability],
    /// Starts it on free ports with throw-away data. That fails with a sentence which says what is missing, and the report
    /// names it: a peer is never skipped in silence.
    pub start: fn() -> Work<'static, Box<dyn Subject>>,
}

/// A running thing under test. Dropping it ends all that it started.
pub trait Subject: Send + Sync {
    /// Its version, and what it promises about durability, for the report: `etcd 3.4.23, each commit synced`.
    fn about(&self) -> String;

    /// The processes whose CPU time and memory count as its own; their children count too.
    fn processes(&self) -> Vec<u32>;

    /// Makes what these slots need before they can be taken, a row or a token; all of them are free afterwards.
    fn prepare<'a>(&'a self, _slots: &'a [String]) -> Work<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// A client with a connection of its own that takes and gives back slots that nobody else wants.
    fn locker(&self) -> Work<'_, Box<dyn Locker>> {
        refused("locks")
    }

    /// A client with a connection of its own that takes a slot which others hold or want, by the best practice of its kind:
    /// it is told, it does not poll.
    fn racer(&self) -> Work<'_, Box<dyn Locker>> {
        self.locker()
    }

    /// A whole process that takes the slot, runs `true` in it, gives it back, and ends with 0.
    fn wrapper(&self, _slot: &str) -> Result<Command> {
        bail!("this does not wrap commands")
    }

    /// This many topics that clients can wait at, all of them empty.
    fn topics(&self, _count: usize) -> Work<'_, Vec<Box<dyn Topic>>> {
        refused("tells clients of events")
    }

    /// Runs this load of durable jobs, whose work is nothing, to its end.
    fn jobs(&self, _load: JobLoad) -> Work<'_, JobsDone> {
        refused("runs jobs")
    }

    /// Singletrack itself, of which more is measured and checked than of peers.
    fn own(&self) -> Option<&Singletrack> {
        None
    }
}

fn refused<T>(what: &'static str) -> Work<'static, T> {
    Box::pin(async move { bail!("this is nothing that {what}") })
}

/// One client of something that keeps slots.
pub trait Locker: Send {
    /// Takes a slot: when this is over, it is held, durably. Waits where another one holds it.
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()>;

    /// Gives back what it took: when this is over, that is durable.
    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()>;
}

/// Something that clients wait at over HTTP/1.1: the load client opens the connections and reads the answers itself.
pub trait Topic: Send + Sync {
    fn address(&self) -> SocketAddr;

    /// The request that parks until the topic's event, and is then answered with 200.
    fn poll(&self) -> Get;

    /// The request that is answered with a stream of server-sent events without end. Each message has an `id:` line and one
    /// `data:` line in which its text stands.
    fn stream(&self) -> Get;

    /// The event that answers all that is parked.
    fn answer(&mut self) -> Work<'_, ()>;

    /// Sends a message to all streams; over when the server has accepted it. `text` is short, of letters, digits and `#`.
    fn publish<'a>(&'a mut self, text: &'a str) -> Work<'a, ()>;
}

/// A request without a body. `headers` are whole lines, each with its end.
#[derive(Clone, Debug, Default)]
pub struct Get {
    pub path: String,
    pub headers: String,
}

/// How jobs are enqueued: by `clients` at once, each job alone and durably. A client enqueues the next one when the last one is
/// acknowledged, `pause` has passed, and fewer than `outstanding` of its jobs are unfinished.
#[derive(Clone, Copy, Debug)]
pub struct JobLoad {
    pub clients: usize,
    pub outstanding: usize,
    pub pause: Duration,
    /// What is enqueued in this time first is not counted.
    pub warm_up: Duration,
    /// How long it is measured after that. Then nothing more is enqueued, and all that was is waited for.
    pub duration: Duration,
}

/// What became of a load of jobs.
#[derive(Default)]
pub struct JobsDone {
    /// How many were acknowledged, and how many ran, warm-up and end included: each must have run, and once.
    pub enqueued: u64,
    pub ran: u64,
    /// How many were completed within the measured time alone.
    pub completed: u64,
    /// From the moment before a job is enqueued to the moment when its work begins, of those enqueued in the measured time.
    pub starts: Times,
}
