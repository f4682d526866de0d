//! Waiting for something to become true of a deployment, and following its events.
//!
//! `wakes` are hints that something was committed, sent after the commit, and `shared` holds the reads of waiters that
//! were woken together. `wait` parks on the hints on behalf of clients, `follow` is one reader of events, `begin` finds
//! where that reader starts, and `seekers` wait for work. `board` tells which projects changed.

mod begin;
mod board;
mod follow;
mod seekers;
mod shared;
mod wait;
mod wakes;

pub use begin::{StartingPoint, WantedEvents};
pub use board::{Board, Changed, ProjectChange};
pub use follow::Follow;
pub use seekers::Seeker;
pub use shared::{EventPage, Seen, Shared, SharedRead};
pub use wait::{EVENT_PAGE_LIMIT, Waited, Watch, WatchError, fallback_task};
pub use wakes::{Notifier, Subscription, Topic};
