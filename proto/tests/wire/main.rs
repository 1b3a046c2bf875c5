//! The bytes of the wire: pinned for ever per version, and what decoders do with any other bytes.

#![allow(clippy::expect_used, clippy::panic, reason = "a failing check panics")]

mod bounds;
mod building;
mod commands;
mod live;
mod message;
mod properties;
mod spool;
mod v1;

use peak_alloc::PeakAlloc;

/// Counts, so that a test can say how much a decoder took.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;
