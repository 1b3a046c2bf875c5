//! The link: how a stream crosses a network that loses everything sooner or later.
//!
//! The gateway half and the relay half are state machines without I/O. A driver hands in what
//! happened (`handle_…`), then takes outputs until there are none (`poll_output`), and calls
//! `handle_timeout` when the moment that `poll_timeout` names has come.
//!
//! What the halves rely on: the spool, the journal and the ledger are durable when they say so, and
//! the carrier delivers whole frames or none. What they promise on top, whatever the carrier loses,
//! doubles, reorders or delays, and whenever either side stops: every record and every command
//! reaches the other side's storage exactly once and in order, or a tombstone in its place.

use std::time::Duration;

use crate::down::MAX_COMMANDS;
use crate::up::MAX_BATCH_ITEMS;

pub mod gateway;
pub mod relay;

pub use gateway::Gateway;
pub use relay::Relay;

/// The most record bytes in one batch, so that a live frame never waits long behind one.
/// A batch holds at least one record, so it can be as large as the largest record.
pub const BATCH_BYTES: usize = 96 * 1024;
/// The most items in one batch.
pub const BATCH_ITEMS: usize = MAX_BATCH_ITEMS;
/// The most commands in one frame. After an absence, what stops or replaces a motion should come in
/// one frame with it.
pub const COMMANDS_PER_FRAME: usize = MAX_COMMANDS;
/// The most bytes of orders in one frame, so that it fits well with all that is said of them. There is
/// at least one command, so it can be as large as the largest order.
pub const COMMANDS_BYTES: usize = 128 * 1024;
/// How long a relay waits for a gateway to store commands before it sends them again.
pub const COMMANDS_TIMEOUT: Duration = Duration::from_secs(5);
/// A side that has heard nothing for this many beat intervals takes the other for gone.
pub const SILENT_BEATS: u32 = 3;
/// A gateway beats no more often than this, whatever a welcome says: zero would be a busy loop.
pub const SHORTEST_BEAT_INTERVAL: Duration = Duration::from_millis(100);
/// A gateway sends live frames no more often than this, whatever a welcome says.
pub const SHORTEST_LIVE_INTERVAL: Duration = Duration::from_millis(10);
/// The longest interval of either kind that a gateway obeys. A session that fails is noticed within
/// [`SILENT_BEATS`] of these.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(600);
