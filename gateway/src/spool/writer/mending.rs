//! What the spool's thread does while its database is closed to be mended.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use brrbrr_proto::id::Epoch;

use super::super::SpoolError;
use super::super::repair::{PACE, Reopening};
use super::{Held, Request, Ticketed, Writer, answer, take_group};

impl Writer {
    /// Closes the database and opens it again. Until that works, all that is asked is refused.
    pub(super) fn mend(self, reopening: &Reopening, waiting: &Receiver<Ticketed>) -> Option<Self> {
        let Self {
            mut database,
            mut held,
            mut room,
            mut telling,
            mut refused,
            mut repair,
            ..
        } = self;
        let epoch = database.epoch();
        if let Err(error) = database.cut_rest() {
            tracing::warn!(%error, "the spool could not tidy its log up");
        }
        if matches!(reopening, Reopening::Damaged(..)) {
            database.leave_files();
        }
        drop(database);
        loop {
            let error = match repair.reopen(reopening) {
                Ok((database, _)) => {
                    if database.epoch() != epoch {
                        held.release = None;
                    }
                    room.look_again();
                    room.forget_work();
                    telling.touch();
                    return Some(Self {
                        database,
                        held,
                        room,
                        telling,
                        failing: None,
                        refused_at: None,
                        refused,
                        repair,
                    });
                }
                Err(error) => error,
            };
            tracing::warn!(%error, "the spool could not be opened again");
            telling.tell_failing(error.to_string(), Instant::now());
            let max_bytes = room.limits().group_bytes();
            if !refuse_for_a_while(waiting, &mut held, epoch, max_bytes, &error) {
                return None;
            }
            refused += 1;
        }
    }
}

/// Refuses all that is asked until it is time to try again. What is released is kept where it is of
/// the `epoch` that the database had. Says whether there can be more.
fn refuse_for_a_while(
    waiting: &Receiver<Ticketed>,
    held: &mut Held,
    epoch: Epoch,
    max_bytes: u64,
    error: &SpoolError,
) -> bool {
    let until = Instant::now() + PACE;
    let mut group = Vec::new();
    while Instant::now() < until {
        let more = take_group(waiting, Some(until), max_bytes, &mut group);
        for request in group.drain(..) {
            match request {
                Request::Release { epoch: of, next } => {
                    if of == epoch {
                        held.hold_release(next, until);
                    }
                }
                Request::Status(status) => held.hold_status(status, until),
                Request::Close { reply } => {
                    answer(reply, Err(error.clone()));
                    return false;
                }
                Request::Write { .. }
                | Request::WriteAll { .. }
                | Request::StoreCommands { .. }
                | Request::GiveCommand { .. }
                | Request::RenewEpoch { .. }
                | Request::Read { .. }
                | Request::Knows { .. }
                | Request::Commands { .. }
                | Request::Command { .. }
                | Request::Commits { .. }
                | Request::State { .. }
                | Request::Gaps { .. } => request.refuse(error.clone()),
            }
        }
        if !more {
            return false;
        }
    }
    true
}
