//! Singletrack lets exactly one deploy of a project through at a time.
//!
//! ```text
//! client ─submit─▶ http ─▶ queue ─▶ store.transact(project): load ─▶ model decides ─▶ rows + events, one commit
//!                            ▲  ▲                                                                        │
//!      claim · heartbeat · ──┘  └── expire                                                               │ wake
//!      report · finish │            │                                                                    ▼ (a hint)
//! exec ◀────────── worker        reaper                                                           watch::Notifier
//! client ◀─ SSE or long-poll ─ http ◀─ watch: re-reads the store after the cursor ◀──────────────────────┘
//! ```
//!
//! The modules stand in the order of that flow: what everybody knows, then what runs a deployment, the client, the server
//! from the store up, and the command line that starts them all. Imports point one way; `tests/it/tidy.rs` has the exact
//! list of edges. `exec` and `client` know no store, no queue and no server.

// What everybody knows.
pub mod clean;
pub mod clock;
pub mod config;
pub mod explain;
pub mod health;
pub mod log;
pub mod model;
pub mod private;
pub mod version;
pub mod wire;

// What runs one deployment, on whichever machine.
pub mod exec;

// The client, and the agent, which is a client that runs pipelines.
pub mod client;

// The server, from the store up.
pub mod artifacts;
pub mod http;
pub mod notify;
pub mod queue;
pub mod reaper;
pub mod server;
pub mod store;
pub mod upkeep;
pub mod watch;
pub mod worker;

// The command line.
pub mod cli;
pub mod static_libc;
