//! `run`: this process is the deployment's worker. It takes the project's slot as `deploy` does, runs a command here while
//! it keeps the lease, and gives the slot back.
//!
//! `args` are the flags; `ahead` is what comes before the slot is asked for, `hold` goes from there to the end, `cause` says what that means; `relay` passes output on and `tap` copies it;
//! `terminal` is the command's own where somebody sits at ours;
//! `will` is what is told of it should it be killed;
//! `inside` is how the command's own `protect`, `fence check` and `run` speak to the `run` around them.

mod ahead;
mod args;
mod cause;
mod guard;
mod hold;
mod inside;
mod program;
mod relay;
mod tap;
mod terminal;
mod will;

pub use args::{FenceCheckArgs, FenceCommand, ProtectArgs, RunArgs, RunWhenHeld};
pub use guard::{check_fence, protect};
pub use hold::run;
pub use will::execute as execute_will;
