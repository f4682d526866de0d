//! How many wrong tokens an address may show, and how many of them are looked for in the store. See decision 0074.
//!
//! Only wrong tokens are counted and refused. A token that is known gives access from every address, whatever others have
//! tried from there.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

/// How many wrong tokens an address may show at once: a pipeline of many jobs that all have the same mistake learns of it.
const BURST: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// How long it takes until one more is allowed.
const PERIOD: Duration = Duration::from_secs(3);
/// How many addresses are told apart, some 10 MB. All further ones share what one address has.
const ADDRESS_LIMIT: usize = 100_000;
/// How often addresses that have their whole allowance again are forgotten, at most.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);
/// How many wrong tokens may be looked for in the store at once, and in each second, over all addresses.
const LOOK_UP_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const LOOK_UPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();

type ByAddress = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock, NoOpMiddleware>;

/// The wrong tokens of the last minutes.
pub struct Attempts {
    clock: DefaultClock,
    by_address: ByAddress,
    others: DefaultDirectRateLimiter,
    look_ups: DefaultDirectRateLimiter,
    swept_at: Mutex<Option<Instant>>,
}

impl Default for Attempts {
    fn default() -> Self {
        let clock = DefaultClock::default();
        let wrong = Quota::with_period(PERIOD).unwrap_or(Quota::per_minute(BURST)).allow_burst(BURST);
        Attempts {
            by_address: RateLimiter::hashmap_with_clock(wrong, clock.clone()),
            others: RateLimiter::direct_with_clock(wrong, clock.clone()),
            look_ups: RateLimiter::direct_with_clock(
                Quota::per_second(LOOK_UPS_PER_SECOND).allow_burst(LOOK_UP_BURST),
                clock.clone(),
            ),
            clock,
            swept_at: Mutex::default(),
        }
    }
}

impl Attempts {
    /// Counts a wrong token of this address.
    ///
    /// # Errors
    /// The address has shown too many: how long it must wait.
    pub fn count(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        let checked = match address.map(block) {
            Some(block) if self.has_room() => self.by_address.check_key(&block),
            Some(_) | None => self.others.check(),
        };
        checked.map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Whether one more token that nobody knows may be looked for in the store.
    pub fn may_look_up(&self) -> bool {
        self.look_ups.check().is_ok()
    }

    /// Whether one more address can be told apart. An address that is known already is told apart in any case only while
    /// there is room, which keeps the answer cheap.
    fn has_room(&self) -> bool {
        if self.by_address.len() < ADDRESS_LIMIT {
            return true;
        }
        let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
        if swept_at.is_some_and(|swept_at| swept_at.elapsed() < SWEEP_PAUSE) {
            return false;
        }
        *swept_at = Some(Instant::now());
        self.by_address.retain_recent();
        self.by_address.shrink_to_fit();
        self.by_address.len() < ADDRESS_LIMIT
    }
}

/// The address whose attempts count together: of IPv6 the first 64 bits, because one customer has at least so many.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("it is an address"))
    }

    /// How many attempts pass before one is refused.
    fn passing(attempts: &Attempts, address: Option<IpAddr>) -> usize {
        (0..100).take_while(|_| attempts.count(address).is_ok()).count()
    }

    #[test]
    fn an_address_that_shows_many_wrong_tokens_must_wait_and_no_other_one() {
        let attempts = Attempts::default();
        assert!(passing(&attempts, address("192.0.2.1")) >= 30);
        let wait = attempts.count(address("192.0.2.1")).expect_err("it must wait");
        assert!(wait > Duration::ZERO && wait <= PERIOD, "{wait:?}");
        assert!(attempts.count(address("192.0.2.2")).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_a_mapped_address_as_itself() {
        let attempts = Attempts::default();
        for last in 0..30 {
            assert!(attempts.count(address(&format!("2001:db8::{last:x}"))).is_ok());
        }
        assert!(passing(&attempts, address("2001:db8::ffff:1:1")) < 5);
        assert!(passing(&attempts, address("2001:db8:0:1::1")) >= 30);
        assert!(passing(&attempts, address("::ffff:192.0.2.1")) >= 30);
        assert!(passing(&attempts, address("192.0.2.1")) < 5);
    }

    #[test]
    fn however_many_addresses_try_they_take_bounded_memory_and_few_look_ups() {
        let attempts = Attempts::default();
        let mut look_ups = 0;
        for number in 0..(ADDRESS_LIMIT as u32 + 50_000) {
            let address = IpAddr::from(number.to_be_bytes());
            if attempts.count(Some(address)).is_ok() && attempts.may_look_up() {
                look_ups += 1;
            }
        }
        assert!(attempts.by_address.len() <= ADDRESS_LIMIT);
        assert!((50..10_000).contains(&look_ups), "{look_ups}");
        assert!(passing(&attempts, address("203.0.113.9")) < 30, "the further addresses share an allowance");
    }
}
