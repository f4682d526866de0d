//! Waiters for work, by project: a deployment that can be claimed wakes the workers that offer its project, and no
//! others. See decision 0027.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::model::ProjectName;

/// The waiters.
#[derive(Debug, Default)]
pub(super) struct Seekers {
    table: Mutex<SeekerTable>,
}

#[derive(Debug, Default)]
struct SeekerTable {
    /// By project, then by the seeker's number.
    seekers: HashMap<ProjectName, HashMap<u64, Arc<watch::Sender<()>>>>,
    last: u64,
}

impl Seekers {
    /// Subscribes to work in these projects.
    pub(super) fn add<'a>(self: &Arc<Self>, projects: impl IntoIterator<Item = &'a ProjectName>) -> Seeker {
        let (sender, receiver) = watch::channel(());
        let sender = Arc::new(sender);
        let projects: Vec<_> = projects.into_iter().cloned().collect();
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        for project in &projects {
            table.seekers.entry(project.clone()).or_default().insert(number, sender.clone());
        }
        Seeker { number, projects, receiver, seekers: self.clone() }
    }

    /// Wakes the waiters for work in this project.
    pub(super) fn wake(&self, project: &ProjectName) {
        if let Some(seekers) = self.table().seekers.get(project) {
            seekers.values().for_each(|seeker| seeker.send_replace(()));
        }
    }

    /// Wakes everyone.
    pub(super) fn wake_all(&self) {
        self.table().seekers.values().flat_map(HashMap::values).for_each(|seeker| seeker.send_replace(()));
    }

    fn table(&self) -> MutexGuard<'_, SeekerTable> {
        // A panic while it is locked leaves every entry whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription to work, until it is dropped.
#[derive(Debug)]
pub struct Seeker {
    number: u64,
    projects: Vec<ProjectName>,
    receiver: watch::Receiver<()>,
    seekers: Arc<Seekers>,
}

impl Seeker {
    /// From now on only later work wakes it. Look for work after this, never before.
    pub fn mark_unchanged(&mut self) {
        self.receiver.mark_unchanged();
    }

    /// Waits until there may be work; work that came since [`Seeker::mark_unchanged`] is not missed.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The table keeps the sender. Without a sender nothing ever comes, and every waiter has a time-out of its
            // own.
            std::future::pending().await
        }
    }
}

impl Drop for Seeker {
    fn drop(&mut self) {
        let mut table = self.seekers.table();
        for project in &self.projects {
            if let Some(seekers) = table.seekers.get_mut(project) {
                seekers.remove(&self.number);
                if seekers.is_empty() {
                    table.seekers.remove(project);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn work_wakes_those_who_offer_to_do_it() {
        let name = |name: &str| name.parse::<ProjectName>().expect("it is a name");
        let seekers = Arc::<Seekers>::default();
        let mut one = seekers.add([&name("web"), &name("api")]);
        let mut other = seekers.add([&name("api")]);
        let is_woken = |seeker: &mut Seeker| seeker.changed().now_or_never().is_some();

        seekers.wake(&name("web"));
        seekers.wake(&name("unknown"));
        assert!(is_woken(&mut one) && !is_woken(&mut other));
        seekers.wake(&name("api"));
        one.mark_unchanged();
        assert!(!is_woken(&mut one) && is_woken(&mut other));
        seekers.wake_all();
        assert!(is_woken(&mut one) && is_woken(&mut other));

        drop(one);
        seekers.wake(&name("api"));
        assert!(is_woken(&mut other));
        drop(other);
        assert!(seekers.table().seekers.is_empty());
    }
}
