//! A random walk of commands through a naive model and the stores of all engines, which must agree after every step. The
//! stores are driven by the production verbs.
//!
//! `SINGLETRACK_WALK_CASES` sets how many walks there are, `SINGLETRACK_WALK_SEED` repeats a run.

mod engines;
mod reference;

use std::{env, hash::BuildHasher, sync::Arc};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use singletrack::model::{LinePolicy, Policy, Preempt};

use engines::{Engines, Walk};
use reference::{Act, Cause, Conflict, End, Proof, Seen, Stage, Told, Wish, World};

/// How many walks there are by default: some seconds of a debug build.
const CASES: u32 = 96;

/// How long a walk may be.
const STEPS: std::ops::RangeInclusive<usize> = 10..=80;

/// A command of the walk, whose target is chosen from what is there when its turn comes.
#[derive(Clone, Debug)]
pub enum Step {
    Submit(usize, Wish),
    /// Submits a wish again.
    Resubmit(usize, Target),
    Attend(usize, Target),
    Claim(usize, Target),
    Heartbeat(usize, Target, Shown),
    Report(usize, Target, Shown, Told),
    Cancel(usize, Target, Option<Target>),
    Finish(usize, Target, Shown, End),
    Lapse(usize, Target, Cause, Seen),
    Release(usize, Option<Target>),
    SetPolicy(usize, Policy),
    Pause(usize),
    Resume(usize),
    Settle(usize),
    Mark(usize, Option<u64>),
}

#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Who holds the slot.
    Holder,
    /// Somebody in line, counted from its head.
    InLine(usize),
    /// Who ended last.
    Ended,
    /// Anybody who was ever there.
    Any(usize),
    /// Somebody of the other project.
    Elsewhere(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum Shown {
    Own,
    /// The secret of another deployment.
    Of(Target),
}

impl ReferenceStateMachine for World {
    type State = World;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<World> {
        [policy(), policy()].prop_map(World::new).boxed()
    }

    fn transitions(world: &World) -> BoxedStrategy<Step> {
        // What is likely depends on where the first project's slot stands, so that most walks get somewhere.
        let line = &world.projects[0];
        let stage = line.holder().map(|at| line.all[at].stage);
        let often = |now: Stage| if stage == Some(now) { 12 } else { 2 };
        let paused = if line.paused || line.policy.paused { 6 } else { 1 };
        let (reserved, ready, running) = (often(Stage::Reserved), often(Stage::Ready), often(Stage::Running));
        // Most of a walk is in one project, so that much happens to it.
        let project = || prop_oneof![4 => Just(0_usize), 1 => Just(1)];
        prop_oneof![
            10 => (project(), wish()).prop_map(|(project, wish)| Step::Submit(project, wish)),
            reserved => (project(), target()).prop_map(|(project, target)| Step::Resubmit(project, target)),
            2 => (project(), target()).prop_map(|(project, target)| Step::Attend(project, target)),
            ready => (project(), target()).prop_map(|(project, target)| Step::Claim(project, target)),
            2 => (project(), target(), shown())
                .prop_map(|(project, target, shown)| Step::Heartbeat(project, target, shown)),
            2 => (project(), target(), shown(), told())
                .prop_map(|(project, target, shown, told)| Step::Report(project, target, shown, told)),
            2 => (project(), target()).prop_map(|(project, target)| Step::Cancel(project, target, None)),
            4 => (project(), target(), successor())
                .prop_map(|(project, target, successor)| Step::Cancel(project, target, Some(successor))),
            running => (project(), target(), shown(), end())
                .prop_map(|(project, target, shown, end)| Step::Finish(project, target, shown, end)),
            3 => (project(), target(), cause(), seen())
                .prop_map(|(project, target, cause, seen)| Step::Lapse(project, target, cause, seen)),
            1 => (project(), prop::option::of(target())).prop_map(|(project, only)| Step::Release(project, only)),
            1 => (project(), policy()).prop_map(|(project, policy)| Step::SetPolicy(project, policy)),
            2 => project().prop_map(Step::Pause),
            paused => project().prop_map(Step::Resume),
            paused => project().prop_map(Step::Settle),
            2 => (project(), prop::option::of(1_u64..8)).prop_map(|(project, order)| Step::Mark(project, order)),
        ]
        .boxed()
    }

    fn apply(mut world: World, step: &Step) -> World {
        match world.resolve(step) {
            Some(act) => world.act(act),
            None => world.last = None,
        }
        world
    }
}

impl World {
    /// The command with its targets; `None` where nobody is there to be one.
    fn resolve(&self, step: &Step) -> Option<Act> {
        Some(match *step {
            Step::Submit(project, ref wish) => Act::Submit(project, self.count + 1, wish.clone()),
            Step::Resubmit(project, target) => {
                let number = self.target(project, target)?;
                let made = self.projects.iter().flat_map(|line| &line.all).find(|dep| dep.number == number)?;
                Act::Submit(project, self.count + 1, made.wish.clone())
            }
            Step::Attend(project, target) => Act::Attend(project, self.target(project, target)?),
            Step::Claim(project, target) => Act::Claim(project, self.target(project, target)?),
            Step::Heartbeat(project, target, shown) => {
                let number = self.target(project, target)?;
                Act::Heartbeat(project, number, self.proof(project, number, shown)?)
            }
            Step::Report(project, target, shown, told) => {
                let number = self.target(project, target)?;
                Act::Report(project, number, self.proof(project, number, shown)?, told)
            }
            Step::Cancel(project, target, successor) => {
                let successor = match successor {
                    Some(successor) => Some(self.target(project, successor)?),
                    None => None,
                };
                Act::Cancel(project, self.target(project, target)?, successor)
            }
            Step::Finish(project, target, shown, end) => {
                let number = self.target(project, target)?;
                Act::Finish(project, number, self.proof(project, number, shown)?, end)
            }
            Step::Lapse(project, target, cause, seen) => {
                Act::Lapse(project, self.target(project, target)?, cause, seen)
            }
            Step::Release(project, only) => Act::Release(project, only.and_then(|only| self.target(project, only))),
            Step::SetPolicy(project, ref policy) => Act::SetPolicy(project, policy.clone()),
            Step::Pause(project) => Act::Pause(project),
            Step::Resume(project) => Act::Resume(project),
            Step::Settle(project) => Act::Settle(project),
            Step::Mark(project, order) => Act::Mark(project, order),
        })
    }

    fn target(&self, project: usize, target: Target) -> Option<u64> {
        let line = &self.projects[project];
        let pick = |from: &[usize], nth: usize| from.get(nth % from.len().max(1)).copied();
        let (line, at) = match target {
            Target::Holder => (line, line.holder()),
            Target::Ended => {
                let ended = (0..line.all.len()).filter(|at| matches!(line.all[*at].stage, Stage::Done(..)));
                (line, ended.max_by_key(|at| line.all[*at].revision))
            }
            Target::InLine(nth) => (line, pick(&line.waiting(), nth)),
            Target::Any(nth) => (line, pick(&(0..line.all.len()).collect::<Vec<_>>(), nth)),
            Target::Elsewhere(nth) => {
                let line = &self.projects[1 - project];
                (line, pick(&(0..line.all.len()).collect::<Vec<_>>(), nth))
            }
        };
        at.map(|at| line.all[at].number)
    }

    fn proof(&self, project: usize, number: u64, shown: Shown) -> Option<Proof> {
        Some(match shown {
            Shown::Own => Proof::Own,
            Shown::Of(target) => match self.target(project, target)? {
                own if own == number => Proof::Own,
                other => Proof::Foreign(other),
            },
        })
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    let line = prop_oneof![1 => Just(LinePolicy::All), 1 => Just(LinePolicy::Latest)];
    let preempt = prop_oneof![
        2 => Just(Preempt::Allow),
        1 => Just(Preempt::Never),
        2 => (0_u32..3).prop_map(|times| Preempt::Times { times }),
    ];
    (line, 1_u32..6, preempt, prop::bool::weighted(0.05)).prop_map(|(line, line_limit, preempt, paused)| Policy {
        line,
        line_limit,
        preempt,
        paused,
        ..Policy::default()
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let on_conflict = prop_oneof![1 => Just(Conflict::Refuse), 3 => Just(Conflict::Wait), 2 => Just(Conflict::Queue)];
    let key = prop::option::weighted(0.7, (0_u8..20, prop::bool::weighted(0.2).prop_map(u8::from)));
    let order = prop::option::of(1_u64..8);
    let run = prop::option::weighted(0.4, 0_u8..3);
    let overrides = prop::bool::weighted(0.1);
    (on_conflict, key, order, prop::bool::weighted(0.2), run, any::<bool>(), any::<bool>(), overrides).prop_map(
        |(on_conflict, key, order, rollback, run, deadline, client, overrides)| Wish {
            on_conflict,
            key,
            order,
            rollback,
            run,
            deadline,
            client,
            overrides,
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        10 => Just(Target::Holder),
        6 => (0_usize..6).prop_map(Target::InLine),
        2 => Just(Target::Ended),
        2 => (0_usize..64).prop_map(Target::Any),
        1 => (0_usize..64).prop_map(Target::Elsewhere),
    ]
}

fn successor() -> impl Strategy<Value = Target> {
    prop_oneof![5 => (0_usize..6).prop_map(Target::InLine), 1 => target()]
}

fn shown() -> impl Strategy<Value = Shown> {
    prop_oneof![8 => Just(Shown::Own), 1 => target().prop_map(Shown::Of)]
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![Just(Told::Phase), (0_u8..=100).prop_map(Told::Progress), Just(Told::Output), Just(Told::Log)]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![2 => Just(End::Succeeded), 1 => Just(End::Failed), 2 => Just(End::Stopped)]
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![3 => Just(Cause::Silence), 1 => Just(Cause::Deadline), 1 => Just(Cause::WorkerGone)]
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![3 => Just(Seen::Now), 1 => Just(Seen::EarlierPulse), 1 => Just(Seen::EarlierRevision)]
}

#[test]
fn the_stores_and_a_naive_model_agree_on_every_walk() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let cases = number("SINGLETRACK_WALK_CASES").map_or(CASES, |cases| cases.try_into().expect("a small number"));
    let seed = number("SINGLETRACK_WALK_SEED").unwrap_or_else(|| std::hash::RandomState::new().hash_one(0));
    // Shown by the test harness when the test fails.
    println!("SINGLETRACK_WALK_SEED={seed} SINGLETRACK_WALK_CASES={cases}");
    let config = Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };

    let engines = Arc::new(Engines::start());
    engines::set_current(&engines);
    let mut runner = TestRunner::new(config.clone());
    let walked = runner.run(&World::sequential_strategy(STEPS), |(world, steps, seen)| {
        Walk::test_sequential(config.clone(), world, steps, seen);
        Ok(())
    });
    if let Err(failure) = walked {
        panic!("repeat it with SINGLETRACK_WALK_SEED={seed}: {failure}");
    }
    engines.require_coverage();
}

impl StateMachineTest for Walk {
    type SystemUnderTest = Walk;
    type Reference = World;

    fn init_test(world: &World) -> Walk {
        Walk::start(engines::current(), world)
    }

    fn apply(mut walk: Walk, world: &World, _: Step) -> Walk {
        walk.step(world);
        walk
    }

    fn check_invariants(walk: &Walk, world: &World) {
        walk.compare(world);
    }

    fn teardown(walk: Walk, _: World) {
        walk.end();
    }
}
