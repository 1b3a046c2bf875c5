//! How records and the state of the streams are encoded in the spool's rows. The bytes of
//! a record are those that the link carries.
//!
//! SQLite does not notice a page that rotted, so every row has a sum: the CRC-32 of the table's name
//! and of all other columns, the row's number among them. A row that rotted, or that stands where
//! it does not belong, does not pass for an intact one.

mod command;

use brrbrr_proto::id::{Cursor, Epoch, Seq};
use brrbrr_proto::up::{Event, MAX_RECORD_BYTES, Record};
use crc32fast::Hasher;

pub(super) use self::command::{
    CommandRow, CommandStep, EncodedCommand, command_of, decode_command, decode_told,
};
use super::pages::{PAGE_BYTES, Value};
use super::{Entry, MAX_SOURCE_BYTES, Result, SourceId, SpoolError};

/// How much a record matters when room has to be made. Its number is stored: it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A sample of the status.
    Telemetry,
    /// An integrator's own.
    Custom,
    /// What people and programs act on: changes, arrivals, alarms, steps of commands.
    Essential,
    /// What is left of others: a tombstone, or thinned telemetry.
    Gap,
}

impl Class {
    pub(super) const fn of(event: &Event) -> Self {
        match event {
            Event::Telemetry(_) => Self::Telemetry,
            Event::Custom(_) | Event::Progressed(_) => Self::Custom,
            Event::Changed(_)
            | Event::Arrived(_)
            | Event::Alarm(_)
            | Event::Command(_)
            | Event::Ordered(_) => Self::Essential,
            Event::Tombstone(_) | Event::Thinned(_) => Self::Gap,
        }
    }

    /// The class of a stored number.
    pub(super) const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Telemetry),
            1 => Some(Self::Custom),
            2 => Some(Self::Essential),
            3 => Some(Self::Gap),
            _ => None,
        }
    }

    /// The number that is stored.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Telemetry => 0,
            Self::Custom => 1,
            Self::Essential => 2,
            Self::Gap => 3,
        }
    }
}

/// A row of `record`, as the file has it. Integers are SQLite's, with the sign taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordRow<'a> {
    /// Its number, which is its position plus the stream's shift.
    pub(super) row: u64,
    /// The number of its [`Class`].
    pub(super) class: u64,
    /// How many positions it stands for; never zero.
    pub(super) covers: u64,
    /// What [`RecordRow::right_sum`] was when it was written.
    pub(super) sum: u64,
    /// An encoded [`Record`].
    pub(super) bytes: &'a [u8],
}

impl<'a> RecordRow<'a> {
    /// A row for this number with the right sum.
    pub(super) fn sealed(row: u64, record: &'a EncodedRecord) -> Self {
        let mut sealed = Self {
            row,
            class: record.class.number(),
            covers: record.covers,
            sum: 0,
            bytes: &record.bytes,
        };
        sealed.sum = sealed.right_sum();
        sealed
    }

    /// Whether the row is as it was written, and where it was written.
    pub(super) fn is_intact(&self) -> bool {
        self.sum == self.right_sum() && self.covers > 0
    }

    /// The row after the last that it stands for.
    pub(super) const fn end(&self) -> u64 {
        self.row.saturating_add(self.covers)
    }

    fn right_sum(&self) -> u64 {
        Sum::of("record")
            .numbers([self.row, self.class, self.covers])
            .bytes(self.bytes)
            .done()
    }
}

/// The state of both streams, as the one row of `stream` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    /// The incarnation of the up stream.
    pub(super) epoch: Epoch,
    /// Row number minus position.
    pub(super) shift: u64,
    /// The first row that was not released yet, or that will be the next.
    pub(super) released: u64,
    /// How far the down stream is stored.
    pub(super) down: Option<Cursor>,
    /// The latest status, encoded.
    pub(super) status: Option<Vec<u8>>,
}

impl Stream {
    /// What of it is kept in a second place.
    pub(super) const fn identity(&self) -> Identity {
        Identity {
            epoch: self.epoch,
            shift: self.shift,
        }
    }

    /// The sum that belongs to its row.
    pub(super) fn sum(&self) -> u64 {
        let Self {
            epoch,
            shift,
            released,
            down,
            status,
        } = self;
        let down = down.map_or([0, 0, 0], |down| [1, down.epoch.0, down.next.0]);
        Sum::of("stream")
            .numbers([epoch.0, *shift, *released])
            .numbers(down)
            .numbers([u64::from(status.is_some())])
            .bytes(status.as_deref().unwrap_or_default())
            .done()
    }
}

/// What the positions in the file mean, as the one row of `identity` has it: a copy of what
/// `stream` says, on a page that is hardly ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// The incarnation of the up stream.
    pub(super) epoch: Epoch,
    /// Row number minus position.
    pub(super) shift: u64,
}

impl Identity {
    /// The sum that belongs to its row.
    pub(super) fn sum(&self) -> u64 {
        Sum::of("identity")
            .numbers([self.epoch.0, self.shift])
            .done()
    }
}

/// The columns of a row of `record`, as its page has them. Like the other three, `None` where they
/// are of another table.
pub(super) fn record_of<'a>(row: u64, columns: &[Value<'a>]) -> Option<RecordRow<'a>> {
    let [Value::Null, class, covers, sum, bytes] = columns else {
        return None;
    };
    Some(RecordRow {
        row,
        class: class.unsigned()?,
        covers: covers.unsigned()?,
        sum: sum.unsigned()?,
        bytes: bytes.bytes()?,
    })
}

/// The columns of the row of `stream` and its sum.
pub(super) fn stream_of(columns: &[Value<'_>]) -> Option<(Stream, u64)> {
    let [
        Value::Null,
        epoch,
        shift,
        released,
        down_epoch,
        down_next,
        status,
        sum,
    ] = columns
    else {
        return None;
    };
    let down = down_epoch.unsigned().zip(down_next.unsigned());
    let stream = Stream {
        epoch: Epoch(epoch.unsigned()?),
        shift: shift.unsigned()?,
        released: released.unsigned()?,
        down: down.map(|(epoch, next)| Cursor {
            epoch: Epoch(epoch),
            next: Seq(next),
        }),
        status: status.bytes().map(<[u8]>::to_vec),
    };
    Some((stream, sum.unsigned()?))
}

/// The columns of the row of `identity` and its sum.
pub(super) fn identity_of(columns: &[Value<'_>]) -> Option<(Identity, u64)> {
    let [Value::Null, epoch, shift, sum] = columns else {
        return None;
    };
    let identity = Identity {
        epoch: Epoch(epoch.unsigned()?),
        shift: shift.unsigned()?,
    };
    Some((identity, sum.unsigned()?))
}

/// A sum in the making.
struct Sum(Hasher);

impl Sum {
    fn of(table: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(table.as_bytes());
        Self(hasher)
    }

    fn numbers<const COUNT: usize>(mut self, numbers: [u64; COUNT]) -> Self {
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
        self
    }

    /// The length goes before the bytes, so that no byte can pass from one column to the next.
    fn bytes(mut self, bytes: &[u8]) -> Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.update(&length.to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn done(self) -> u64 {
        u64::from(self.0.finalize())
    }
}

/// A record before it has a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedRecord {
    /// How much it matters.
    pub(super) class: Class,
    /// How many positions it stands for; never zero.
    pub(super) covers: u64,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

impl EncodedRecord {
    pub(super) fn encode(record: &Record) -> Result<Self> {
        let bytes = postcard::to_stdvec(record)?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(SpoolError::RecordTooLong(bytes.len()));
        }
        Ok(Self {
            class: Class::of(&record.event),
            covers: record.covers(),
            bytes,
        })
    }

    fn footprint(&self) -> u64 {
        footprint(self.bytes.len())
    }
}

/// About how many bytes of pages a row takes, and rather too many than too few: as many rows of its
/// size as a page has room for share it, and a longer one takes pages of its own.
fn footprint(bytes: usize) -> u64 {
    const ROW: u64 = 32;
    const PAGE: u64 = PAGE_BYTES as u64;
    /// As much of a row that has pages of its own stays beside others, and no more where that
    /// would cost another page.
    const LEAST_BESIDE: u64 = 100;
    let row = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(ROW);
    match PAGE / row {
        0 => {
            let own = row.saturating_sub(LEAST_BESIDE).div_ceil(PAGE - 4);
            own.saturating_mul(PAGE).saturating_add(2 * LEAST_BESIDE)
        }
        rows => PAGE.div_ceil(rows),
    }
}

/// An [`Entry`], checked and encoded by its caller, so that the spool's thread need not.
#[derive(Debug)]
pub(super) struct EncodedEntry {
    pub(super) source: Option<SourceId>,
    /// Whether steps of commands were decided, and not only reported.
    pub(super) decides: bool,
    pub(super) steps: Vec<CommandStep>,
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
        let steps = CommandStep::all(&changes, &records);
        let records = records
            .iter()
            .map(EncodedRecord::encode)
            .collect::<Result<_>>()?;
        Ok(Self {
            source,
            decides: !changes.is_empty(),
            steps,
            records,
        })
    }

    /// About how much room it takes.
    pub(super) fn footprint(&self) -> u64 {
        // A name is in the table and in its index.
        let source = self.source.as_ref();
        let source = source.map_or(0, |source| 2 * footprint(source.0.len()));
        let records = self.records.iter().map(EncodedRecord::footprint);
        records.fold(source, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn record(bytes: &[u8]) -> RecordRow<'_> {
        RecordRow {
            row: 5,
            class: 1,
            covers: 1,
            sum: 0,
            bytes,
        }
    }

    #[test]
    fn a_record_that_is_changed_in_any_column_is_not_intact() {
        let written = EncodedRecord {
            class: Class::Custom,
            covers: 3,
            bytes: b"abc".to_vec(),
        };
        let row = RecordRow::sealed(5, &written);
        assert!(row.is_intact());
        assert!(!RecordRow { row: 6, ..row }.is_intact());
        assert!(!RecordRow { class: 2, ..row }.is_intact());
        assert!(!RecordRow { covers: 2, ..row }.is_intact());
        assert!(
            !RecordRow {
                bytes: b"abd",
                ..row
            }
            .is_intact()
        );
        let sum = row.sum ^ 1;
        assert!(!RecordRow { sum, ..row }.is_intact());
    }

    #[test]
    fn a_row_that_stands_for_nothing_is_not_intact() {
        let mut row = RecordRow {
            covers: 0,
            ..record(b"abc")
        };
        row.sum = row.right_sum();
        assert!(!row.is_intact());
    }

    #[test]
    fn the_state_of_the_streams_has_another_sum_when_any_part_of_it_changes() {
        let cursor = Cursor {
            epoch: Epoch(0),
            next: brrbrr_proto::id::Seq(0),
        };
        let stream = Stream {
            epoch: Epoch(1),
            shift: 2,
            released: 3,
            down: None,
            status: None,
        };
        let changed = [
            Stream {
                epoch: Epoch(2),
                ..stream.clone()
            },
            Stream {
                shift: 3,
                ..stream.clone()
            },
            Stream {
                released: 4,
                ..stream.clone()
            },
            Stream {
                down: Some(cursor),
                ..stream.clone()
            },
            Stream {
                status: Some(Vec::new()),
                ..stream.clone()
            },
        ];
        for changed in changed {
            assert_ne!(changed.sum(), stream.sum(), "{changed:?}");
        }
        let identity = stream.identity();
        let (epoch, shift) = (Epoch(2), 3);
        assert_ne!(Identity { epoch, ..identity }.sum(), identity.sum());
        assert_ne!(Identity { shift, ..identity }.sum(), identity.sum());
    }

    /// The sums are stored, so they never change.
    #[test]
    fn a_sum_is_the_same_in_every_version() {
        let written = EncodedRecord {
            class: Class::Custom,
            covers: 1,
            bytes: b"abc".to_vec(),
        };
        assert_eq!(RecordRow::sealed(5, &written).sum, 0x52d4_8315);
    }
}
