//! What a project's slot and line should do, written as naively as possible: one list of deployments in the order of
//! arrival, searched from the front for every question. It shares nothing with `singletrack::model` but the policy.

use singletrack::model::{LinePolicy, Policy, Preempt};

/// The two projects of a walk. They share the store, and nothing else.
#[derive(Clone, Debug)]
pub struct World {
    pub projects: [Line; 2],
    /// How many deployments both have: the next one's number.
    pub count: u64,
    /// What the last command came down to, and what it should have been answered.
    pub last: Option<(Act, String)>,
}

/// A project.
#[derive(Clone, Debug)]
pub struct Line {
    pub policy: Policy,
    /// Whether somebody paused it.
    pub paused: bool,
    pub revision: u64,
    /// The mark, and the deployment that made it by its start; nobody's where it was set.
    pub mark: Option<(u64, Option<u64>)>,
    pub preempted: u32,
    pub last_outcome: Option<u64>,
    pub last_success: Option<u64>,
    pub all: Vec<Dep>,
    /// Who waits, the next one first.
    pub line: Vec<usize>,
}

/// A deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dep {
    pub number: u64,
    /// Its number in its project: none is ever deleted, so it is how many there were then.
    pub short_number: u64,
    pub wish: Wish,
    pub ticket: u64,
    pub revision: u64,
    pub stage: Stage,
    pub pulse: u64,
    pub progress: u8,
    pub events: u64,
    /// Whether its worker told of the one output that it has.
    pub has_output: bool,
    /// Asked to stop, and for whom.
    pub cancel: Option<Option<u64>>,
    pub started: bool,
    /// Was put before older ones in line.
    pub put_ahead: bool,
    /// Was put before all who are held.
    pub passes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Ticket,
    Queued,
    Reserved,
    Ready,
    Running,
    Done(&'static str, Option<u64>),
}

/// A submit, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub on_conflict: Conflict,
    /// A key and which of two bodies it comes with.
    pub key: Option<(u8, u8)>,
    pub order: Option<u64>,
    pub rollback: bool,
    /// The CI run.
    pub run: Option<u8>,
    pub deadline: bool,
    pub client: bool,
    /// Whether no hold holds it.
    pub overrides: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    #[default]
    Refuse,
    Wait,
    Queue,
}

/// A command whose target is known.
#[derive(Clone, Debug)]
pub enum Act {
    Submit(usize, u64, Wish),
    Attend(usize, u64),
    Claim(usize, u64),
    Heartbeat(usize, u64, Proof),
    Report(usize, u64, Proof, Told),
    Cancel(usize, u64, Option<u64>),
    Finish(usize, u64, Proof, End),
    Lapse(usize, u64, Cause, Seen),
    Release(usize, Option<u64>),
    SetPolicy(usize, Policy),
    Pause(usize),
    Resume(usize),
    Settle(usize),
    Mark(usize, Option<u64>),
}

/// Which secret a worker shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Own,
    /// That of another deployment, or one that nobody ever had.
    Foreign(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Phase,
    Progress(u8),
    Output,
    Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded,
    Failed,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Silence,
    Deadline,
    WorkerGone,
}

/// What an observer saw of the vital signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Now,
    /// One sign of life less.
    EarlierPulse,
    /// One slot change less.
    EarlierRevision,
}

impl World {
    pub fn new(policies: [Policy; 2]) -> Self {
        let line = |policy| Line {
            policy,
            paused: false,
            revision: 0,
            mark: None,
            preempted: 0,
            last_outcome: None,
            last_success: None,
            all: Vec::new(),
            line: Vec::new(),
        };
        World { projects: policies.map(line), count: 0, last: None }
    }

    /// Does it, and remembers what should be answered.
    pub fn act(&mut self, act: Act) {
        let answer = match &act {
            Act::Submit(project, number, wish) => {
                self.count += 1;
                self.projects[*project].submit(*number, wish)
            }
            Act::Attend(project, number) => self.projects[*project].attend(*number),
            Act::Claim(project, number) => self.projects[*project].claim(*number),
            Act::Heartbeat(project, number, proof) => self.projects[*project].heartbeat(*number, *proof),
            Act::Report(project, number, proof, told) => self.projects[*project].report(*number, *proof, *told),
            Act::Cancel(project, number, successor) => self.projects[*project].cancel(*number, *successor),
            Act::Finish(project, number, proof, end) => self.projects[*project].finish(*number, *proof, *end),
            Act::Lapse(project, number, cause, seen) => self.projects[*project].lapse(*number, *cause, *seen),
            Act::Release(project, only) => self.projects[*project].release(*only),
            Act::SetPolicy(project, policy) => {
                self.projects[*project].policy = policy.clone();
                "done".to_owned()
            }
            Act::Pause(project) => self.projects[*project].pause(),
            Act::Resume(project) => self.projects[*project].resume(),
            Act::Settle(project) => self.projects[*project].settle(),
            Act::Mark(project, order) => self.projects[*project].set_mark(*order),
        };
        self.last = Some((act, answer));
    }
}

impl Line {
    pub fn holder(&self) -> Option<usize> {
        self.all.iter().position(|dep| matches!(dep.stage, Stage::Reserved | Stage::Ready | Stage::Running))
    }

    pub fn waiting(&self) -> Vec<usize> {
        self.line.clone()
    }

    /// Whether one is newer than the other. Their places in the list are the order of their arrival.
    pub fn is_newer(&self, b: usize, a: usize) -> bool {
        let (new, old) = (&self.all[b].wish, &self.all[a].wish);
        match (new.order, old.order) {
            (Some(new_order), Some(old_order)) if !new.rollback && !old.rollback => new_order > old_order,
            _ if new.run.is_some() && new.run == old.run => false,
            _ => b > a,
        }
    }

    /// Whether it would end the other one, which waits, if it were put before it.
    fn supersedes(&self, b: usize, a: usize) -> bool {
        self.is_newer(b, a) && (self.all[b].wish.rollback || !self.all[a].wish.rollback)
    }

    /// Whether it ends the other one, which waits behind it, when it starts.
    fn will_supersede(&self, b: usize, a: usize) -> bool {
        let goes_forwards = |at: usize| self.all[at].wish.order.is_some() && !self.all[at].wish.rollback;
        let by_order = goes_forwards(b) && goes_forwards(a);
        !self.all[b].started && self.supersedes(b, a) && (self.all[b].put_ahead || by_order)
    }

    /// Whether it was told, or should have been, that somebody before it ends it.
    fn is_overtaken(&self, at: usize) -> bool {
        let ahead = self.line.iter().take_while(|ahead| **ahead != at).copied();
        self.holder().into_iter().chain(ahead).any(|ahead| self.will_supersede(ahead, at))
    }

    /// Stands before the first older one behind the last newer one. Whoever is overtaken by that for the first time is told.
    fn put_ahead(&mut self, at: usize) -> bool {
        let others: Vec<_> = self.line.iter().copied().filter(|other| *other != at).collect();
        let is_behind = |other: &usize| self.is_newer(*other, at) || self.all[*other].passes;
        let behind_newer = others.iter().rposition(is_behind).map_or(0, |newer| newer + 1);
        let first_older = (behind_newer..others.len()).find(|place| self.supersedes(at, others[*place]));
        let Some(place) = first_older else { return false };
        let stands = |one: usize| self.line.iter().position(|other| *other == one);
        if stands(at) < stands(others[place]) {
            return false;
        }
        let was_told: Vec<_> = self.all.iter().enumerate().map(|(other, _)| self.is_overtaken(other)).collect();
        for other in &others[place..] {
            if self.supersedes(at, *other) && !was_told[*other] {
                self.all[*other].events += 1;
            }
        }
        self.line.retain(|other| *other != at);
        self.line.insert(place, at);
        self.all[at].put_ahead = true;
        true
    }

    /// Stands before all who are held. Whoever is overtaken by that for the first time is told.
    fn pass(&mut self, at: usize) {
        let was_told: Vec<_> = self.all.iter().enumerate().map(|(other, _)| self.is_overtaken(other)).collect();
        self.line.retain(|other| *other != at);
        let place = self.passing();
        for other in &self.line[place..] {
            if self.will_supersede(at, *other) && !was_told[*other] {
                self.all[*other].events += 1;
            }
        }
        self.line.insert(place, at);
        self.all[at].passes = true;
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.all.iter().position(|dep| dep.number == number)
    }

    /// Whether the mark makes it outdated, and whose the mark is.
    fn newer_than(&self, wish: &Wish) -> Option<Option<u64>> {
        match (wish.order, self.mark) {
            (Some(order), Some((newest, by))) if order < newest && !wish.rollback => Some(by),
            _ => None,
        }
    }

    fn set_mark(&mut self, order: Option<u64>) -> String {
        let changes = order != self.mark.map(|(order, _)| order);
        if changes {
            self.mark = order.map(|order| (order, None));
            self.revision += 1;
        }
        let outdated = self.line.iter().filter(|at| self.newer_than(&self.all[**at].wish).is_some()).count();
        format!("marked {:?}, changed {changes}, {outdated} outdated", self.mark)
    }

    fn enter(&mut self, at: usize, stage: Stage) {
        self.line.retain(|waiting| *waiting != at);
        self.revision += 1;
        self.all[at].revision = self.revision;
        self.all[at].stage = stage;
    }

    fn end(&mut self, at: usize, code: &'static str, by: Option<u64>) {
        let held = self.holder() == Some(at);
        self.enter(at, Stage::Done(code, by));
        self.all[at].events += 2;
        if self.all[at].started {
            self.last_outcome = Some(self.all[at].number);
            if code == "SUCCEEDED" {
                self.last_success = self.last_outcome;
            }
            match code {
                "SUPERSEDED" => self.preempted += 1,
                "CANCELLED" => {}
                _ => self.preempted = 0,
            }
        }
        if held {
            self.serve();
        }
    }

    /// Whether its project is held, and it does not pass.
    fn is_held(&self, wish: &Wish) -> bool {
        (self.paused || self.policy.paused) && !wish.overrides
    }

    /// Gives a free slot to the first in line, unless it is held.
    fn serve(&mut self) {
        if self.holder().is_none()
            && let Some(first) = self.waiting().first().copied()
            && !self.is_held(&self.all[first].wish)
        {
            let stage = if self.all[first].stage == Stage::Ticket { Stage::Reserved } else { Stage::Ready };
            self.enter(first, stage);
            self.all[first].events += 1;
        }
    }

    /// How many in line were put before all who are held.
    fn passing(&self) -> usize {
        self.line.iter().take_while(|at| self.all[**at].passes).count()
    }

    /// Whoever has the slot, is held, and has not started, is the next in line again.
    fn take_back(&mut self) -> bool {
        let Some(at) = self.holder().filter(|at| self.all[*at].stage != Stage::Running) else { return false };
        if !self.is_held(&self.all[at].wish) {
            return false;
        }
        let stage = if self.all[at].stage == Stage::Reserved { Stage::Ticket } else { Stage::Queued };
        let place = self.passing();
        self.enter(at, stage);
        self.line.insert(place, at);
        self.all[at].events += 1;
        self.serve();
        true
    }

    fn settle(&mut self) -> String {
        if self.paused || self.policy.paused {
            for at in self.line.clone() {
                if self.all[at].wish.overrides && !self.all[at].passes {
                    self.revision += 1;
                    let dep = &mut self.all[at];
                    (dep.revision, dep.passes, dep.put_ahead) = (self.revision, true, false);
                    dep.events += 1;
                }
            }
            let tickets: Vec<_> = self.all.iter().map(|dep| (!dep.passes, dep.ticket)).collect();
            self.line.sort_by_key(|at| if tickets[*at].0 { (true, 0) } else { tickets[*at] });
            self.take_back();
        }
        self.serve();
        self.standing()
    }

    fn pause(&mut self) -> String {
        let was = std::mem::replace(&mut self.paused, true);
        self.revision += 1;
        format!("was {was}, {}", self.settle())
    }

    fn resume(&mut self) -> String {
        let was = std::mem::replace(&mut self.paused, false);
        self.revision += u64::from(was);
        format!("was {was}, {}", self.settle())
    }

    fn standing(&self) -> String {
        let holder = self.holder().map(|at| self.all[at].number);
        format!("held {}, slot {holder:?}, {} wait", self.paused || self.policy.paused, self.line.len())
    }

    /// Ends it where it does not run, asks where it does.
    fn stop(&mut self, at: usize, by: Option<u64>) {
        let dep = &mut self.all[at];
        match dep.stage {
            Stage::Done(..) => {}
            Stage::Running => {
                let heard = match dep.cancel {
                    None => true,
                    Some(None) => by.is_some(),
                    Some(Some(_)) => false,
                };
                if heard {
                    dep.cancel = Some(by);
                    dep.events += 1;
                }
            }
            Stage::Ticket | Stage::Queued | Stage::Reserved | Stage::Ready => {
                dep.cancel = Some(by);
                dep.events += 1;
                self.end(at, if by.is_some() { "SUPERSEDED" } else { "CANCELLED" }, by);
            }
        }
    }

    fn submit(&mut self, number: u64, wish: &Wish) -> String {
        self.serve();
        if let Some((key, body)) = wish.key
            && let Some(made) = self.all.iter().position(|dep| dep.wish.key.is_some_and(|(known, _)| known == key))
        {
            let same = self.all[made].wish.key == Some((key, body));
            return if same { self.repeat(made) } else { "rejected KeyReused".to_owned() };
        }
        let is_held = self.is_held(wish);
        if is_held && wish.on_conflict == Conflict::Refuse {
            return "rejected Paused".to_owned();
        }
        if self.newer_than(wish).is_some() {
            return "rejected Outdated".to_owned();
        }
        let holder = self.holder().map(|at| self.all[at].number);
        let waits = holder.is_some() || is_held;
        let (stage, answer) = match wish.on_conflict {
            _ if !waits => (Stage::Ready, format!("accepted {number}")),
            Conflict::Refuse => return format!("conflict {holder:?} ticket None"),
            Conflict::Wait => (Stage::Ticket, format!("conflict {holder:?} ticket {:?}", Some(number))),
            Conflict::Queue => (Stage::Queued, format!("accepted {number}")),
        };
        if waits && self.line.len() >= self.policy.line_limit as usize {
            return "rejected LineFull".to_owned();
        }
        self.revision += 1;
        self.all.push(Dep {
            number,
            short_number: self.all.len() as u64 + 1,
            wish: wish.clone(),
            ticket: self.revision,
            revision: self.revision,
            stage,
            pulse: 0,
            progress: 0,
            events: 2,
            has_output: false,
            cancel: None,
            started: false,
            put_ahead: false,
            passes: false,
        });
        if waits {
            let at = self.all.len() - 1;
            self.line.push(at);
            if wish.overrides && (self.paused || self.policy.paused) {
                self.pass(at);
            } else if self.policy.line == LinePolicy::Latest {
                self.put_ahead(at);
            }
        }
        answer
    }

    /// The same request again.
    fn repeat(&mut self, made: usize) -> String {
        let number = self.all[made].number;
        match self.all[made].stage {
            Stage::Reserved => {
                if let Some(newer) = self.newer_than(&self.all[made].wish) {
                    self.stop(made, newer);
                    return "rejected Outdated".to_owned();
                }
                if self.take_back() {
                    let holder = self.holder().map(|at| self.all[at].number);
                    return format!("conflict {holder:?} ticket {:?}", Some(number));
                }
                self.enter(made, Stage::Ready);
                format!("accepted {number}")
            }
            Stage::Ticket => {
                self.all[made].pulse += 1;
                let holder = self.holder().map(|at| self.all[at].number);
                format!("conflict {holder:?} ticket {:?}", Some(number))
            }
            Stage::Done("EXPIRED", _) => "rejected DeadlinePassed".to_owned(),
            Stage::Queued | Stage::Ready | Stage::Running | Stage::Done(..) => format!("replayed {number}"),
        }
    }

    fn attend(&mut self, number: u64) -> String {
        if let Some(at) = self.find(number)
            && self.all[at].stage == Stage::Ticket
        {
            self.all[at].pulse += 1;
        }
        "done".to_owned()
    }

    fn claim(&mut self, number: u64) -> String {
        let has_slot = |dep: &Dep| matches!(dep.stage, Stage::Ready | Stage::Reserved);
        let Some(at) = self.find(number).filter(|at| has_slot(&self.all[*at])) else {
            return "nothing".to_owned();
        };
        let is_ready = self.all[at].stage == Stage::Ready;
        if let Some(newer) = self.newer_than(&self.all[at].wish).filter(|_| is_ready) {
            self.stop(at, newer);
            return "nothing".to_owned();
        }
        // Whoever has the slot while the project is held loses it to any look at it.
        if self.take_back() || !is_ready {
            return "nothing".to_owned();
        }
        self.enter(at, Stage::Running);
        let token = self.revision;
        self.all[at].pulse += 1;
        self.all[at].events += 1;
        self.all[at].started = true;
        for older in self.line.clone() {
            // As it stood before it started.
            self.all[at].started = false;
            if self.will_supersede(at, older) {
                self.all[at].started = true;
                self.stop(older, Some(number));
            }
        }
        self.all[at].started = true;
        if let Some(order) = self.all[at].wish.order
            && !self.all[at].wish.rollback
            && self.mark.is_none_or(|(newest, _)| newest <= order)
        {
            self.mark = Some((order, Some(number)));
        }
        format!("claimed {token}")
    }

    /// The deployment, if it runs and the proof is its worker's.
    fn leased(&self, number: u64, proof: Proof) -> Option<usize> {
        self.find(number).filter(|at| self.all[*at].stage == Stage::Running && proof == Proof::Own)
    }

    /// What a worker is told of a deployment that it has no lease of.
    fn without_lease(&self, number: u64) -> String {
        if self.find(number).is_some() { "lease lost" } else { "not found" }.to_owned()
    }

    fn heartbeat(&mut self, number: u64, proof: Proof) -> String {
        let Some(at) = self.leased(number, proof) else { return self.without_lease(number) };
        self.all[at].pulse += 1;
        format!("alive {:?}", self.all[at].cancel)
    }

    fn report(&mut self, number: u64, proof: Proof, told: Told) -> String {
        let Some(at) = self.leased(number, proof) else { return self.without_lease(number) };
        let dep = &mut self.all[at];
        match told {
            Told::Phase | Told::Log => dep.events += 1,
            Told::Progress(progress) => {
                dep.events += 1;
                dep.progress = dep.progress.max(progress);
            }
            Told::Output => {
                // Told once: the value is always the same.
                dep.events += u64::from(!dep.has_output);
                dep.has_output = true;
            }
        }
        "done".to_owned()
    }

    fn finish(&mut self, number: u64, proof: Proof, end: End) -> String {
        if let Some(at) = self.leased(number, proof) {
            match (end, self.all[at].cancel) {
                (End::Succeeded, _) => {
                    self.all[at].progress = 100;
                    self.end(at, "SUCCEEDED", None);
                }
                (End::Failed, _) => self.end(at, "PHASE_FAILED", None),
                (End::Stopped, Some(Some(by))) => self.end(at, "SUPERSEDED", Some(by)),
                (End::Stopped, _) => self.end(at, "CANCELLED", None),
            }
        } else {
            // The same again, by the same worker, is answered as it was.
            let again = self.find(number).is_some_and(|at| {
                let dep = &self.all[at];
                let Stage::Done(code, _) = dep.stage else { return false };
                let agrees = match end {
                    End::Succeeded => code == "SUCCEEDED",
                    End::Failed => code == "PHASE_FAILED",
                    End::Stopped => matches!(code, "CANCELLED" | "SUPERSEDED"),
                };
                dep.started && proof == Proof::Own && agrees
            });
            if !again {
                return self.without_lease(number);
            }
        }
        let at = self.find(number).expect("it was found before");
        format!("finished {:?}", self.all[at].stage)
    }

    fn cancel(&mut self, number: u64, successor: Option<u64>) -> String {
        let Some(target) = self.find(number) else { return "not found".to_owned() };
        let before = self.all.clone();
        let Some(successor) = successor else {
            self.stop(target, None);
            return if before == self.all { "unchanged" } else { "requested" }.to_owned();
        };
        let Some(newcomer) = self.find(successor).filter(|at| !matches!(self.all[*at].stage, Stage::Done(..))) else {
            return "rejected SuccessorGone".to_owned();
        };
        if target == newcomer {
            return "rejected NotOlder".to_owned();
        }
        let holder = self.holder().filter(|holder| *holder != newcomer);
        let is_done = matches!(self.all[target].stage, Stage::Done(..));
        let older = Some(target).filter(|_| !is_done).into_iter().chain(holder);
        if self.line.iter().any(|waiting| self.is_newer(*waiting, newcomer))
            || older.into_iter().any(|older| !self.is_newer(newcomer, older))
        {
            return "rejected NotTheNewest".to_owned();
        }
        if self.line.contains(&newcomer) && self.is_held(&self.all[newcomer].wish) {
            return "rejected SuccessorHeld".to_owned();
        }
        if let Some(holder) = holder
            && self.all[holder].stage == Stage::Running
        {
            let refused = match self.policy.preempt {
                Preempt::Allow => false,
                Preempt::Never => true,
                Preempt::Times { times } => self.all[holder].cancel.is_none() && self.preempted >= times,
            };
            if refused {
                return "rejected PreemptionRefused".to_owned();
            }
        }
        if self.all[newcomer].started {
            for older in self.line.clone() {
                if self.supersedes(newcomer, older) {
                    self.stop(older, Some(successor));
                }
            }
        } else {
            if !self.all[newcomer].passes && self.put_ahead(newcomer) {
                self.revision += 1;
                self.all[newcomer].revision = self.revision;
                self.all[newcomer].events += 1;
            }
        }
        if let Some(holder) = holder {
            self.stop(holder, Some(successor));
        }
        if before == self.all { "unchanged" } else { "requested" }.to_owned()
    }

    fn lapse(&mut self, number: u64, cause: Cause, seen: Seen) -> String {
        let Some(at) = self.find(number) else { return "refused WrongState".to_owned() };
        if seen != Seen::Now && cause != Cause::Deadline {
            return "refused Alive".to_owned();
        }
        let code = match (self.all[at].stage, cause) {
            (Stage::Done(..), _) => return "refused Final".to_owned(),
            (Stage::Ticket | Stage::Queued, Cause::Deadline) => "EXPIRED",
            (Stage::Ticket | Stage::Reserved, Cause::Silence) => "ABANDONED",
            (Stage::Ready, Cause::Silence) => "UNCLAIMED",
            (Stage::Running, Cause::Silence | Cause::WorkerGone) => "WORKER_LOST",
            _ => return "refused WrongState".to_owned(),
        };
        self.end(at, code, None);
        format!("lapsed {code}")
    }

    fn release(&mut self, only: Option<u64>) -> String {
        let Some(at) = self.holder() else { return "was free".to_owned() };
        let number = self.all[at].number;
        if only.is_some_and(|only| only != number) {
            return format!("held by {number}");
        }
        self.end(at, "RELEASED", None);
        format!("released {number}")
    }
}
