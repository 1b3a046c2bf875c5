//! How records and commands are encoded in the spool's rows. The bytes of a record are those that
//! the link carries.

use brrbrr_proto::down::Command;
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{MAX_RECORD_BYTES, Progress, Record};
use serde::{Deserialize, Serialize};

use super::{
    CommandChange, Entry, HandOver, MAX_SOURCE_BYTES, Result, SourceId, SpoolError, StoredCommand,
};

/// A record as a row holds it.
#[derive(Debug)]
pub(super) struct EncodedRecord {
    /// How many positions it stands for; never zero.
    pub(super) covers: u64,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

impl EncodedRecord {
    fn encode(record: &Record) -> Result<Self> {
        let bytes = postcard::to_stdvec(record)?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(SpoolError::RecordTooLong(bytes.len()));
        }
        let covers = record.covers();
        Ok(Self { covers, bytes })
    }
}

/// An [`Entry`], checked and encoded by its caller, so that the spool's thread need not.
#[derive(Debug)]
pub(super) struct EncodedEntry {
    pub(super) source: Option<SourceId>,
    pub(super) changes: Vec<CommandChange>,
    pub(super) records: Vec<EncodedRecord>,
}

impl EncodedEntry {
    pub(super) fn encode(entry: Entry) -> Result<Self> {
        let Entry {
            source,
            changes,
            records,
        } = entry;
        if let Some(SourceId(name)) = &source
            && name.len() > MAX_SOURCE_BYTES
        {
            return Err(SpoolError::SourceTooLong(name.len()));
        }
        let records = records
            .iter()
            .map(EncodedRecord::encode)
            .collect::<Result<_>>()?;
        Ok(Self {
            source,
            changes,
            records,
        })
    }
}

/// A command and the record of its arrival, encoded by the caller.
#[derive(Debug)]
pub(super) struct EncodedCommand {
    pub(super) id: CommandId,
    pub(super) motion: bool,
    pub(super) ended: bool,
    pub(super) content: Vec<u8>,
    pub(super) step: Vec<u8>,
    pub(super) record: EncodedRecord,
}

impl EncodedCommand {
    pub(super) fn encode(stored: &StoredCommand, record: &Record) -> Result<Self> {
        let content = Content {
            command: stored.command.clone(),
            received: stored.received,
            boot: stored.boot,
            deadline: stored.deadline,
        };
        Ok(Self {
            id: stored.command.id,
            motion: stored.command.order.is_motion(),
            ended: stored.progress.is_final(),
            content: postcard::to_stdvec(&content)?,
            step: encode_step(stored.progress, stored.hand_over)?,
            record: EncodedRecord::encode(record)?,
        })
    }
}

/// The part of a stored command that never changes. Its fields are stored: they never change.
#[derive(Serialize, Deserialize)]
struct Content {
    command: Command,
    received: Uptime,
    boot: BootId,
    deadline: Uptime,
}

/// The part of a stored command that changes.
pub(super) fn encode_step(progress: Progress, hand_over: HandOver) -> Result<Vec<u8>> {
    Ok(postcard::to_stdvec(&(progress, hand_over))?)
}

/// Puts the two parts of a stored command together.
pub(super) fn decode_command(content: &[u8], step: &[u8]) -> postcard::Result<StoredCommand> {
    let Content {
        command,
        received,
        boot,
        deadline,
    } = postcard::from_bytes(content)?;
    let (progress, hand_over) = postcard::from_bytes(step)?;
    Ok(StoredCommand {
        command,
        received,
        boot,
        deadline,
        progress,
        hand_over,
    })
}
