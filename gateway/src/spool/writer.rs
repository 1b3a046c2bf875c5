//! The spool's thread: it groups what waits into one transaction and answers after the sync.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use brrbrr_proto::id::{Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::format::{EncodedCommand, EncodedEntry};
use super::opening::Lock;
use super::sqlite::{Database, Transaction};
use super::{
    Appended, RELEASE_DELAY, REQUESTS_MAX, ReadBack, Result, STATUS_DELAY, SourceId, SpoolState,
    StoredCommands, Written,
};

type Reply<T> = oneshot::Sender<Result<T>>;

/// What the spool's thread is asked.
#[derive(Debug)]
pub(super) enum Request {
    Write {
        entry: EncodedEntry,
        reply: Reply<Written>,
    },
    WriteAll {
        entries: Vec<EncodedEntry>,
        reply: Reply<Appended>,
    },
    StoreCommands {
        cursor: Cursor,
        commands: Vec<EncodedCommand>,
        reply: Reply<StoredCommands>,
    },
    RenewEpoch {
        epoch: Epoch,
        reply: Reply<SpoolState>,
    },
    Read {
        from: Seq,
        max_items: usize,
        max_bytes: usize,
        reply: Reply<ReadBack>,
    },
    Knows {
        source: SourceId,
        reply: Reply<bool>,
    },
    Commits {
        reply: Reply<u64>,
    },
    Release {
        next: Seq,
    },
    Status(Status),
    Close {
        reply: Reply<()>,
    },
}

/// A request and its place in the queue, which is free again once the request has been taken out.
#[derive(Debug)]
pub(super) struct Ticketed {
    pub(super) request: Request,
    pub(super) _turn: OwnedSemaphorePermit,
}

/// What may wait for the next commit, and until when.
#[derive(Debug, Default)]
struct Held {
    release: Option<(Seq, Instant)>,
    status: Option<(Status, Instant)>,
    status_written: Option<Instant>,
}

impl Held {
    fn hold_release(&mut self, next: Seq, now: Instant) {
        let (next, due) = match self.release {
            Some((earlier, due)) => (next.max(earlier), due),
            None => (next, now + RELEASE_DELAY),
        };
        self.release = Some((next, due));
    }

    fn hold_status(&mut self, status: Status, now: Instant) {
        let due = self.status_written.map_or(now, |at| at + STATUS_DELAY);
        self.status = Some((status, due.max(now)));
    }

    fn due(&self) -> Option<Instant> {
        let release = self.release.map(|(_, due)| due);
        let status = self.status.as_ref().map(|(_, due)| *due);
        match (release, status) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Writes what is held into a transaction that is made anyway. A status goes along only when
    /// it is due, because it costs a page each time.
    fn write(&self, transaction: &mut Transaction<'_>, now: Instant, all: bool) -> Result<()> {
        if let Some((next, _)) = self.release {
            transaction.release(next)?;
        }
        if let Some((status, due)) = &self.status
            && (all || *due <= now)
        {
            transaction.store_status(status)?;
        }
        Ok(())
    }

    /// Forgets what [`Held::write`] wrote. A large release is deleted in several steps.
    fn written(&mut self, database: &Database, now: Instant) {
        if let Some((next, _)) = self.release {
            self.release = database.holds_before(next).then_some((next, now));
        }
        if self.status.as_ref().is_some_and(|(_, due)| *due <= now) {
            self.status = None;
            self.status_written = Some(now);
        }
    }

    /// Tries again later, and not at once, after a commit of held things alone has failed.
    fn put_off(&mut self, now: Instant) {
        if let Some((_, due)) = &mut self.release {
            *due = now + RELEASE_DELAY;
        }
        if let Some((_, due)) = &mut self.status {
            *due = now + STATUS_DELAY;
        }
    }
}

/// Serves requests until the last handle is gone or one of them closes the spool.
pub(super) fn run(mut database: Database, _lock: Lock, waiting: &Receiver<Ticketed>) {
    let mut held = Held::default();
    let mut group = Vec::new();
    loop {
        let more = take_group(waiting, held.due(), &mut group);
        let now = Instant::now();
        let closing = serve_group(&mut database, &mut held, &mut group, now);
        if closing.is_some() || !more {
            let ended = shut(&mut database, &held, now);
            if let Some(reply) = closing {
                answer(reply, ended);
            }
            return;
        }
    }
}

/// Waits for a request, or until something held is due, and takes all that wait by then. Says
/// whether there can be more.
fn take_group(
    waiting: &Receiver<Ticketed>,
    due: Option<Instant>,
    group: &mut Vec<Request>,
) -> bool {
    let first = match due {
        Some(due) => waiting.recv_timeout(due.saturating_duration_since(Instant::now())),
        None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
    };
    match first {
        Ok(ticketed) => group.push(ticketed.request),
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
    }
    while group.len() < REQUESTS_MAX {
        match waiting.try_recv() {
            Ok(ticketed) => group.push(ticketed.request),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
    true
}

/// Says what became of a request once its transaction is on the disk, or why it is not.
type Answer = Box<dyn FnOnce(Result<()>)>;

/// Serves a group: first all that write, in one transaction, then all that read. Returns the one
/// that closes the spool, if there is one.
fn serve_group(
    database: &mut Database,
    held: &mut Held,
    group: &mut Vec<Request>,
    now: Instant,
) -> Option<Reply<()>> {
    let mut writes = Vec::new();
    let mut reads = Vec::new();
    let mut closing = None;
    for request in group.drain(..) {
        match request {
            Request::Release { next } => held.hold_release(next, now),
            Request::Status(status) => held.hold_status(status, now),
            Request::Close { reply } => closing = Some(reply),
            Request::Write { .. }
            | Request::WriteAll { .. }
            | Request::StoreCommands { .. }
            | Request::RenewEpoch { .. } => writes.push(request),
            Request::Read { .. } | Request::Knows { .. } | Request::Commits { .. } => {
                reads.push(request);
            }
        }
    }
    if !writes.is_empty() || held.is_due(now) {
        write_group(database, held, writes, now);
    }
    for request in reads {
        serve_read(database, request);
    }
    closing
}

fn write_group(database: &mut Database, held: &mut Held, writes: Vec<Request>, now: Instant) {
    let mut answers: Vec<Answer> = Vec::with_capacity(writes.len());
    let renews = |request: &Request| matches!(request, Request::RenewEpoch { .. });
    let renewed = writes.iter().any(renews);
    let outcome = database.transaction(|transaction| {
        if let Some((next, _)) = held.release
            && renewed
        {
            // A renewal gives every position a new meaning, so all that was released goes first.
            transaction.release_all(next)?;
        }
        held.write(transaction, now, false)?;
        let mut failed = Ok(());
        for request in writes {
            // After a failure the rest is not tried, only told.
            let (done, answer) = serve_write(transaction, request, failed.is_ok());
            answers.push(answer);
            failed = failed.and(done);
        }
        failed
    });
    match &outcome {
        Ok(()) => {
            if renewed {
                held.release = None;
            }
            held.written(database, now);
        }
        Err(error) => {
            tracing::warn!(%error, "the spool could not write");
            held.put_off(now);
        }
    }
    for answer in answers {
        answer(outcome.clone());
    }
}

/// Carries a request out within a transaction. Returns whether the transaction may go on, and what
/// tells the caller in the end.
fn serve_write(
    transaction: &mut Transaction<'_>,
    request: Request,
    going: bool,
) -> (Result<()>, Answer) {
    match request {
        Request::Write { entry, reply } => {
            let done = going.then(|| transaction.write(&entry));
            later(done, reply)
        }
        Request::WriteAll { entries, reply } => {
            let done = going.then(|| transaction.write_all(&entries));
            later(done, reply)
        }
        Request::StoreCommands {
            cursor,
            commands,
            reply,
        } => {
            let done = going.then(|| transaction.store_commands(cursor, &commands));
            later(done, reply)
        }
        Request::RenewEpoch { epoch, reply } => {
            let done = going.then(|| transaction.renew_epoch(epoch));
            later(done, reply)
        }
        // The others do not write; they are never passed here.
        Request::Read { .. }
        | Request::Knows { .. }
        | Request::Commits { .. }
        | Request::Release { .. }
        | Request::Status(_)
        | Request::Close { .. } => (Ok(()), Box::new(|_| {})),
    }
}

fn later<T: 'static>(done: Option<Result<T>>, reply: Reply<T>) -> (Result<()>, Answer) {
    let (done, failed) = match done {
        Some(Ok(value)) => (Some(value), Ok(())),
        Some(Err(error)) => (None, Err(error)),
        None => (None, Ok(())),
    };
    let answer_it: Answer = Box::new(move |committed: Result<()>| match (committed, done) {
        (Ok(()), Some(value)) => answer(reply, Ok(value)),
        (Err(error), _) => answer(reply, Err(error)),
        // Not carried out, and yet no failure: dropping the reply says that the spool is closed.
        (Ok(()), None) => drop(reply),
    });
    (failed, answer_it)
}

fn serve_read(database: &Database, request: Request) {
    match request {
        Request::Read {
            from,
            max_items,
            max_bytes,
            reply,
        } => answer(reply, database.read(from, max_items, max_bytes)),
        Request::Knows { source, reply } => answer(reply, database.knows(&source)),
        Request::Commits { reply } => answer(reply, Ok(database.commits())),
        // The others write; they are never passed here.
        Request::Write { .. }
        | Request::WriteAll { .. }
        | Request::StoreCommands { .. }
        | Request::RenewEpoch { .. }
        | Request::Release { .. }
        | Request::Status(_)
        | Request::Close { .. } => {}
    }
}

/// Writes what is still held back and folds the log into the database.
fn shut(database: &mut Database, held: &Held, now: Instant) -> Result<()> {
    if held.due().is_some() {
        database.transaction(|transaction| held.write(transaction, now, true))?;
    }
    database.checkpoint()
}

/// A caller that has gone away does not want the answer.
fn answer<T>(reply: Reply<T>, value: Result<T>) {
    drop(reply.send(value));
}
