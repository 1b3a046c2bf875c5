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
