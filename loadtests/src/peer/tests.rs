//! Tests that each peer keeps the promises that the scenarios compare with Singletrack's. The tests need what
//! `loadtests/peers/install` installs, so they run only on demand: `cargo test -p loadtests -- --ignored`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::all;
use crate::{
    http::Http,
    subject::{Ability, JobLoad, Locker, Peer, Subject},
};

const SLOTS: usize = 8;
const RACERS: usize = 50;

fn able(ability: Ability) -> impl Iterator<Item = Peer> {
    all().into_iter().filter(move |peer| peer.abilities.contains(&ability))
}

fn is_asked_for(peer: &Peer) -> bool {
    std::env::var("PEER").is_ok_and(|only| only != peer.name).eq(&false)
}

/// All clients at once; how many pairs a second.
async fn rush(subject: &dyn Subject, clients: usize, duration: Duration) -> f64 {
    let slots = |number: usize| (0..SLOTS).map(move |slot| format!("t{number}-{slot}"));
    let all: Vec<String> = (0..clients).flat_map(slots).collect();
    subject.prepare(&all).await.unwrap();
    let mut tasks = JoinSet::new();
    let mut lockers: Vec<Box<dyn Locker>> = Vec::new();
    for _ in 0..clients {
        lockers.push(subject.locker().await.unwrap());
    }
    let begun = Instant::now();
    for (number, mut locker) in lockers.into_iter().enumerate() {
        tasks.spawn(async move {
            let slots: Vec<String> = slots(number).collect();
            let mut pairs = 0_usize;
            while begun.elapsed() < duration {
                let slot = &slots[pairs % SLOTS];
                locker.take(slot).await.unwrap();
                locker.give(slot).await.unwrap();
                pairs += 1;
            }
            pairs
        });
    }
    tasks.join_all().await.into_iter().sum::<usize>() as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what loadtests/peers/install installs"]
async fn free_slots_are_taken_and_given_back() {
    for peer in able(Ability::FreeSlots).filter(is_asked_for) {
        let subject = (peer.start)().await.unwrap();
        println!("{}: {}", peer.name, subject.about());
        for clients in [1, 16, 64] {
            let rate = rush(&*subject, clients, Duration::from_millis(1500)).await;
            println!("{:<18} {clients:>3} clients {rate:>8.0} pairs/s", peer.name);
            assert!(rate > 1.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what loadtests/peers/install installs"]
async fn racers_hold_a_slot_one_at_a_time() {
    for peer in able(Ability::Race).filter(is_asked_for) {
        let subject = (peer.start)().await.unwrap();
        subject.prepare(&["slot".to_owned()]).await.unwrap();
        let mut racers = Vec::new();
        for _ in 0..RACERS {
            racers.push(subject.racer().await.unwrap());
        }
        let inside = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for mut racer in racers {
            let inside = Arc::clone(&inside);
            tasks.spawn(async move {
                racer.take("slot").await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                // The slot is held for a while: it is no event that is waited for.
                tokio::time::sleep(Duration::from_millis(10)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                racer.give("slot").await.unwrap();
            });
        }
        tasks.join_all().await;
        println!("{:<18} {:>4} ms for {RACERS} racers", peer.name, begun.elapsed().as_millis());
    }
}

#[tokio::test]
#[ignore = "needs what loadtests/peers/install installs"]
async fn wrapped_commands_end_well() {
    for peer in able(Ability::Wrap).filter(is_asked_for) {
        let subject = (peer.start)().await.unwrap();
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            assert!(subject.wrapper("slot").unwrap().status().unwrap().success(), "{}", peer.name);
            times.push(begun.elapsed());
        }
        times.sort();
        println!("{:<18} {:>8.1} ms around true", peer.name, times[10].as_secs_f64() * 1e3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what loadtests/peers/install installs"]
async fn all_who_are_parked_at_a_topic_are_answered_and_nobody_else() {
    for peer in able(Ability::Polls).filter(is_asked_for) {
        let subject = (peer.start)().await.unwrap();
        println!("{}: {}", peer.name, subject.about());
        let mut topics = subject.topics(2).await.unwrap();
        let park = async |topic: usize| {
            let mut http = Http::connect(topics[topic].address()).await.unwrap();
            let poll = topics[topic].poll();
            http.send("GET", &poll.path, &poll.headers, &[]).await.unwrap();
            http
        };
        let (mut told, mut untold) = (Vec::new(), park(1).await);
        for _ in 0..RACERS {
            told.push(park(0).await);
        }
        // That they are parked shows only in that they are answered, so the event may come too early for some: those would
        // wait for the next one.
        let is_over = async {
            for http in &mut told {
                assert_eq!(http.reply().await.unwrap().status, 200);
            }
        };
        let answering = async {
            loop {
                topics[0].answer().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = is_over => {}
            () = answering => {}
        }
        assert!(tokio::time::timeout(Duration::from_millis(200), untold.reply()).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what loadtests/peers/install installs"]
async fn jobs_run_once_each() {
    let warm_up = Duration::from_millis(700);
    let duration = Duration::from_secs(2);
    let full = JobLoad { clients: 16, outstanding: 64, pause: Duration::ZERO, warm_up, duration };
    let paced = JobLoad { clients: 1, outstanding: 1, pause: Duration::from_millis(20), warm_up, duration };
    for peer in able(Ability::Jobs).filter(is_asked_for) {
        let subject = (peer.start)().await.unwrap();
        println!("{}: {}", peer.name, subject.about());
        for load in [full, paced] {
            let done = subject.jobs(load).await.unwrap();
            let rate = done.completed as f64 / duration.as_secs_f64();
            let start = done.starts.spread("start").p50;
            println!("{:<18} {:>3} clients {rate:>8.0} jobs/s, started after {start} µs", peer.name, load.clients);
            assert_eq!(done.ran, done.enqueued, "{}", peer.name);
            assert!(done.completed > 0);
        }
    }
}
