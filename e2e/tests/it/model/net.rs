//! A network that loses, doubles, delays and reorders frames, also from one connection into the next.

use std::time::Duration;

use brrbrr_proto::time::Uptime;

use super::random::Random;

/// Frames on their way in one direction.
pub struct Pipe<M> {
    frames: Vec<(Uptime, u64, M)>,
    count: u64,
    pub lost: u64,
    pub doubled: u64,
}

impl<M: Clone> Pipe<M> {
    pub const fn new() -> Self {
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
        if random.one_in(8) {
            self.lost += 1;
            return;
        }
        if random.one_in(8) {
            self.doubled += 1;
            self.push(message.clone(), now.plus(random.pause(9_000)));
        }
        // Most are quick. Some stay away for longer than many commands may live.
        let longest = match random.below(12) {
            0 => 40_000,
            1 | 2 => 3_000,
            _ => 150,
        };
        self.push(message, now.plus(random.pause(longest)));
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
        let frames = self.frames.iter().enumerate();
        let due = frames.filter(|(_, (at, ..))| *at <= now);
        let (index, _) = due.min_by_key(|(_, (at, count, _))| (*at, *count))?;
        Some(self.frames.remove(index).2)
    }

    /// A broken connection loses most of what is on its way.
    pub fn cut(&mut self, random: &mut Random) {
        let before = self.frames.len();
        self.frames.retain(|_| random.one_in(3));
        let gone = before - self.frames.len();
        self.lost += u64::try_from(gone).expect("small");
    }
}
