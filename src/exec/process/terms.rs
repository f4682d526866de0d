//! Who gets SIGTERM, and when. Each process gets one: a second makes many programs give up their orderly end, and
//! Terraform then loses what it was making from its state. See decision 0037.
//!
//! `timeout`, `tini`, `dumb-init`, a `run` inside this one and many scripts pass a SIGTERM on to what they started, and
//! nobody can see from outside whether a process has had one. So it goes from the top of the process tree down:
//!
//! 1. The command itself gets it at once, and alone.
//! 2. When the command has ended, those that it leaves without a parent get it, and so on down. But where a process that
//!    ended had a way of its own to deal with SIGTERM, it may have passed it on: then only those below it get it at once
//!    that would have died of one, since they have had none.
//! 3. Whenever half of the time until the SIGKILL is over, the next level down gets it: a command may wait for its child
//!    without having told it. This is for those that were there at the beginning; what was started since is somebody's
//!    way to clean up.
//!
//! `timeout` sends two signals to its child by itself, one to the process and one to its group. Two that arrive while a
//! process is stopped become one, so what is in the group of a process is held for the moment in which that passes it on.
//!
//! The processes of a run inside the command are left to that run's own shim.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

use super::descendants::{Descendant, deals_with, ignores, is_at_work_on, is_stopped};

/// How long a process may take to pass a signal on while others are held: on a busy machine it may not run for a while.
const PASS_ON_LIMIT: Duration = Duration::from_millis(500);

/// How often it is looked at meanwhile. Nobody tells when another one's child stops or goes to sleep.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Who has had its SIGTERM, and who may have.
pub(super) struct Terms {
    told: HashSet<Identity>,
    may_have_been_told: HashSet<Identity>,
    there_at_the_beginning: HashSet<Identity>,
}

type Identity = (Pid, u64);

impl Terms {
    /// Nobody has had one.
    pub(super) fn new() -> Self {
        Terms { told: HashSet::new(), may_have_been_told: HashSet::new(), there_at_the_beginning: HashSet::new() }
    }

    /// Tells the command by this signal. A SIGINT goes to its process group, as from a terminal: a shell that waits for its
    /// child takes note of it only once that has ended.
    pub(super) fn begin(command: Pid, running: &[Descendant], signal: Signal) -> Self {
        let mut terms = Terms::new();
        terms.there_at_the_beginning = running.iter().map(Descendant::identity).collect();
        if let Some(command) = running.iter().find(|descendant| descendant.pid == command) {
            terms.tell(command, running, signal);
        }
        terms
    }

    /// Tells those whose turn it is.
    pub(super) fn go_on(&mut self, running: &[Descendant], command_has_ended: bool, next_level: bool) {
        let identities: HashMap<i32, Identity> =
            running.iter().map(|one| (one.pid.as_raw_nonzero().get(), one.identity())).collect();
        // Children first, so that one level at a time is told.
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
        // A stopped process hears it only when it goes on.
        let _ = kill_process(one.pid, Signal::CONT);
        if !held.is_empty() {
            wait_while(|| is_at_work_on(one.pid, signal));
        }
        for pid in held {
            let _ = kill_process(pid, Signal::CONT);
        }
        // It may wait for one that was stopped together with it.
        if one.group == one.pid.as_raw_nonzero().get() {
            let _ = kill_process_group(one.pid, Signal::CONT);
        }
    }
}

/// Those below a process.
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

/// Stops those that a second signal would harm, and answers them. The others it would end, or they ignore it.
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

/// Waits for as long as that is so, within the limit.
fn wait_while(is_so: impl Fn() -> bool) {
    let give_up_at = Instant::now() + PASS_ON_LIMIT;
    while is_so() && Instant::now() < give_up_at {
        thread::sleep(LOOK_AGAIN);
    }
}
