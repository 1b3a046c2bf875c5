//! When what is killed: drawn from the seed before the drill begins. Pure.

use std::collections::VecDeque;

use super::random::Random;

/// How often the relay is the one that is killed.
const RELAY_SHARE: f64 = 0.25;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The relay.
    Relay,
    /// The gateway of this robot, from 0 on.
    Gateway(usize),
}

/// Kills of one part of a drill, in order. Each falls due when a share of the work is done, so that
/// the schedule is the same on fast and slow machines.
#[derive(Debug)]
pub struct Kills(VecDeque<(f64, Victim)>);

impl Kills {
    /// So many kills, evenly spread at random.
    #[must_use]
    pub fn draw(count: usize, robots: usize, random: &mut Random) -> Self {
        let mut kills: Vec<_> = (0..count)
            .map(|_| {
                let victim = match random.fraction() < RELAY_SHARE {
                    true => Victim::Relay,
                    false => Victim::Gateway(random.below(robots)),
                };
                (random.fraction(), victim)
            })
            .collect();
        kills.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Self(kills.into())
    }

    /// The next victim whose time has come, when this share of the work is done.
    pub fn due(&mut self, share: f64) -> Option<Victim> {
        self.0
            .pop_front_if(|(at, _)| *at <= share)
            .map(|(_, victim)| victim)
    }

    /// Whether all have fallen due.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_kills_and_every_kill_falls_due() {
        let draw = || {
            let mut kills = Kills::draw(40, 3, &mut Random::new(7, 1));
            let mut victims = Vec::new();
            for percent in 0..=100 {
                while let Some(victim) = kills.due(f64::from(percent) / 100.0) {
                    victims.push((percent, victim));
                }
            }
            assert!(kills.is_over());
            victims
        };
        let victims = draw();
        assert_eq!(victims, draw());
        assert_eq!(victims.len(), 40);
        for wanted in [Victim::Relay, Victim::Gateway(0), Victim::Gateway(2)] {
            assert!(victims.iter().any(|(_, victim)| *victim == wanted));
        }
    }
}
