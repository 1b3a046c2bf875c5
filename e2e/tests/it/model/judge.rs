//! Watches what is stored on either side and what the robot is told, and says where a promise is
//! broken. It knows true time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brrbrr_gateway::spool::{HandOver, StoredCommand};
use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Progress, Record};
use brrbrr_relay::catalog::{CommandState, LedgerEntry};

use super::disk::Disk;

/// How late a command may be by what the link documents: a second of hidden delay, and a second by
/// which the two clocks come apart within a session.
const HIDDEN: Duration = Duration::from_secs(2);
/// How much of its lifetime a command may be late because the board's clock is slow: 100 in a million.
const DRIFT: u32 = 10_000;

/// What is known of a command.
struct Life {
    order: Order,
    lifetime: Duration,
    accepted: Uptime,
    /// How often the relay had been started then.
    relay_starts: u32,
    /// By how much the relay's calendar was back when its remaining time was computed.
    set_back: Duration,
    /// Where it stands on the board, once it is stored there, and since which boot.
    on_board: Option<(Progress, BootId)>,
    /// What the board has written for the relay.
    told: Vec<Progress>,
    in_ledger: Option<CommandState>,
    /// The relay has ended it, and no board may see it.
    is_withdrawn: bool,
    /// How often the robot got it.
    given: u32,
    /// Passed on to the robot before the board could store it.
    is_unrecorded: bool,
    /// How often the daemon has stopped since, and could not know.
    forgotten: u32,
}

#[derive(Default)]
pub struct Judge {
    lives: BTreeMap<CommandId, Life>,
    /// What the robot got from programs before the board could store it.
    early: BTreeSet<CommandId>,
    /// How often the relay was started.
    relay_starts: u32,
    /// What was cancelled over the relay, and by which command.
    cancels: Vec<(CommandId, CommandId)>,
}

impl Judge {
    pub fn commands(&self) -> Vec<CommandId> {
        self.lives.keys().copied().collect()
    }

    pub fn is_in_ledger(&self, id: CommandId) -> bool {
        let life = self.lives.get(&id);
        life.is_some_and(|life| life.in_ledger.is_some())
    }

    pub fn cancelled(&mut self, target: CommandId, cancel: CommandId) {
        self.cancels.push((target, cancel));
    }

    /// A caller was told that it will be done.
    pub fn accepted(&mut self, id: CommandId, order: &Order, lifetime: Duration, now: Uptime) {
        let life = Life {
            order: order.clone(),
            lifetime,
            accepted: now,
            relay_starts: self.relay_starts,
            set_back: Duration::ZERO,
            on_board: None,
            told: Vec::new(),
            in_ledger: None,
            is_withdrawn: false,
            given: u32::from(self.early.contains(&id)),
            is_unrecorded: false,
            forgotten: 0,
        };
        assert!(self.lives.insert(id, life).is_none(), "{id} accepted twice");
    }

    /// How long ago it was accepted.
    pub fn age(&mut self, id: CommandId, now: Uptime) -> Duration {
        now.since(self.life(id).accepted)
    }

    pub const fn relay_started(&mut self) {
        self.relay_starts += 1;
    }

    /// The relay sends it with this much time, while its calendar shows that it is this much younger
    /// than it is. Only a relay that was started meanwhile may believe that.
    pub fn sent(&mut self, command: &Command, set_back: Duration, now: Uptime) {
        if command.time_to_live.is_zero() {
            return;
        }
        let (id, starts) = (command.id, self.relay_starts);
        let life = self.life(id);
        let whole = now.since(life.accepted) + command.time_to_live;
        let longer = whole.saturating_sub(life.lifetime);
        assert!(longer <= set_back, "{id} is sent with {longer:?} too much");
        let may_be = longer.is_zero() || life.relay_starts < starts;
        assert!(may_be, "{id} gets {longer:?} back from the calendar");
        life.set_back = life.set_back.max(longer);
    }

    /// The board has stored it.
    pub fn stored(&mut self, row: &StoredCommand, now: Uptime) {
        let id = row.command.id;
        if !self.lives.contains_key(&id) {
            let lifetime = row.command.time_to_live;
            self.accepted(id, &row.command.order, lifetime, now);
        }
        let life = self.life(id);
        assert!(
            !life.is_withdrawn,
            "{id} is on the board after it was withdrawn"
        );
        assert!(life.on_board.is_none(), "{id} is stored twice");
        life.on_board = Some((row.progress, row.boot));
        life.is_unrecorded = false;
    }

    /// The board has written a record for the relay.
    pub fn told(&mut self, record: &Record) {
        if let Event::Command(update) = &record.event {
            let id = update.command;
            let life = self.life(id);
            let last = life.told.last().copied();
            assert!(
                last.is_none_or(|last| last < update.progress && !last.is_final()),
                "{id} went from {last:?} to {:?}",
                update.progress
            );
            life.told.push(update.progress);
        }
    }

    /// The board's rows after a transaction.
    pub fn rows_changed(&mut self, disk: &Disk) {
        let mut running = Vec::new();
        for row in disk.rows() {
            let (id, progress) = (row.command.id, row.progress);
            let life = self.life(id);
            let Some((before, boot)) = life.on_board else {
                panic!("{id} was never stored");
            };
            let is_same = before == progress;
            assert!(
                is_same || !before.is_final(),
                "{id} ended as {before:?}, now {progress:?}"
            );
            life.on_board = Some((progress, boot));
            if row.command.order.is_motion() && progress == Progress::Running {
                running.push(id);
            }
        }
        assert!(running.len() <= 1, "motions run on the board: {running:?}");
    }

    /// The daemon has an order ready for the robot's broker.
    pub fn handed(&mut self, id: CommandId, disk: &Disk) {
        let row = disk.row(id);
        let is_offered = row.is_some_and(|row| row.hand_over != HandOver::NotYet);
        if is_offered {
            return;
        }
        let order = row.map(|row| &row.command.order);
        let order = order.or_else(|| self.lives.get(&id).map(|life| &life.order));
        // One that a program gave may be known to nobody else.
        let halts = order.is_none_or(|order| matches!(order, Order::Stop | Order::Cancel(_)));
        assert!(halts, "{id} is handed over before that is stored");
        if let Some(life) = self.lives.get_mut(&id) {
            life.is_unrecorded = true;
        }
    }

    /// The daemon forgets what it could not store.
    pub fn daemon_crashed(&mut self, disk: &Disk) {
        for (id, life) in &mut self.lives {
            let row = disk.row(*id);
            let is_offered = row.is_some_and(|row| row.hand_over != HandOver::NotYet);
            life.forgotten += u32::from(life.is_unrecorded && !is_offered);
        }
    }

    /// The robot has got an order.
    pub fn given(&mut self, id: CommandId, order: &Order, boot: BootId, now: Uptime) {
        let Some(life) = self.lives.get_mut(&id) else {
            assert_eq!(*order, Order::Stop, "{id} was never accepted");
            assert!(self.early.insert(id), "{id} is given again");
            return;
        };
        life.given += 1;
        assert!(life.given <= 1 + life.forgotten, "{id} is given again");
        let is_cancellation = matches!(life.order, Order::Cancel(_));
        let meant = match is_cancellation {
            true => &Order::Stop,
            false => &life.order,
        };
        assert_eq!(order, meant, "{id} is another order");
        assert!(!life.is_withdrawn, "{id} is given after it was withdrawn");
        let of = life.on_board.map(|(_, boot)| boot);
        assert!(of.is_none_or(|of| of == boot), "{id} is of an earlier boot");
        let tolerance = HIDDEN + life.lifetime / DRIFT + life.set_back;
        let latest = life.accepted.plus(life.lifetime + tolerance);
        assert!(
            now <= latest,
            "{id} is given {:?} after its deadline",
            now.since(life.accepted.plus(life.lifetime))
        );
    }

    /// The ledger shows a command.
    pub fn ledger_says(&mut self, entry: &LedgerEntry) {
        let (id, state) = (entry.command.id, entry.state);
        let life = self.life(id);
        assert_eq!(life.order, entry.command.order, "{id} is another order");
        let before = life.in_ledger.replace(state);
        if before != Some(state) {
            assert!(
                before.is_none_or(|before| before.may_become(state)),
                "{id} went from {before:?} to {state:?} in the ledger"
            );
        }
        if state.is_final() && !entry.offered {
            assert!(
                life.on_board.is_none(),
                "{id} was ended by the relay, and is on the board"
            );
            assert_eq!(
                life.given, 0,
                "{id} was ended by the relay, and the robot has it"
            );
            life.is_withdrawn = true;
        } else if !matches!(state, CommandState::Queued | CommandState::Sent) {
            let mut told = life.told.iter().copied().map(CommandState::from);
            assert!(
                told.any(|told| told == state),
                "the board never said that {id} is {state:?}"
            );
        }
        let running = self
            .lives
            .values()
            .filter(|life| life.order.is_motion() && life.in_ledger == Some(CommandState::Running));
        assert!(
            running.count() <= 1,
            "motions run in the ledger, {id} among them"
        );
    }

    /// In the end everything has ended, the same at both sides.
    pub fn check_end(&self, disk: &Disk) {
        for (id, life) in &self.lives {
            let state = life.in_ledger.expect("it is in the ledger");
            assert!(
                state.is_final(),
                "{id} is {state:?} for ever: {:?}",
                life.order
            );
            if life.is_withdrawn {
                continue;
            }
            let row = disk.row(*id).map(|row| CommandState::from(row.progress));
            assert_eq!(row, Some(state), "{id} ended in two ways");
            let said = life.told.last().copied().map(CommandState::from);
            assert_eq!(said, Some(state), "{id} ended in two ways");
            if let (Order::Cancel(target), CommandState::Succeeded) = (&life.order, state) {
                let target = self.lives.get(target).and_then(|life| life.in_ledger);
                assert_eq!(
                    target,
                    Some(CommandState::Cancelled),
                    "{id} cancelled nothing"
                );
            }
        }
        for (target, cancel) in &self.cancels {
            let states = [target, cancel].map(|id| self.lives.get(id)?.in_ledger);
            let are_final = states.map(|state| state.is_some_and(CommandState::is_final));
            assert_eq!(are_final, [true, true], "{cancel} of {target} is open");
        }
    }

    pub fn has_ended(&self) -> bool {
        let mut lives = self.lives.values();
        lives.all(|life| life.in_ledger.is_some_and(CommandState::is_final))
    }

    /// Compares what the ledger says in the end with what it said step by step.
    pub fn check_ledger(&self, all: &[(LedgerEntry, Vec<brrbrr_relay::catalog::Transition>)]) {
        assert_eq!(all.len(), self.lives.len(), "commands in the ledger");
        for (entry, history) in all {
            let id = entry.command.id;
            let life = self.lives.get(&id).expect("a known command");
            assert_eq!(life.in_ledger, Some(entry.state), "{id} changed silently");
            let mut states = history.iter().map(|step| step.state);
            let finals = states.by_ref().filter(|state| state.is_final()).count();
            assert_eq!(finals, 1, "{id} ended {finals} times");
            assert!(
                history
                    .windows(2)
                    .all(|two| two[0].state.may_become(two[1].state))
            );
        }
    }

    fn life(&mut self, id: CommandId) -> &mut Life {
        let life = self.lives.get_mut(&id);
        life.unwrap_or_else(|| panic!("{id} was never accepted"))
    }
}
