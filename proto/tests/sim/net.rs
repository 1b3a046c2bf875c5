//! A network that loses, doubles, reorders and delays frames.

use std::time::Duration;

use brrbrr_proto::time::Uptime;

use crate::random::Random;

/// Frames on their way in one direction.
pub struct Pipe<M> {
    frames: Vec<(Uptime, u64, M)>,
    count: u64,
    pub lost: u64,
    pub doubled: u64,
}

impl<M: Clone> Pipe<M> {
    pub fn new() -> Self {
        Self {
            frames: Vec::new(),
            count: 0,
            lost: 0,
            doubled: 0,
        }
    }

    pub fn send(&mut self, message: M, now: Uptime, is_healed: bool, random: &mut Random) {
        if is_healed {
            self.push(message, now.plus(Duration::from_millis(5)));
            return;
        }
        if random.one_in(6) {
            self.lost += 1;
            return;
        }
        if random.one_in(8) {
            self.doubled += 1;
            self.push(
                message.clone(),
                now.plus(Duration::from_millis(random.below(9_000))),
            );
        }
        self.push(message, now.plus(Duration::from_millis(random.below(400))));
    }

    fn push(&mut self, message: M, at: Uptime) {
        self.count += 1;
        self.frames.push((at, self.count, message));
    }

    pub fn next_at(&self) -> Option<Uptime> {
        self.frames.iter().map(|(at, ..)| *at).min()
    }

    /// The frame that is due, oldest first.
    pub fn take_due(&mut self, now: Uptime) -> Option<M> {
        let (index, _) = self
            .frames
            .iter()
            .enumerate()
            .filter(|(_, (at, ..))| *at <= now)
            .min_by_key(|(_, (at, count, _))| (*at, *count))?;
        Some(self.frames.remove(index).2)
    }

    /// A broken connection loses what is on its way, but not always.
    pub fn cut(&mut self, random: &mut Random) {
        let before = self.frames.len();
        self.frames.retain(|_| random.one_in(3));
        self.lost += (before - self.frames.len()) as u64;
    }
}
