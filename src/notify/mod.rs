//! Sends notifications: takes them from the store's outbox, and tells the targets of the configuration. See decisions 0086
//! and 0087.
//!
//! ```text
//! a commit with rows ─▶ wake ─▶ which rules are due? ─▶ claim, as many as have a place ─▶ send, each by itself ─▶ settle
//!                        ▲                                                                                         │
//!                        └──────────────────────────────── a place is free ────────────────────────────────────────┘
//! ```
//!
//! No decision waits for any of this. Each rule has its own places, so a slow target holds up no other one. A server whose
//! configuration has no rules leaves the store alone.

mod address;
mod backoff;
mod chat;
mod client;
mod deliver;
mod dispatch;
mod github;
mod gitlab;
mod message;
mod webhook;

pub use dispatch::{Dispatcher, NotificationFigure, OnFigure, TASK};
