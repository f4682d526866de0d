//! Which processes get SIGTERM, and when. Each process gets one, because a second one makes many programs give up their
//! orderly end; Terraform then loses the resources that it was creating from its state. See decision 0037.
//!
//! `timeout`, `tini`, `dumb-init`, a `run` inside this one and many scripts pass a SIGTERM on to their children, and
//! nobody can see from outside whether a process has received one. So it goes from the top of the process tree down:
//!
//! 1. The command itself gets it at once, and alone.
//! 2. When the command has ended, the processes that it leaves without a parent get it, and so on down. But if an ended
//!    process handled SIGTERM itself, it may have passed it on. Then only those processes below it get a SIGTERM at once
//!    that would have died of one, because they have received none.
//! 3. Whenever half of the time until the SIGKILL is over, the next level down gets it, because a command may wait for
//!    its child without having told it. This holds for the processes that were there at the beginning; a process that was
//!    started later is a program's way to clean up.
//!
//! `timeout` sends two signals to its child, one to the process and one to its group. Two signals that arrive while a
//! process is stopped become one. So the processes in the group of a process are stopped for the moment in which it
//! passes the signal on.
//!
//! The processes of a run inside the command are left to that run's own shim.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

use super::descendants::{Descendant, Handling, handling, ignores, is_at_work_on, is_stopped};

/// How long a process may take to pass a signal on while others are stopped. On a busy machine it may not run for a
/// while.
const PASS_ON_LIMIT: Duration = Duration::from_millis(500);

/// How often it is looked at meanwhile. The kernel sends no event when another process's child stops or goes to sleep.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Which processes have received their SIGTERM, and which may have.
pub(super) struct Terms {
    told: HashSet<Identity>,
    may_have_been_told: HashSet<Identity>,
    there_at_the_beginning: HashSet<Identity>,
}

type Identity = (Pid, u64);

impl Terms {
    /// No process has received one.
    pub(super) fn new() -> Self {
        Terms { told: HashSet::new(), may_have_been_told: HashSet::new(), there_at_the_beginning: HashSet::new() }
    }

    /// Sends this signal to the command. A SIGINT goes to its process group, as from a terminal, because a shell that
    /// waits for its child acts on SIGINT only after the child has ended.
    pub(super) fn begin(command: Pid, running: &[Descendant], signal: Signal) -> Self {
        let mut terms = Terms::new();
        terms.there_at_the_beginning = running.iter().map(Descendant::identity).collect();
        if let Some(command) = running.iter().find(|descendant| descendant.pid == command) {
            terms.tell(command, running, signal);
        }
        terms
    }

    /// Sends the signal to the processes whose turn it is.
    pub(super) fn go_on(&mut self, running: &[Descendant], command_has_ended: bool, next_level: bool) {
        let identities: HashMap<i32, Identity> =
            running.iter().map(|one| (one.pid.as_raw_nonzero().get(), one.identity())).collect();
        // Children first, so that one level at a time is signalled.
        for descendant in running.iter().rev() {
            let identity = descendant.identity();
            if descendant.has_own_shim || self.told.contains(&identity) {
                continue;
            }
            let is_due = match identities.get(&descendant.parent) {
                None if command_has_ended => {
                    next_level
                        || !self.may_have_been_told.contains(&identity)
                        || !deals_with(descendant.pid, Signal::TERM)
                }
                None => next_level && self.there_at_the_beginning.contains(&identity),
                Some(parent) => {
                    let is_next = self.told.contains(parent);
                    next_level && is_next && self.there_at_the_beginning.contains(&identity)
                }
            };
            if is_due {
                self.tell(descendant, running, Signal::TERM);
            }
        }
    }

    fn tell(&mut self, one: &Descendant, running: &[Descendant], signal: Signal) {
        self.told.insert(one.identity());
        let mut held = Vec::new();
        if deals_with(one.pid, signal) {
            let below = below(one.pid, running);
            self.may_have_been_told.extend(below.iter().map(|descendant| descendant.identity()));
            held = hold(below.into_iter().filter(|descendant| descendant.group == one.group), signal);
        }
        if signal == Signal::INT {
            let is_told = |other: &&Descendant| other.group == one.group && !ignores(other.pid, signal);
            self.told.extend(running.iter().filter(is_told).map(Descendant::identity));
            let _ = kill_process_group(one.pid, signal);
        } else {
            let _ = kill_process(one.pid, signal);
        }
        // A stopped process handles the signal only when it continues.
        let _ = kill_process(one.pid, Signal::CONT);
        if !held.is_empty() {
            wait_while(|| is_at_work_on(one.pid, signal));
        }
        for pid in held {
            let _ = kill_process(pid, Signal::CONT);
        }
        // It may wait for a process that was stopped together with it.
        if one.group == one.pid.as_raw_nonzero().get() {
            let _ = kill_process_group(one.pid, Signal::CONT);
        }
    }
}

/// The processes below a process.
fn below(root: Pid, running: &[Descendant]) -> Vec<&Descendant> {
    let mut parents = HashSet::from([root.as_raw_nonzero().get()]);
    let is_below = |descendant: &&Descendant| {
        let is_below = parents.contains(&descendant.parent);
        if is_below {
            parents.insert(descendant.pid.as_raw_nonzero().get());
        }
        is_below
    };
    // Parents come before their children.
    running.iter().filter(is_below).collect()
}

/// Stops the processes that a second signal would harm, and returns them. Any other process would die of the signal or
/// ignores it, so it need not be stopped.
fn hold<'a>(those: impl Iterator<Item = &'a Descendant>, signal: Signal) -> Vec<Pid> {
    let own = getpid();
    let may_be_held =
        |one: &&Descendant| !one.has_own_shim && one.pid != own && deals_with(one.pid, signal) && !is_stopped(one.pid);
    let held: Vec<Pid> = those.filter(may_be_held).map(|one| one.pid).collect();
    for pid in &held {
        let _ = kill_process(*pid, Signal::STOP);
    }
    wait_while(|| !held.iter().all(|pid| is_stopped(*pid)));
    held
}

/// Whether a process handles a signal itself, and so may pass it on. One that is about to start a process is waited for: it
/// has blocked all signals only meanwhile.
fn deals_with(pid: Pid, signal: Signal) -> bool {
    wait_while(|| handling(pid, signal) == Handling::Undecided);
    handling(pid, signal) != Handling::Not
}

/// Waits while `is_so` holds, within the limit.
fn wait_while(is_so: impl Fn() -> bool) {
    let give_up_at = Instant::now() + PASS_ON_LIMIT;
    while is_so() && Instant::now() < give_up_at {
        thread::sleep(LOOK_AGAIN);
    }
}
