//! Keeps the store small: finished output is compressed, what retention lets go is removed, and the room is given back.
//! All of it happens in small steps beside the traffic. See decisions 0078 and 0079.

mod age;
mod caretaker;
mod forgotten;
mod pack;
mod prune;
mod redact;
mod round;

pub use age::ages_judged_at;
pub use caretaker::{Caretaker, Interval, TASK};
pub use prune::{PrunePlan, PrunedProject, RulesOf, StayReason};
pub use redact::{LeakedSecret, REDACTED, RedactCount, redact};
pub use round::Pace;
