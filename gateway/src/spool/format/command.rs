//! How commands are encoded: a part that never changes, and a part with each step that they take.

use brrbrr_proto::down::Command;
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Progress, Record};
use serde::{Deserialize, Serialize};

use super::super::pages::Value;
use super::super::{CommandChange, HandOver, Origin, Reached, Result, StoredCommand, Transition};
use super::{EncodedRecord, Sum, footprint};

/// How many transitions of a command are kept at most. It takes three or four.
const TRANSITIONS_MAX: usize = 8;

/// How much of a sentence is kept with a command, in bytes. The record has all of it.
const SENTENCE_BYTES: usize = 512;

/// A row of `command`, as the file has it. Integers are SQLite's, with the sign taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CommandRow<'a> {
    /// Its number: commands count in the order of their arrival.
    pub(in super::super) place: u64,
    /// The command's id, 16 bytes.
    pub(in super::super) id: &'a [u8],
    /// 1 for a motion, else 0.
    pub(in super::super) motion: u64,
    /// 1 for one that has ended, else 0.
    pub(in super::super) ended: u64,
    /// The key that its giver gave it.
    pub(in super::super) key: Option<&'a [u8]>,
    /// The part that never changes.
    pub(in super::super) content: &'a [u8],
    /// The part that changes.
    pub(in super::super) step: &'a [u8],
    /// What [`CommandRow::right_sum`] was when it was written.
    pub(in super::super) sum: u64,
}

impl CommandRow<'_> {
    /// The same row with the right sum.
    pub(in super::super) fn sealed(self) -> Self {
        Self {
            sum: self.right_sum(),
            ..self
        }
    }

    /// Whether the row is as it was written, and where it was written.
    pub(in super::super) fn is_intact(&self) -> bool {
        self.sum == self.right_sum()
    }

    fn right_sum(&self) -> u64 {
        Sum::of("command")
            .numbers([self.place, self.motion, self.ended])
            .bytes(self.id)
            .numbers([u64::from(self.key.is_some())])
            .bytes(self.key.unwrap_or_default())
            .bytes(self.content)
            .bytes(self.step)
            .done()
    }
}

/// The columns of a row of `command`.
pub(in super::super) fn command_of<'a>(
    place: u64,
    columns: &[Value<'a>],
) -> Option<CommandRow<'a>> {
    let [Value::Null, id, motion, ended, key, content, step, sum] = columns else {
        return None;
    };
    Some(CommandRow {
        place,
        id: id.bytes()?,
        motion: motion.unsigned()?,
        ended: ended.unsigned()?,
        key: key.bytes(),
        content: content.bytes()?,
        step: step.bytes()?,
        sum: sum.unsigned()?,
    })
}

/// A command and the records of its arrival, encoded by the caller.
#[derive(Debug)]
pub(in super::super) struct EncodedCommand {
    pub(in super::super) id: CommandId,
    pub(in super::super) motion: bool,
    pub(in super::super) ended: bool,
    pub(in super::super) key: Option<String>,
    pub(in super::super) content: Vec<u8>,
    pub(in super::super) step: Vec<u8>,
    pub(in super::super) records: Vec<EncodedRecord>,
}

impl EncodedCommand {
    pub(in super::super) fn encode(stored: &StoredCommand, records: &[Record]) -> Result<Self> {
        let content = Content {
            command: stored.command.clone(),
            origin: stored.origin.clone(),
            received: stored.received,
            boot: stored.boot,
            deadline: stored.deadline,
        };
        let mut told = Told {
            progress: stored.progress,
            hand_over: stored.hand_over,
            history: Vec::new(),
            reached: None,
        };
        for step in CommandStep::all(&[], records) {
            if step.id == stored.command.id {
                told.take(&step);
            }
        }
        let records = records.iter().map(EncodedRecord::encode);
        Ok(Self {
            id: stored.command.id,
            motion: stored.command.order.is_motion(),
            ended: stored.progress.is_final(),
            key: stored.key().map(str::to_owned),
            content: postcard::to_stdvec(&content)?,
            step: told.encode()?,
            records: records.collect::<Result<_>>()?,
        })
    }

    /// About how much room it takes.
    pub(in super::super) fn footprint(&self) -> u64 {
        let key = self.key.as_ref().map_or(0, |key| 2 * key.len());
        let own = footprint(key + self.content.len() + self.step.len());
        let records = self.records.iter().map(EncodedRecord::footprint);
        records.fold(own, u64::saturating_add)
    }
}

/// A step that a stored command takes, and what was said of it.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct CommandStep {
    /// Which command.
    pub(in super::super) id: CommandId,
    change: Option<CommandChange>,
    history: Vec<Transition>,
    reached: Option<Reached>,
}

impl CommandStep {
    /// The steps that an entry takes, one for each command.
    pub(in super::super) fn all(changes: &[CommandChange], records: &[Record]) -> Vec<Self> {
        let mut steps: Vec<Self> = Vec::new();
        let mut of = |id, take: &mut dyn FnMut(&mut Self)| {
            if let Some(step) = steps.iter_mut().find(|step| step.id == id) {
                return take(step);
            }
            let mut step = Self {
                id,
                change: None,
                history: Vec::new(),
                reached: None,
            };
            take(&mut step);
            steps.push(step);
        };
        for change in changes {
            of(change.id, &mut |step| step.change = Some(*change));
        }
        for Record { stamp, event } in records {
            if let Event::Command(update) = event {
                of(update.command, &mut |step| {
                    step.history.push(Transition {
                        state: update.progress,
                        at: *stamp,
                        detail: shortened(&update.detail),
                    });
                });
            } else if let Event::Progressed(progressed) = event {
                of(progressed.command, &mut |step| {
                    step.reached = Some(Reached {
                        percent: progressed.percent,
                        text: shortened(&progressed.text),
                        at: *stamp,
                    });
                });
            }
        }
        steps
    }
}

/// As much of a sentence as is kept.
fn shortened(sentence: &str) -> String {
    let end = sentence.floor_char_boundary(SENTENCE_BYTES);
    sentence.get(..end).unwrap_or_default().to_owned()
}

/// The part of a stored command that never changes. Its fields are stored: they never change.
#[derive(Serialize, Deserialize)]
struct Content {
    command: Command,
    origin: Origin,
    received: Uptime,
    boot: BootId,
    deadline: Uptime,
}

/// The part of a stored command that changes. Its fields are stored: they never change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Told {
    pub(in super::super) progress: Progress,
    pub(in super::super) hand_over: HandOver,
    pub(in super::super) history: Vec<Transition>,
    pub(in super::super) reached: Option<Reached>,
}

impl Told {
    pub(in super::super) fn take(&mut self, step: &CommandStep) {
        if let Some(change) = step.change {
            self.progress = change.progress;
            self.hand_over = change.hand_over;
        }
        let room = TRANSITIONS_MAX.saturating_sub(self.history.len());
        let newer = step.history.iter().take(room);
        self.history.extend(newer.cloned());
        if let Some(reached) = &step.reached {
            self.reached = Some(reached.clone());
        }
    }

    pub(in super::super) fn encode(&self) -> postcard::Result<Vec<u8>> {
        postcard::to_stdvec(self)
    }
}

/// Reads the part that changes.
pub(in super::super) fn decode_told(step: &[u8]) -> postcard::Result<Told> {
    postcard::from_bytes(step)
}

/// Puts the two parts of a stored command together.
pub(in super::super) fn decode_command(
    content: &[u8],
    told: &Told,
) -> postcard::Result<StoredCommand> {
    let Content {
        command,
        origin,
        received,
        boot,
        deadline,
    } = postcard::from_bytes(content)?;
    Ok(StoredCommand {
        command,
        origin,
        received,
        boot,
        deadline,
        progress: told.progress,
        hand_over: told.hand_over,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_changed_in_any_column_is_not_intact() {
        let row = CommandRow {
            place: 1,
            id: &[7; 16],
            motion: 1,
            ended: 0,
            key: None,
            content: b"content",
            step: b"step",
            sum: 0,
        };
        let row = row.sealed();
        assert!(row.is_intact());
        assert!(!CommandRow { place: 2, ..row }.is_intact());
        assert!(
            !CommandRow {
                id: &[8; 16],
                ..row
            }
            .is_intact()
        );
        assert!(!CommandRow { motion: 0, ..row }.is_intact());
        assert!(!CommandRow { ended: 1, ..row }.is_intact());
        let key = Some(b"".as_slice());
        assert!(!CommandRow { key, ..row }.is_intact());
        let (content, step) = (b"contents".as_slice(), b"tep".as_slice());
        assert!(
            !CommandRow {
                content,
                step,
                ..row
            }
            .is_intact()
        );
    }
}
