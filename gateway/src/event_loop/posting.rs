//! What programs on the board post: events that are durable before the program hears so.

use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::Event;
use tokio::sync::oneshot;

use super::{Done, EventLoop};
use crate::local::{POSTS_MAX, Posted};
use crate::spool::{self, Appended, Entry};

impl EventLoop {
    /// Whether posts may be taken. A program that goes away does not take back what it has posted,
    /// so connections alone do not bound what waits for a disk that hangs.
    pub(super) const fn takes_posts(&self) -> bool {
        self.posting < POSTS_MAX
    }

    pub(super) fn handle_posted(&mut self, posted: Posted) {
        let Posted { events, reply } = posted;
        let entries = events.into_iter().map(|(source, custom)| Entry {
            source,
            changes: Vec::new(),
            records: vec![self.record(Event::Custom(custom))],
        });
        let (spool, entries) = (self.spool.clone(), entries.collect());
        self.posting += 1;
        self.push(async move { Done::Posted(reply, spool.write_all(entries).await) });
    }

    pub(super) fn handle_posted_written(
        &mut self,
        reply: oneshot::Sender<spool::Result<Appended>>,
        written: spool::Result<Appended>,
        now: Uptime,
    ) {
        self.posting -= 1;
        match &written {
            Ok(written) => self.appended(written, now),
            Err(error) => self.refused(error),
        }
        // A program that has gone away posts it again.
        reply.send(written).ok();
    }
}
