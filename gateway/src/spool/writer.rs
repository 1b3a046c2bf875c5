//! The spool's thread: it groups what waits into one transaction and answers after the sync.

mod mending;
mod request;

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use brrbrr_proto::id::Seq;
use brrbrr_proto::live::Status;
use brrbrr_proto::up::Disk;
use tokio::sync::watch;

use self::request::{Reply, answer};
pub(super) use self::request::{Request, Ticketed};
use super::health::Telling;
use super::repair::{Look, Reopening, Repair};
use super::shedding::{Room, SHORT_FOR};
use super::sqlite::{Database, Transaction};
use super::{Health, Limits, RELEASE_DELAY, REQUESTS_MAX, Result, STATUS_DELAY, SpoolError};

/// What may wait for the next commit, and until when.
#[derive(Debug, Default)]
struct Held {
    release: Option<(Seq, Instant)>,
    status: Option<(Status, Instant)>,
    status_written: Option<Instant>,
}

impl Held {
    /// What was released and is still there.
    fn released(&self) -> Option<Seq> {
        self.release.map(|(next, _)| next)
    }

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
        if let Some(next) = self.released() {
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
        if let Some(next) = self.released() {
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

/// The spool's thread: the database and what goes with it.
#[derive(Debug)]
pub(super) struct Writer {
    database: Database,
    held: Held,
    room: Room,
    telling: Telling,
    /// Why the last write failed.
    failing: Option<SpoolError>,
    /// When something was refused for want of room for the last time.
    refused_at: Option<Instant>,
    refused: u64,
    repair: Repair,
}

/// Why requests are no longer served.
#[derive(Debug)]
enum Served {
    /// The database has to be opened again.
    Reopen(Reopening),
    /// The spool is closed: what became of its last write, and who asked for it.
    End(Result<()>, Option<Reply<()>>),
}

impl Writer {
    pub(super) fn new(
        database: Database,
        limits: Limits,
        repair: Repair,
    ) -> Result<(Self, watch::Receiver<Health>)> {
        database.bound_log(limits)?;
        let room = Room::new(limits, repair.path());
        let (disk, detail) = (Disk::Fine, String::new());
        let health = health(&database, &room, 0, disk, detail)?;
        let (telling, receiver) = Telling::new(health, Instant::now());
        let writer = Self {
            database,
            held: Held::default(),
            room,
            telling,
            failing: None,
            refused_at: None,
            refused: 0,
            repair,
        };
        Ok((writer, receiver))
    }

    /// Serves requests until the last handle is gone or one of them closes the spool. Closes the
    /// database and opens it again where nothing else helps.
    pub(super) fn run(mut self, waiting: &Receiver<Ticketed>) {
        loop {
            match self.serve(waiting) {
                Served::Reopen(reopening) => match self.mend(&reopening, waiting) {
                    Some(mended) => self = mended,
                    None => return,
                },
                Served::End(ended, closing) => {
                    // Whoever hears that the spool is closed may open it again at once.
                    drop(self);
                    if let Some(reply) = closing {
                        answer(reply, ended);
                    }
                    return;
                }
            }
        }
    }

    /// Serves requests until the spool ends, or until it has to be opened again.
    fn serve(&mut self, waiting: &Receiver<Ticketed>) -> Served {
        let mut group = Vec::new();
        loop {
            let due = self.due(Instant::now());
            let more = take_group(
                waiting,
                Some(due),
                self.room.limits().group_bytes(),
                &mut group,
            );
            let now = Instant::now();
            let closing = self.serve_group(&mut group, now);
            if closing.is_some() || !more {
                return Served::End(self.shut(now), closing);
            }
            self.tend(now);
            let reopening = self.look(now);
            self.tell(now);
            if let Some(reopening) = reopening {
                return Served::Reopen(reopening);
            }
        }
    }

    fn due(&self, now: Instant) -> Instant {
        let dues = [self.held.due(), self.room.due(now), self.telling.due()];
        dues.into_iter()
            .flatten()
            .fold(self.repair.due(), Instant::min)
    }

    /// Looks after the disk: at once where the database is damaged, else about once a second.
    fn look(&mut self, now: Instant) -> Option<Reopening> {
        let damage = self.failing.as_ref().and_then(SpoolError::damage);
        if let Some(what) = damage.or_else(|| self.repair.unread()?.damage()) {
            let (what, next) = (what.to_owned(), self.database.next_row());
            return Some(Reopening::Damaged(what, next));
        }
        if now < self.repair.due() {
            return None;
        }
        let failing = self.failing.as_ref();
        match self.repair.look(&mut self.database, failing, now) {
            Look::Same => {}
            Look::Recovered => {
                tracing::info!("the spool's disk takes data again");
                self.failing = None;
                self.telling.touch();
            }
            Look::Failing(error) => self.failed(error),
            Look::Reopen(reopening) => return Some(reopening),
        }
        None
    }

    /// Serves a group: first all that write, in one transaction, then all that read. Returns the
    /// one that closes the spool, if there is one.
    fn serve_group(&mut self, group: &mut Vec<Request>, now: Instant) -> Option<Reply<()>> {
        let mut writes = Vec::new();
        let mut reads = Vec::new();
        let mut closing = None;
        for request in group.drain(..) {
            match request {
                Request::Release { epoch, next } => {
                    // In another epoch the position means another record.
                    if epoch == self.database.epoch() {
                        self.held.hold_release(next, now);
                    }
                }
                Request::Status(status) => self.held.hold_status(status, now),
                Request::Close { reply } => closing = Some(reply),
                Request::Write { .. }
                | Request::WriteAll { .. }
                | Request::StoreCommands { .. }
                | Request::GiveCommand { .. }
                | Request::RenewEpoch { .. } => writes.push(request),
                Request::Read { .. }
                | Request::Knows { .. }
                | Request::Commands { .. }
                | Request::Command { .. }
                | Request::Commits { .. }
                | Request::State { .. }
                | Request::Gaps { .. } => reads.push(request),
            }
        }
        self.admit(&mut writes, now);
        if !writes.is_empty() || self.held.is_due(now) {
            self.write_group(writes, now);
        }
        for request in reads {
            self.serve_read(request);
        }
        closing
    }

    /// Makes room for writes, and takes out and answers those that there can be no room for.
    fn admit(&mut self, writes: &mut Vec<Request>, now: Instant) {
        if !writes.is_empty() && self.database.misplaced().is_some() {
            let error = SpoolError::Misplaced(self.repair.path().to_owned());
            for request in writes.drain(..) {
                self.refused += 1;
                request.refuse(error.clone());
            }
            self.repair.look_at_once(now);
            self.failed(error);
        }
        let room = &self.room;
        let too_large = |request: &mut Request| !room.can_hold(request.footprint());
        for request in writes.extract_if(.., too_large) {
            let error = room.full(request.footprint());
            self.refused += 1;
            request.refuse(error);
        }
        let footprints = writes.iter().map(Request::footprint);
        let wanted = footprints.fold(0, u64::saturating_add);
        if wanted == 0 {
            return;
        }
        let released = self.held.released();
        if let Err(error) = self.room.admit(&mut self.database, released, wanted, now) {
            tracing::warn!(%error, "the spool takes nothing");
            for request in writes.extract_if(.., |request| request.footprint() > 0) {
                self.refused += 1;
                request.refuse(error.clone());
            }
            if error.is_for_want_of_room() {
                self.refused_at = Some(now);
            }
            self.failed(error);
        }
    }

    fn write_group(&mut self, writes: Vec<Request>, now: Instant) {
        let mut answers: Vec<Answer> = Vec::with_capacity(writes.len());
        let renews = |request: &Request| matches!(request, Request::RenewEpoch { .. });
        let renewed = writes.iter().any(renews);
        let held = &self.held;
        let outcome = self.database.transaction(|transaction| {
            if let Some(next) = held.released()
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
                    self.held.release = None;
                    self.database.forget_reads();
                    self.room.forget_work();
                }
                self.held.written(&self.database, now);
                self.written(now);
            }
            Err(error) => {
                tracing::warn!(%error, "the spool could not write");
                self.held.put_off(now);
                self.failed(error.clone());
                self.refused += u64::try_from(answers.len()).unwrap_or(u64::MAX);
            }
        }
        self.telling.touch();
        for answer in answers {
            answer(outcome.clone());
        }
    }

    /// A write has succeeded. A small one may fit where a larger one does not, so what was refused
    /// for want of room goes on for a while.
    fn written(&mut self, now: Instant) {
        let is_recent = self.refused_at.is_some_and(|at| now < at + SHORT_FOR);
        let for_want_of_room = self
            .failing
            .as_ref()
            .is_some_and(SpoolError::is_for_want_of_room);
        if !(for_want_of_room && is_recent) {
            self.failing = None;
        }
    }

    fn failed(&mut self, error: SpoolError) {
        if matches!(error, SpoolError::DiskFull(_)) {
            self.room.look_again();
        }
        self.failing = Some(error);
        self.telling.touch();
    }

    /// Makes room between groups.
    fn tend(&mut self, now: Instant) {
        let released = self.held.released();
        let before = self.database.commits();
        match self.room.tend(&mut self.database, released, now) {
            Ok(()) => {
                if self.database.commits() > before {
                    self.telling.touch();
                }
                // What was refused for want of room may come again.
                let may_come = match &self.failing {
                    Some(SpoolError::BelowFloor { .. }) => true,
                    // It is told for a while, even where there is room between any two writes.
                    Some(SpoolError::Full { .. }) => {
                        self.refused_at.is_none_or(|at| now >= at + SHORT_FOR)
                    }
                    Some(_) | None => false,
                };
                if may_come && self.room.has_room() {
                    self.failing = None;
                    self.telling.touch();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the spool could not make room");
                self.failed(error);
            }
        }
    }

    fn tell(&mut self, now: Instant) {
        // Asked in any case: it also notices that the shortage is over.
        let room = self.room.disk(now);
        let (disk, detail) = match self.failing.as_ref().or(self.repair.unread()) {
            Some(error) => (Disk::Failing, error.to_string()),
            None => room,
        };
        let epoch = self.database.epoch();
        if !self.telling.wants(now, epoch, disk, &detail) {
            return;
        }
        match health(&self.database, &self.room, self.refused, disk, detail) {
            Ok(health) => self.telling.tell(health, now),
            Err(error) => {
                tracing::warn!(%error, "the spool could not look at itself");
                self.telling.tell_failing(error.to_string(), now);
                self.repair.could_not_read(error);
            }
        }
    }

    fn serve_read(&mut self, request: Request) {
        let database = &mut self.database;
        match request {
            Request::Read {
                from,
                max_items,
                max_bytes,
                reply,
            } => {
                let read = database.read(from, max_items, max_bytes);
                self.answer_read(reply, read);
            }
            Request::Knows { source, reply } => {
                let known = database.knows(&source);
                self.answer_read(reply, known);
            }
            Request::Commands {
                limit,
                after,
                state,
                reply,
            } => {
                let commands = database.commands(limit, after, state);
                self.answer_read(reply, commands);
            }
            Request::Command { id, reply } => {
                let command = database.command(id);
                self.answer_read(reply, command);
            }
            Request::Commits { reply } => answer(reply, Ok(database.commits())),
            Request::State { reply } => {
                let state = database.state();
                self.answer_read(reply, state);
            }
            Request::Gaps { limit, reply } => {
                let gaps = database.gaps(limit);
                self.answer_read(reply, gaps);
            }
            // The others write; they are never passed here.
            Request::Write { .. }
            | Request::WriteAll { .. }
            | Request::StoreCommands { .. }
            | Request::GiveCommand { .. }
            | Request::RenewEpoch { .. }
            | Request::Release { .. }
            | Request::Status(_)
            | Request::Close { .. } => {}
        }
    }

    fn answer_read<T>(&mut self, reply: Reply<T>, value: Result<T>) {
        if let Err(error) = &value {
            tracing::warn!(%error, "the spool could not read");
            self.repair.could_not_read(error.clone());
            self.telling.touch();
        }
        answer(reply, value);
    }

    /// Writes what is still held back and folds the log into the database.
    fn shut(&mut self, now: Instant) -> Result<()> {
        if self.database.misplaced().is_some() {
            return self.repair.give_back(&self.database);
        }
        let held = &self.held;
        if held.due().is_some() {
            self.database
                .transaction(|transaction| held.write(transaction, now, true))?;
        }
        self.database.checkpoint()
    }
}

fn health(
    database: &Database,
    room: &Room,
    refused: u64,
    disk: Disk,
    detail: String,
) -> Result<Health> {
    let usage = database.usage()?;
    Ok(Health {
        epoch: database.epoch(),
        disk,
        detail,
        bytes: usage.used + usage.log,
        budget: room.limits().budget(),
        thinned: room.thinned,
        shed: room.shed,
        refused,
        oldest: database.oldest()?,
    })
}

/// Waits for a request, or until something is due, and takes those that wait by then, up to a
/// number and a size. Says whether there can be more.
fn take_group(
    waiting: &Receiver<Ticketed>,
    due: Option<Instant>,
    max_bytes: u64,
    group: &mut Vec<Request>,
) -> bool {
    let first = match due {
        Some(due) => waiting.recv_timeout(due.saturating_duration_since(Instant::now())),
        None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
    };
    let mut bytes: u64 = 0;
    let mut take = |ticketed: Ticketed| {
        bytes = bytes.saturating_add(ticketed.request.footprint());
        group.push(ticketed.request);
        bytes < max_bytes && group.len() < REQUESTS_MAX
    };
    let mut has_place = match first {
        Ok(ticketed) => take(ticketed),
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
    };
    while has_place {
        match waiting.try_recv() {
            Ok(ticketed) => has_place = take(ticketed),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
    true
}

/// Says what became of a request once its transaction is on the disk, or why it is not.
type Answer = Box<dyn FnOnce(Result<()>)>;

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
        Request::GiveCommand { command, reply } => {
            let done = going.then(|| transaction.give_command(&command));
            later(done, reply)
        }
        Request::RenewEpoch { epoch, reply } => {
            let done = going.then(|| transaction.renew_epoch(epoch));
            later(done, reply)
        }
        // The others do not write; they are never passed here.
        Request::Read { .. }
        | Request::Knows { .. }
        | Request::Commands { .. }
        | Request::Command { .. }
        | Request::Commits { .. }
        | Request::State { .. }
        | Request::Gaps { .. }
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
