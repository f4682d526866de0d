//! Waiting for something to become true of a deployment, and following its events.
//!
//! `wakes` are hints that something was committed, told after the commit, and `shared` is what those who were woken together
//! have read. `wait` parks on them on behalf of clients, `follow` is one reader of events, from where it `begin`s, and
//! `seekers` wait for work.

mod begin;
mod follow;
mod seekers;
mod shared;
mod wait;
mod wakes;

pub use begin::{StartingPoint, WantedEvents};
pub use follow::Follow;
pub use seekers::Seeker;
pub use shared::{EventPage, Seen, Shared, SharedRead};
pub use wait::{EVENT_PAGE_LIMIT, Waited, Watch, WatchError, fallback_task};
pub use wakes::{Notifier, Subscription, Topic};
