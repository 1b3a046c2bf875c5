//! The relay's workers: they store what came up, apply it to the ledger, and load commands. What they
//! do is what `session::worker` and `projection` of the relay do.

use std::time::Duration;

use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::{Cursor, Epoch, RobotId, Seq, SessionId};
use brrbrr_proto::link::COMMANDS_PER_FRAME;
use brrbrr_proto::link::relay::{Store, bytes_of};
use brrbrr_proto::up::{Event, Item, Record};
use brrbrr_relay::catalog::{LedgerEntry, LedgerUpdate, NewCommand};
use jiff::{SignedDuration, Timestamp};

use super::relay::Done;
use super::world::World;

pub enum UpJob {
    Recall(SessionId),
    Store(Store),
    /// It is in the journal, and not yet applied.
    Apply(SessionId, usize),
}

pub enum DownJob {
    Load(SessionId, Seq),
    Sent(Epoch, Seq, Seq),
    Delivered(Cursor),
}

/// What is stored of the up stream.
#[derive(Default)]
pub struct Journal {
    items: Vec<(Seq, Item)>,
}

impl Journal {
    pub fn due(&self) -> Seq {
        let last = self.items.last();
        last.map_or(Seq::FIRST, |(at, item)| at.plus(item.covers))
    }

    /// Skips what is known. Says whether there is no hole.
    pub fn store(&mut self, first: Seq, items: Vec<Item>) -> bool {
        let mut at = first;
        for item in items {
            if at > self.due() {
                return false;
            }
            let end = at.plus(item.covers);
            if at == self.due() {
                self.items.push((at, item));
            }
            at = end;
        }
        true
    }
}

impl World {
    /// The next job of the up stream. Says whether there was one.
    pub fn work_up(&mut self) -> bool {
        let Some(process) = self.relay.process.as_mut() else {
            return false;
        };
        let Some(job) = process.up_jobs.pop_front() else {
            return false;
        };
        let is_away = !self.is_healed && self.random.one_in(20);
        let answer = match job {
            // The robot hears nothing and says hello again.
            UpJob::Recall(_) if is_away => None,
            UpJob::Recall(session) => {
                self.catch_up();
                let position = self.relay.ledger.position();
                Some(Done::Recalled(session, self.relay.journal.due(), position))
            }
            UpJob::Store(store) => {
                let (session, bytes) = (store.session, bytes_of(&store.items));
                if is_away || !self.relay.journal.store(store.first, store.items) {
                    Some(Done::StoreFailed(session, bytes))
                } else {
                    process.up_jobs.push_front(UpJob::Apply(session, bytes));
                    None
                }
            }
            UpJob::Apply(session, bytes) if is_away => Some(Done::StoreFailed(session, bytes)),
            UpJob::Apply(session, bytes) => {
                self.catch_up();
                Some(Done::Stored(session, self.relay.journal.due(), bytes))
            }
        };
        if let Some(process) = self.relay.process.as_mut() {
            process.answers.extend(answer);
        }
        true
    }

    /// Applies to the ledger what the journal has and the ledger has not seen.
    fn catch_up(&mut self) {
        let epoch = self.board.disk.epoch;
        let from = self.relay.ledger.applied(epoch);
        let at = self.relay.wall(self.now);
        let robot = self.relay.ledger.robot;
        let items = self.relay.journal.items.iter();
        let fresh = items.filter(|(seq, _)| *seq >= from);
        let records = fresh.map(|(_, item)| Record::decode(&item.record).expect("decodes"));
        let updates: Vec<_> = records
            .filter_map(|record| update_of(record.event, robot, at))
            .map(|update| (update, at))
            .collect();
        if updates.is_empty() {
            return;
        }
        let next = self.relay.journal.due();
        let changed = self.relay.ledger.apply(Cursor { epoch, next }, updates);
        for (change, entry) in changed {
            self.note(|| {
                format!(
                    "ledger: {change:?} {:?} {:?}",
                    entry.command.id, entry.state
                )
            });
            self.judge.ledger_says(&entry);
        }
    }

    /// The next job of the down stream. Says whether there was one.
    pub fn work_down(&mut self) -> bool {
        let now = self.relay_now();
        let Some(process) = self.relay.process.as_mut() else {
            return false;
        };
        let Some(job) = process.down_jobs.pop_front() else {
            return false;
        };
        match job {
            DownJob::Load(session, _) if !self.is_healed && self.random.one_in(20) => {
                process.answers.push_back(Done::LoadFailed(session));
            }
            DownJob::Load(session, from) => {
                let entries = self.relay.ledger.offer(from, COMMANDS_PER_FRAME);
                let calendar = self.relay.calendar(self.now);
                let mut commands = Vec::new();
                for entry in entries {
                    self.judge.ledger_says(&entry);
                    let right = self.judge.age(entry.command.id, self.now);
                    let right = SignedDuration::try_from(right).expect("short");
                    let shown = calendar.duration_since(entry.command.submitted);
                    let set_back = Duration::try_from(right - shown).unwrap_or_default();
                    let command = to_send(entry, calendar);
                    self.judge.sent(&command, set_back, self.now);
                    commands.push(command);
                }
                let loaded = Done::Loaded(session, from, commands, now);
                let process = self.relay.process.as_mut().expect("it runs");
                process.answers.push_back(loaded);
            }
            DownJob::Sent(epoch, from, to) => {
                let from = process
                    .unmarked
                    .map_or(from, |(_, first, _)| first.min(from));
                process.unmarked = Some((epoch, from, to));
            }
            DownJob::Delivered(cursor) => {
                process.unmarked = process.unmarked.filter(|(_, _, to)| *to > cursor.next);
                self.relay.ledger.mark_delivered(cursor);
            }
        }
        true
    }
}

/// What a record means for the ledger, as in the relay's projection.
fn update_of(event: Event, robot: RobotId, at: Timestamp) -> Option<LedgerUpdate> {
    match event {
        Event::Command(update) => Some(LedgerUpdate::Step(update)),
        Event::Progressed(progressed) => Some(LedgerUpdate::Progressed(progressed)),
        Event::Ordered(ordered) => {
            let lifetime = SignedDuration::try_from(ordered.time_to_live).expect("short");
            Some(LedgerUpdate::Ordered(NewCommand {
                id: ordered.command,
                robot,
                order: ordered.order,
                deadline: at.saturating_add(lifetime).expect("a date"),
                actor: ordered.actor,
                idempotency_key: ordered.key,
                submitted: at,
            }))
        }
        Event::Changed(_)
        | Event::Arrived(_)
        | Event::Alarm(_)
        | Event::Telemetry(_)
        | Event::Custom(_)
        | Event::Tombstone(_)
        | Event::Thinned(_) => None,
    }
}

/// How a command is sent, as in the relay's `session::worker`.
fn to_send(entry: LedgerEntry, now: Timestamp) -> Command {
    let is_withdrawn = entry.is_withdrawn();
    let command = entry.command;
    let is_over = entry.state.is_final() || entry.outdone || now < command.submitted;
    let left = command.deadline.duration_since(now);
    Command {
        id: command.id,
        time_to_live: match is_over {
            true => Duration::ZERO,
            false => Duration::try_from(left).unwrap_or_default(),
        },
        order: match is_withdrawn {
            true => Order::Withdrawn,
            false => command.order,
        },
    }
}
