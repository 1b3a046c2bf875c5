//! How the gateway half comes to what there is to know of the building: it asks for one part at a
//! time, after everything else, and keeps the parts it has when a session breaks.

use std::time::Duration;

use super::session::FRAME_BYTES;
use super::{Gateway, Output, Phase};
use crate::backoff::SplitMix;
use crate::building::{ContentHash, MAX_BUILDING_BYTES, MAX_PART_BYTES, MAX_PARTS};
use crate::down::{NoBuilding, Part};
use crate::id::Revision;
use crate::time::Uptime;
use crate::up::{Up, Wanted};

/// How long a revision counts as the newest before it is asked for again: a relay that knows of a
/// change says so, unless its word is lost.
const ASK_EVERY: Duration = Duration::from_secs(300);
/// The first and the longest wait for an answer. In between, three times what the last one took, and
/// twice as long after every time-out: a relay of an older version never answers.
const ANSWER_WAIT: (Duration, Duration) = (Duration::from_secs(5), ASK_EVERY);
/// Over how long the questions of many robots are spread that were welcomed together, or were told
/// of a change together.
const SPREAD: Duration = Duration::from_secs(2);
/// The shortest pause between two questions. It is as long as the last answer took, so that the
/// building takes at most half of the way down.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// How long a byte-rate limit that the backlog uses up may put off a question.
const LONGEST_HOLD: Duration = Duration::from_secs(30);
/// What a question weighs without its frame.
const ASK_BYTES: usize = 40;

/// What came of asking for the building.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildingNews {
    /// A new one. The bytes belong to the revision; see
    /// [`Building::decode`](crate::building::Building::decode).
    Whole(Revision, Vec<u8>),
    /// What the gateway has is the newest: this revision.
    Newest(Revision),
    /// There is one that the gateway cannot have, and why. What it has stays good.
    Refused(String),
}

/// What the gateway has of the building, and when it asks.
#[derive(Debug)]
pub(super) struct Fetch {
    have: Option<Revision>,
    /// One that the driver could not use. Another relay software may send it again and again.
    unusable: Option<Revision>,
    partial: Option<Partial>,
    asking: Asking,
    wait: Duration,
    random: SplitMix,
}

#[derive(Debug)]
struct Partial {
    revision: Revision,
    parts: u32,
    next: u32,
    bytes: Vec<u8>,
    hash: ContentHash,
}

#[derive(Debug, Clone, Copy)]
enum Asking {
    /// To ask at a moment, and since when that is due.
    Due { at: Uptime, since: Uptime },
    /// An answer is awaited.
    Waiting { part: u32, sent_at: Uptime },
}

impl Fetch {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            have: None,
            unusable: None,
            partial: None,
            asking: due(Uptime::default()),
            wait: ANSWER_WAIT.0,
            random: SplitMix(seed),
        }
    }

    pub(super) fn handle_opened(&mut self, now: Uptime) {
        self.wait = ANSWER_WAIT.0;
        self.ask_within(SPREAD, now);
    }

    /// When there is something to do.
    pub(super) fn due_at(&self) -> Uptime {
        match self.asking {
            Asking::Due { at, .. } => at,
            Asking::Waiting { sent_at, .. } => sent_at.plus(self.wait),
        }
    }

    /// The part to ask for, where it is time to ask. Until `held` a byte-rate limit would rather have
    /// nothing sent.
    fn poll_ask(&mut self, held: Option<Uptime>, now: Uptime) -> Option<u32> {
        if self.due_at() > now {
            return None;
        }
        match self.asking {
            Asking::Waiting { .. } => self.wait = (self.wait * 2).min(ANSWER_WAIT.1),
            Asking::Due { since, .. } => {
                let latest = since.plus(LONGEST_HOLD);
                if let Some(held) = held.filter(|_| latest > now) {
                    let at = held.min(latest);
                    self.asking = Asking::Due { at, since };
                    return None;
                }
            }
        }
        let part = self.partial.as_ref().map_or(0, |partial| partial.next);
        self.asking = Asking::Waiting { part, sent_at: now };
        Some(part)
    }

    fn handle_part(&mut self, part: Part, now: Uptime) -> Option<BuildingNews> {
        if self.have == Some(part.revision) {
            self.partial = None;
            self.rest(now);
            return Some(BuildingNews::Newest(part.revision));
        }
        if self.unusable == Some(part.revision) {
            // What the driver said of it still holds, so its other parts are not worth the way.
            self.partial = None;
            self.rest(now);
            return None;
        }
        if part.parts == 0 {
            self.handle_newer(part.revision, now);
            return None;
        }
        let Asking::Waiting {
            part: asked,
            sent_at,
        } = self.asking
        else {
            return None;
        };
        let is_possible = part.parts <= MAX_PARTS && part.part < part.parts;
        if part.part != asked || !is_possible || !(1..=MAX_PART_BYTES).contains(&part.bytes.len()) {
            // An earlier answer that comes again, or nonsense.
            return None;
        }
        let taken = now.since(sent_at);
        self.wait = (taken * 3).clamp(ANSWER_WAIT.0, ANSWER_WAIT.1);
        self.asking = due(now.plus(taken.max(SHORTEST_PAUSE)));
        self.take(part, now)
    }

    /// There is another revision than the one that the gateway has.
    fn handle_newer(&mut self, revision: Revision, now: Uptime) {
        let is_other = |partial: &mut Partial| partial.revision != revision;
        let is_stale = self.partial.take_if(is_other).is_some();
        match self.asking {
            // The question was for a part that the newer one may not have.
            Asking::Waiting { .. } if is_stale => self.ask_within(SPREAD, now),
            Asking::Due { at, .. } if at > now.plus(SPREAD) => self.ask_within(SPREAD, now),
            Asking::Waiting { .. } | Asking::Due { .. } => {}
        }
    }

    fn take(&mut self, part: Part, now: Uptime) -> Option<BuildingNews> {
        let (revision, parts) = (part.revision, part.parts);
        let is_same = |p: &Partial| (p.revision, p.parts, p.next) == (revision, parts, part.part);
        let mut partial = match self.partial.take().filter(is_same) {
            Some(partial) => partial,
            None if part.part == 0 => Partial {
                revision,
                parts,
                next: 0,
                bytes: Vec::new(),
                hash: ContentHash::default(),
            },
            None => {
                // It has changed under way: from the start, but not at full speed.
                self.ask_within(SPREAD, now);
                return None;
            }
        };
        if partial.bytes.len() + part.bytes.len() > MAX_BUILDING_BYTES {
            let reason = format!("it is longer than {MAX_BUILDING_BYTES} bytes");
            return Some(self.refuse(reason, now));
        }
        partial.next += 1;
        partial.hash.update(&part.bytes);
        partial.bytes.extend_from_slice(&part.bytes);
        if partial.next < parts {
            self.partial = Some(partial);
            return None;
        }
        if partial.hash.revision() != revision {
            let reason = format!("its parts do not make revision {revision}");
            return Some(self.refuse(reason, now));
        }
        self.have = Some(revision);
        self.rest(now);
        Some(BuildingNews::Whole(revision, partial.bytes))
    }

    fn refuse(&mut self, reason: String, now: Uptime) -> BuildingNews {
        self.partial = None;
        self.rest(now);
        BuildingNews::Refused(reason)
    }

    /// Asks again after the usual time.
    fn rest(&mut self, now: Uptime) {
        self.wait = ANSWER_WAIT.0;
        let share = 0.75 + 0.25 * self.random.fraction();
        self.asking = due(now.plus(ASK_EVERY.mul_f64(share)));
    }

    fn ask_within(&mut self, spread: Duration, now: Uptime) {
        let pause = spread.mul_f64(self.random.fraction());
        self.asking = due(now.plus(pause.max(SHORTEST_PAUSE)));
    }
}

const fn due(at: Uptime) -> Asking {
    Asking::Due { at, since: at }
}

impl Gateway {
    /// The driver has the building of this revision already.
    pub const fn know_building(&mut self, revision: Revision) {
        self.building.have = Some(revision);
    }

    /// The driver cannot use the building of this revision, and goes on with the one that it kept, if
    /// there is one. It is not fetched again in this gateway's life.
    pub const fn reject_building(&mut self, unusable: Revision, kept: Option<Revision>) {
        self.building.have = kept;
        self.building.unusable = Some(unusable);
    }

    /// Asks for the building where it is time to.
    pub(super) fn ask_building(&mut self, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        let held = session.pace.held_until(now);
        if let Some(part) = self.building.poll_ask(held, now) {
            session.pace.spend(ASK_BYTES + FRAME_BYTES, now);
            let wanted = Wanted {
                session: session.id,
                sent: now,
                have: self.building.have,
                part,
            };
            self.outputs
                .push_back(Output::Up(session.relay, Up::Wanted(wanted)));
        }
    }

    pub(super) fn handle_building(&mut self, part: Part, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        if session.id != part.session {
            return;
        }
        session.heard_at = now;
        // A metered link counts both ways.
        session.pace.spend(part.bytes.len() + FRAME_BYTES, now);
        let news = self.building.handle_part(part, now);
        self.outputs.extend(news.map(Output::Building));
    }

    pub(super) fn handle_no_building(&mut self, no: NoBuilding, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        if session.id == no.session {
            session.heard_at = now;
            let news = self.building.refuse(no.reason, now);
            self.outputs.push_back(Output::Building(news));
        }
    }
}
