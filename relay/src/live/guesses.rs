//! How often somebody may guess an auth code. Pure: the time is passed in.
//!
//! A wrong guess fills a bucket, which drains with time; a right one costs nothing. There is a
//! bucket for each address and one for the relay as a whole.
//!
//! What that means for somebody who tries all 9000 codes in turn: from one address it takes 15 hours
//! (10 codes a minute), from any number of addresses two and a half (60 a minute), and the code of
//! a robot that is in use changes with each guest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::Guess;

/// Wrong guesses that one address has at once. A guest who mistypes needs two or three; a capsule's
/// cloud shares an address among many guests.
pub const ADDRESS_BURST: u32 = 10;
/// How long an address waits to get one back: 10 a minute.
pub const ADDRESS_INTERVAL: Duration = Duration::from_secs(6);
/// Wrong guesses that the relay as a whole has at once: several mistyping guests for each robot of
/// a large building in the same minute.
pub const RELAY_BURST: u32 = 60;
/// How long the relay waits to get one back: 60 a minute.
pub const RELAY_INTERVAL: Duration = Duration::from_secs(1);
/// Addresses that are remembered. Wrong guesses come in at [`RELAY_BURST`] and one a second at
/// most, and an address is square after two minutes, so some 200 matter at a time.
pub const MAX_ADDRESSES: usize = 4096;

/// The count of wrong guesses.
#[derive(Debug, Default)]
pub struct Guesses {
    relay: Bucket,
    addresses: BTreeMap<IpAddr, Bucket>,
}

impl Guesses {
    /// Whether an address may guess now.
    #[must_use]
    pub fn may_guess(&self, from: IpAddr, now: Instant) -> Guess {
        let of_relay = self.relay.wait(&RELAY, now);
        let bucket = self.addresses.get(&neighbourhood(from));
        let of_address = bucket.map_or(Duration::ZERO, |bucket| bucket.wait(&ADDRESS, now));
        match of_relay.max(of_address) {
            Duration::ZERO => Guess::Allowed,
            wait => Guess::Refused(wait),
        }
    }

    /// Counts a wrong guess.
    pub fn count_wrong(&mut self, from: IpAddr, now: Instant) {
        self.relay.fill(&RELAY, now);
        let from = neighbourhood(from);
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&from) {
            self.make_room(now);
        }
        self.addresses.entry(from).or_default().fill(&ADDRESS, now);
    }

    /// Forgets whoever is square, or else who will be soonest.
    fn make_room(&mut self, now: Instant) {
        self.addresses.retain(|_, bucket| !bucket.is_empty(now));
        if self.addresses.len() < MAX_ADDRESSES {
            return;
        }
        let soonest = self
            .addresses
            .iter()
            .min_by_key(|(_, bucket)| bucket.empty_at)
            .map(|(address, _)| *address);
        if let Some(address) = soonest {
            self.addresses.remove(&address);
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 beside it too, so they count as one.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

struct Limit {
    burst: u32,
    interval: Duration,
}

const ADDRESS: Limit = Limit {
    burst: ADDRESS_BURST,
    interval: ADDRESS_INTERVAL,
};
const RELAY: Limit = Limit {
    burst: RELAY_BURST,
    interval: RELAY_INTERVAL,
};

/// A leaky bucket, as the one moment at which it will have drained.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    empty_at: Option<Instant>,
}

impl Bucket {
    fn is_empty(self, now: Instant) -> bool {
        self.backlog(now).is_zero()
    }

    fn backlog(self, now: Instant) -> Duration {
        self.empty_at.map_or(Duration::ZERO, |empty_at| {
            empty_at.saturating_duration_since(now)
        })
    }

    /// How long until there is room for one more.
    fn wait(self, limit: &Limit, now: Instant) -> Duration {
        let room = limit.interval * (limit.burst - 1);
        self.backlog(now).saturating_sub(room)
    }

    /// Requests that were under way together may overfill it, which lengthens the wait, but at most
    /// to twice the time that a full one takes to drain.
    fn fill(&mut self, limit: &Limit, now: Instant) {
        let most = limit.interval * limit.burst * 2;
        let backlog = (self.backlog(now) + limit.interval).min(most);
        self.empty_at = now.checked_add(backlog);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn an_address_has_ten_wrong_guesses_and_then_one_in_six_seconds() {
        let mut guesses = Guesses::default();
        let start = Instant::now();
        for _ in 0..ADDRESS_BURST {
            assert_eq!(guesses.may_guess(address(1), start), Guess::Allowed);
            guesses.count_wrong(address(1), start);
        }
        assert_eq!(
            guesses.may_guess(address(1), start),
            Guess::Refused(ADDRESS_INTERVAL)
        );
        assert_eq!(guesses.may_guess(address(2), start), Guess::Allowed);

        let later = start + ADDRESS_INTERVAL;
        assert_eq!(guesses.may_guess(address(1), later), Guess::Allowed);
        guesses.count_wrong(address(1), later);
        assert_ne!(guesses.may_guess(address(1), later), Guess::Allowed);
    }

    #[test]
    fn trying_every_code_from_one_address_takes_fifteen_hours() {
        let mut guesses = Guesses::default();
        let start = Instant::now();
        let mut now = start;
        for _ in 0..9000 {
            if let Guess::Refused(wait) = guesses.may_guess(address(1), now) {
                now += wait;
            }
            assert_eq!(guesses.may_guess(address(1), now), Guess::Allowed);
            guesses.count_wrong(address(1), now);
        }
        let hours = (now - start).as_secs() / 3600;
        assert_eq!(hours, 14);
    }

    #[test]
    fn many_addresses_together_have_sixty_a_minute() {
        let mut guesses = Guesses::default();
        let start = Instant::now();
        for number in 0..RELAY_BURST {
            assert_eq!(guesses.may_guess(address(number), start), Guess::Allowed);
            guesses.count_wrong(address(number), start);
        }
        assert_eq!(
            guesses.may_guess(address(1000), start),
            Guess::Refused(RELAY_INTERVAL)
        );
        let later = start + RELAY_INTERVAL;
        assert_eq!(guesses.may_guess(address(1000), later), Guess::Allowed);
    }

    #[test]
    fn a_flood_of_guesses_that_raced_past_the_check_is_paid_back_within_two_minutes() {
        let mut guesses = Guesses::default();
        let now = Instant::now();
        for _ in 0..10_000 {
            guesses.count_wrong(address(1), now);
        }
        let later = now + Duration::from_secs(120);
        assert_eq!(guesses.may_guess(address(1), later), Guess::Allowed);
    }

    #[test]
    fn no_more_than_a_bounded_number_of_addresses_is_remembered() {
        let mut guesses = Guesses::default();
        let now = Instant::now();
        let more = u32::try_from(MAX_ADDRESSES).unwrap() + 100;
        for number in 0..more {
            guesses.count_wrong(address(number), now);
            assert!(guesses.addresses.len() <= MAX_ADDRESSES);
        }
    }

    #[test]
    fn neighbouring_ipv6_addresses_and_mapped_ipv4_ones_share_a_bucket() {
        let mut guesses = Guesses::default();
        let now = Instant::now();
        for host in 0..ADDRESS_BURST {
            let from = format!("2001:db8:1:2::{host:x}").parse().unwrap();
            guesses.count_wrong(from, now);
        }
        let neighbour = "2001:db8:1:2:ffff::1".parse().unwrap();
        assert_ne!(guesses.may_guess(neighbour, now), Guess::Allowed);
        let stranger = "2001:db8:1:3::1".parse().unwrap();
        assert_eq!(guesses.may_guess(stranger, now), Guess::Allowed);

        for _ in 0..ADDRESS_BURST {
            guesses.count_wrong("::ffff:192.0.2.1".parse().unwrap(), now);
        }
        let plain = "192.0.2.1".parse().unwrap();
        assert_ne!(guesses.may_guess(plain, now), Guess::Allowed);
    }
}
