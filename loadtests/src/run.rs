//! What each scenario needs to know about its run, and the order in which the subjects are measured.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use anyhow::Result;
use indicatif::ProgressBar;

use crate::{
    peer,
    process::{Usage, usage},
    report::{Missing, Outcome, Summary},
    server::Recipe,
    singletrack::Singletrack,
    subject::{Ability, Subject},
};

/// How it is run, and what it has found so far.
pub struct Run {
    pub recipe: Recipe,
    /// Seconds instead of minutes, for the truth checks alone.
    pub small: bool,
    /// Whether peers are measured beside it.
    pub peers: bool,
    pub rounds: usize,
    pub progress: ProgressBar,
    pub missing: RefCell<Vec<Missing>>,
    pub summaries: RefCell<Vec<Summary>>,
    named: Cell<usize>,
}

/// Something that takes part.
pub struct Contender {
    pub name: String,
    pub subject: Box<dyn Subject>,
    /// What it needed when it was fresh. What is measured later may find room that something before it has left.
    pub fresh: Usage,
}

impl Contender {
    pub fn new(name: &str, subject: Box<dyn Subject>) -> Contender {
        let fresh = usage(&subject.processes());
        Contender { name: name.to_owned(), subject, fresh }
    }
}

impl Run {
    pub fn new(recipe: Recipe, small: bool, peers: bool, rounds: usize, progress: ProgressBar) -> Run {
        let (missing, summaries, named) = (RefCell::default(), RefCell::default(), Cell::new(0));
        Run { recipe, small, peers, rounds, progress, missing, summaries, named }
    }

    /// The one size or the other.
    pub fn scale<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }

    pub fn say(&self, text: impl Into<String>) {
        self.progress.set_message(text.into());
    }

    /// A name that no other slot of this run has.
    pub fn fresh(&self, prefix: &str) -> String {
        self.named.set(self.named.get() + 1);
        format!("{prefix}-{}", self.named.get())
    }

    /// Singletrack, and with `--peers` all peers that have this ability: running side by side, idle until it is their turn.
    pub async fn contenders(&self, ability: Ability, config: &str) -> Result<Vec<Contender>> {
        self.say("starting");
        let own = Singletrack::start(&self.recipe, config).await?;
        let mut contenders = vec![Contender::new(own.name(), Box::new(own))];
        let wanted = peer::all().into_iter().filter(|peer| self.peers && peer.abilities.contains(&ability));
        for peer in wanted {
            self.say(format!("starting {}", peer.name));
            match (peer.start)().await {
                Ok(subject) => contenders.push(Contender::new(peer.name, subject)),
                Err(error) => self.note_missing(peer.name, &error),
            }
        }
        Ok(contenders)
    }

    /// Measures each contender once a round, in turns, another one first each time, and keeps what that comes to. A peer that
    /// fails is named and left out from then on; a failure of ours is one of the run.
    pub async fn take_turns(
        &self,
        scenario: &str,
        contenders: &[Contender],
        measure: impl AsyncFn(&Contender) -> Result<Outcome>,
    ) -> Result<()> {
        let count = contenders.len();
        let mut outcomes: Vec<Vec<Outcome>> = contenders.iter().map(|_| Vec::new()).collect();
        let mut failed = vec![false; count];
        for round in 0..self.rounds {
            for turn in 0..count {
                let at = (round + turn) % count;
                let contender = &contenders[at];
                if failed[at] {
                    continue;
                }
                self.say(format!("{scenario}: {}, round {} of {}", contender.name, round + 1, self.rounds));
                match measure(contender).await {
                    Ok(outcome) => outcomes[at].push(outcome),
                    Err(error) if contender.subject.own().is_some() => {
                        return Err(error.context(format!("{scenario}, {}", contender.name)));
                    }
                    Err(error) => {
                        self.note_missing(&contender.name, &error.context(scenario.to_owned()));
                        failed[at] = true;
                    }
                }
                // What one has left behind must not be the next one's burden: dirty pages, closing connections.
                tokio::time::sleep(self.scale(Duration::from_millis(200), Duration::ZERO)).await;
            }
        }
        for (contender, outcomes) in contenders.iter().zip(outcomes) {
            if !outcomes.is_empty() {
                self.keep(Summary::of(scenario, &contender.name, &contender.subject.about(), outcomes));
            }
        }
        Ok(())
    }

    pub fn keep(&self, summary: Summary) {
        self.summaries.borrow_mut().push(summary);
    }

    fn note_missing(&self, peer: &str, error: &anyhow::Error) {
        let missing = Missing { peer: peer.to_owned(), why: format!("{error:#}") };
        let mut known = self.missing.borrow_mut();
        // Each scenario asks for it again.
        if !known.contains(&missing) {
            known.push(missing);
        }
    }
}
