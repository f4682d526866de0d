//! Singletrack lets exactly one deploy of a project through at a time.
//!
//! ```text
//! client ─submit─▶ server ─▶ queue ─▶ store.transact(project): load ─▶ model decides ─▶ rows + events, one commit
//!                             ▲  ▲                                                                        │
//!       claim · heartbeat · ──┘  └── expire                                                               │ wake
//!       report · finish │            │                                                                    ▼ (a hint)
//!  executor ◀────── worker        reaper                                                              notifier
//! client ◀─ SSE or long-poll ─ server ◀─ watch: re-reads the store after the cursor ◀─────────────────────┘
//! ```
//!
//! The modules, in the order of that picture. Imports point one way: `model ← store ← {watch, queue} ← {worker,
//! reaper} ← server` and `model ← api ← {server, client}`; the client never sees the queue or a store. An agent is a
//! client that runs pipelines: `{client, worker} ← agent`. A test keeps it so.

pub mod agent;
pub mod api;
pub mod artifact;
pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub mod demo;
pub mod depot;
pub mod explain;
pub mod health;
pub mod log;
pub mod model;
pub mod names;
pub mod node;
pub mod notifier;
pub mod private;
pub mod queue;
pub mod reaper;
pub mod retention;
pub mod server;
pub mod store;
pub mod version;
pub mod watch;
pub mod worker;
