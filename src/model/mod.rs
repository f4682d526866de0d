//! What a slot, a line, a lease and a deployment are, and every rule about them: pure, without a store, a network or
//! a clock.

pub mod policy;

pub use policy::{Limits, LinePolicy, Policy, Preempt};
