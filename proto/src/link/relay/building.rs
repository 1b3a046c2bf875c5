//! How the relay half answers what a gateway asks of its building, one question at a time, and tells
//! it of a change.

use super::{Output, Relay, Session};
use crate::building::Offer;
use crate::down::{Down, NoBuilding, Part};
use crate::id::{Revision, SessionId};
use crate::up::Wanted;

/// What the driver says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildingAnswer {
    /// The newest revision: the robot has it, or is to ask for its parts.
    Newest(Revision),
    /// A part of the newest revision.
    Part {
        /// What the parts are together.
        revision: Revision,
        /// Which part, from 0 on.
        part: u32,
        /// How many there are.
        parts: u32,
        /// The part.
        bytes: Vec<u8>,
    },
    /// The building cannot be sent, and why.
    Refused(String),
}

impl BuildingAnswer {
    /// What is said of an offer to a robot that has this revision and wants this part.
    #[must_use]
    pub fn of(offer: &Offer<'_>, have: Option<Revision>, part: Option<u32>) -> Self {
        let revision = offer.revision();
        let wanted = part.filter(|_| have != Some(revision));
        match wanted.and_then(|part| Some((part, offer.part(part)?))) {
            Some((part, bytes)) => Self::Part {
                revision,
                part,
                parts: offer.parts(),
                bytes,
            },
            None => Self::Newest(revision),
        }
    }
}

/// What is known of the robot's building within a session.
#[derive(Debug, Default)]
pub(super) struct BuildingState {
    /// It has asked, so it understands the answers.
    asks: bool,
    /// The driver is to answer first.
    is_asked: bool,
    /// The answer is for nobody's question: a change.
    is_nudge: bool,
    /// What the robot asked meanwhile.
    waiting: Option<Wanted>,
    /// There was a change while the driver was to answer.
    changed: bool,
    told: Option<Revision>,
}

impl Relay {
    /// What the robots are told of the building may have changed.
    pub fn handle_building_changed(&mut self) {
        if let Some(session) = &mut self.session
            && session.building.asks
        {
            session.building.changed = true;
        }
        self.nudge();
    }

    /// The answer to [`Output::Building`]; `None` where there is none just now.
    pub fn handle_building(&mut self, id: SessionId, answer: Option<BuildingAnswer>) {
        let Some(session) = self.session.as_mut().filter(|s| s.id == id) else {
            return;
        };
        let state = &mut session.building;
        if !std::mem::take(&mut state.is_asked) {
            return;
        }
        let is_nudge = std::mem::take(&mut state.is_nudge);
        if let Some(down) = answer.and_then(|answer| message(session, answer, is_nudge)) {
            let epoch = session.epoch;
            self.outputs.push_back(Output::Send(epoch, down));
        }
        let waiting = self.session.as_mut().map(|s| s.building.waiting.take());
        if let Some(wanted) = waiting.flatten() {
            self.handle_wanted(wanted);
        }
        self.nudge();
    }

    pub(super) fn handle_wanted(&mut self, wanted: Wanted) {
        let Some(session) = &mut self.session else {
            return;
        };
        let state = &mut session.building;
        state.asks = true;
        if state.is_nudge {
            // What is being looked up answers no question; this one comes after it.
            state.waiting = Some(wanted);
        } else if !std::mem::replace(&mut state.is_asked, true) {
            self.outputs.push_back(Output::Building {
                session: session.id,
                have: wanted.have,
                part: Some(wanted.part),
            });
        }
    }

    fn nudge(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let state = &mut session.building;
        if state.changed && !state.is_asked {
            state.changed = false;
            state.is_asked = true;
            state.is_nudge = true;
            self.outputs.push_back(Output::Building {
                session: session.id,
                have: state.told,
                part: None,
            });
        }
    }
}

/// What the robot is sent; nothing where it has heard that before and has not asked.
fn message(session: &mut Session, answer: BuildingAnswer, is_nudge: bool) -> Option<Down> {
    let told = session.building.told;
    let (revision, part, parts, bytes) = match answer {
        BuildingAnswer::Newest(revision) if is_nudge && told == Some(revision) => return None,
        BuildingAnswer::Newest(revision) => (revision, 0, 0, Vec::new()),
        BuildingAnswer::Part {
            revision,
            part,
            parts,
            bytes,
        } => (revision, part, parts, bytes),
        BuildingAnswer::Refused(reason) => {
            let session = session.id;
            return Some(Down::NoBuilding(NoBuilding { session, reason }));
        }
    };
    session.building.told = Some(revision);
    Some(Down::Building(Part {
        session: session.id,
        revision,
        part,
        parts,
        bytes,
    }))
}
