//! A ledger and a naive model of one do the same random things.

use super::*;

/// What may be done to one robot's ledger, for the comparison with [`Model`].
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Submit {
        key: Option<u8>,
        order: Order,
        lifetime: u8,
        offered: bool,
    },
    Offer {
        from: u64,
        limit: usize,
    },
    MarkSent {
        from: u64,
        to: u64,
    },
    Deliver {
        next: u64,
        in_epoch: bool,
    },
    Renew,
    Cancel {
        id: u8,
        offered: bool,
    },
    Expire {
        now: u8,
    },
    Apply {
        said: Vec<Said>,
    },
}

/// What a robot may say.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Ordered { id: u8, key: Option<u8> },
    Step { id: u8, progress: Progress },
    Progressed { id: u8, percent: u8 },
}

/// Commands of the board have ids from here on.
const BOARD: u8 = 100;
/// Cancellations have ids from here on.
const CANCELS: u64 = 200;

pub(crate) fn actions() -> impl Strategy<Value = Vec<Action>> {
    let key = || prop::option::of(0..3_u8);
    let order = prop::sample::select(vec![Order::Stop, Order::Pause, Order::Dock]);
    let action = prop_oneof![
        5 => (key(), order, 0..9_u8, any::<bool>()).prop_map(|(key, order, lifetime, offered)| {
            Action::Submit { key, order, lifetime, offered }
        }),
        3 => (0..8_u64, 0..4_usize).prop_map(|(from, limit)| Action::Offer { from, limit }),
        1 => (0..8_u64, 0..8_u64).prop_map(|(from, to)| Action::MarkSent { from, to }),
        2 => (0..8_u64, prop::bool::weighted(0.8))
            .prop_map(|(next, in_epoch)| Action::Deliver { next, in_epoch }),
        1 => Just(Action::Renew),
        3 => (id(), any::<bool>()).prop_map(|(id, offered)| Action::Cancel { id, offered }),
        2 => (0..9_u8).prop_map(|now| Action::Expire { now }),
        4 => prop::collection::vec(said(), 0..4).prop_map(|said| Action::Apply { said }),
    ];
    prop::collection::vec(action, 0..40)
}

/// Of a command that may be there: the relay's, or the board's.
fn id() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0..12_u8, 1 => BOARD..BOARD + 3]
}

fn said() -> impl Strategy<Value = Said> {
    let progress = prop::sample::select(vec![
        Progress::Received,
        Progress::Running,
        Progress::Succeeded,
        Progress::Failed,
        Progress::Cancelled,
        Progress::Expired,
        Progress::Superseded,
        Progress::Interrupted,
    ]);
    prop_oneof![
        1 => (BOARD..BOARD + 3, prop::option::of(0..3_u8))
            .prop_map(|(id, key)| Said::Ordered { id, key }),
        3 => (id(), progress).prop_map(|(id, progress)| Said::Step { id, progress }),
        1 => (id(), any::<u8>()).prop_map(|(id, percent)| Said::Progressed { id, percent }),
    ]
}

/// A ledger as one would write it down without thinking of storage.
#[derive(Debug, Default)]
struct Model {
    commands: BTreeMap<u128, Known>,
    epoch: u64,
    acked: u64,
    next: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    /// Epoch and position; none of a command of the board.
    place: Option<(u64, u64)>,
    order: Order,
    deadline: u8,
    key: Option<u8>,
    offered: bool,
    percent: Option<u8>,
    history: Vec<CommandState>,
}

impl Known {
    fn state(&self) -> CommandState {
        *self.history.last().unwrap()
    }
}

impl Model {
    fn has_key(&self, key: Option<u8>) -> Option<(u128, &Known)> {
        let mut commands = self.commands.iter();
        let known = commands.find(|(_, known)| key.is_some() && known.key == key);
        known.map(|(id, known)| (*id, known))
    }

    fn is_cancelling(&self, id: u128) -> bool {
        let order = Order::Cancel(CommandId(id));
        let mut commands = self.commands.values();
        !self.commands[&id].state().is_final()
            && commands.any(|known| known.order == order && !known.state().is_final())
    }

    fn enter(&mut self, id: u128, order: Order, key: Option<u8>, deadline: u8, offered: bool) {
        let ends = if order == Order::Stop {
            Some(CommandState::Cancelled)
        } else {
            Some(CommandState::Superseded).filter(|_| order == Order::Dock)
        };
        for known in self.commands.values_mut() {
            if let Some(end) = ends
                && known.order == Order::Dock
                && !known.offered
                && !known.state().is_final()
            {
                known.history.push(end);
            }
        }
        let known = Known {
            place: Some((self.epoch, self.next)),
            order,
            deadline,
            key,
            offered,
            percent: None,
            history: vec![CommandState::Queued],
        };
        self.commands.insert(id, known);
        self.next += 1;
    }

    fn in_stream(&mut self, from: u64) -> Vec<(u128, &mut Known)> {
        let epoch = self.epoch;
        let commands = self.commands.iter_mut();
        let mut commands: Vec<_> = commands
            .filter(|(_, known)| known.place.is_some_and(|at| at.0 == epoch && at.1 >= from))
            .map(|(id, known)| (*id, known))
            .collect();
        commands.sort_by_key(|(_, known)| known.place);
        commands
    }
}

/// Does the actions to a robot's ledger and to the model and compares them after each.
pub(crate) async fn agrees_with_the_model(catalog: &dyn Catalog, actions: Vec<Action>) {
    let robot = enter(catalog, "modelled").await;
    let epoch = catalog.down_stream(robot).await.unwrap().epoch.0;
    let mut model = Model {
        epoch,
        acked: 1,
        next: 1,
        ..Model::default()
    };
    for (number, action) in (0..).zip(actions) {
        step(catalog, robot, &mut model, number, action).await;
        compare(catalog, robot, &model).await;
    }
    leave(catalog, &[robot]).await;
}

async fn compare(catalog: &dyn Catalog, robot: RobotId, model: &Model) {
    let stream = catalog.down_stream(robot).await.unwrap();
    assert_eq!(
        (stream.epoch.0, stream.acked.0, stream.next.0),
        (model.epoch, model.acked, model.next)
    );
    let stored = catalog.recent_commands(robot, 100).await.unwrap();
    assert_eq!(stored.len(), model.commands.len());
    for entry in stored {
        let id = entry.command.id.0;
        let known = &model.commands[&id];
        assert_eq!(entry.seq.map(|seq| seq.0), known.place.map(|at| at.1));
        assert_eq!(
            (entry.state, entry.offered),
            (known.state(), known.offered),
            "{id}"
        );
        assert_eq!(entry.cancelling, model.is_cancelling(id), "{id}");
        assert_eq!(
            entry.progress.map(|progress| progress.percent),
            known.percent
        );
        let key = known.key.map(|key| key.to_string());
        assert_eq!(entry.command.idempotency_key, key);
        let (_, history) = catalog.command(CommandId(id)).await.unwrap();
        let history: Vec<_> = history.iter().map(|step| step.state).collect();
        assert_eq!(history, known.history, "{id}");
    }
}

async fn step(
    catalog: &dyn Catalog,
    robot: RobotId,
    model: &mut Model,
    number: u64,
    action: Action,
) {
    match action {
        Action::Submit {
            key,
            order,
            lifetime,
            offered,
        } => {
            let new = NewCommand {
                idempotency_key: key.map(|key| key.to_string()),
                order: order.clone(),
                deadline: at(lifetime.into()),
                ..command(robot, number.into())
            };
            submit_both(catalog, model, new, (key, lifetime), offered).await;
        }
        Action::Offer { from, limit } => {
            let due = catalog.offer(robot, Seq(from), limit).await.unwrap();
            let mut expected = Vec::new();
            for (id, known) in model.in_stream(from).into_iter().take(limit) {
                known.offered |= !known.state().is_final();
                expected.push((id, known.offered));
            }
            let due: Vec<_> = due
                .iter()
                .map(|entry| (entry.command.id.0, entry.offered))
                .collect();
            assert_eq!(due, expected);
        }
        Action::MarkSent { from, to } => {
            let marked = catalog.mark_sent(robot, Epoch(model.epoch), Seq(from), Seq(to), at(1));
            marked.await.unwrap();
            for (_, known) in model.in_stream(from) {
                let is_before = known.place.is_some_and(|at| at.1 < to);
                if is_before && known.state() == CommandState::Queued {
                    known.history.push(CommandState::Sent);
                    known.offered = true;
                }
            }
        }
        Action::Deliver { next, in_epoch } => {
            let cursor = Cursor {
                epoch: Epoch(if in_epoch { model.epoch } else { !model.epoch }),
                next: Seq(next),
            };
            catalog.mark_delivered(robot, cursor).await.unwrap();
            if in_epoch && next > model.acked && next <= model.next {
                model.acked = next;
            }
        }
        Action::Renew => renew_both(catalog, robot, model).await,
        Action::Cancel { id, offered } => {
            let cancel = command(robot, u128::from(CANCELS + number));
            cancel_both(catalog, model, u128::from(id), cancel, offered).await;
        }
        Action::Expire { now } => {
            let expired = catalog.expire(at(now.into()), 100).await.unwrap();
            let mut expected = Vec::new();
            for (id, known) in &mut model.commands {
                let is_queued = known.state() == CommandState::Queued;
                if is_queued && !known.offered && known.deadline <= now {
                    known.history.push(CommandState::Expired);
                    expected.push(*id);
                }
            }
            let mut expired = ids(&expired);
            expired.sort_unstable();
            assert_eq!(expired, expected);
        }
        Action::Apply { said } => apply_both(catalog, robot, model, number, said).await,
    }
}

async fn submit_both(
    catalog: &dyn Catalog,
    model: &mut Model,
    new: NewCommand,
    (key, lifetime): (Option<u8>, u8),
    offered: bool,
) {
    let (id, order) = (new.id.0, new.order.clone());
    let done = catalog.submit(new, offered).await;
    match model.has_key(key) {
        Some((earlier, known)) if known.order == order => {
            assert_eq!(done.unwrap().command.id.0, earlier);
        }
        Some(_) => assert!(matches!(done, Err(CatalogError::Conflict(_))), "{done:?}"),
        None => {
            done.unwrap();
            model.enter(id, order, key, lifetime, offered);
        }
    }
}

async fn renew_both(catalog: &dyn Catalog, robot: RobotId, model: &mut Model) {
    let fresh = model.epoch.wrapping_add(1);
    let renewed = catalog.renew_down_stream(robot, Epoch(fresh));
    renewed.await.unwrap();
    let mut next = 1;
    for (_, known) in model.in_stream(model.acked) {
        if matches!(known.state(), CommandState::Queued | CommandState::Sent) {
            known.place = Some((fresh, next));
            next += 1;
        }
    }
    (model.epoch, model.acked, model.next) = (fresh, 1, next);
}

async fn cancel_both(
    catalog: &dyn Catalog,
    model: &mut Model,
    id: u128,
    cancel: NewCommand,
    offered: bool,
) {
    let cancel_id = cancel.id;
    let done = catalog.cancel(CommandId(id), cancel, offered).await;
    let Some(known) = model.commands.get(&id) else {
        assert!(matches!(done, Err(CatalogError::Missing(_))), "{done:?}");
        return;
    };
    let done = done.unwrap();
    if known.state().is_final() {
        assert!(matches!(done, Cancellation::Over(_)), "{done:?}");
    } else if !known.offered {
        assert!(matches!(done, Cancellation::Ended(_)), "{done:?}");
        let known = model.commands.get_mut(&id).unwrap();
        known.history.push(CommandState::Cancelled);
    } else if model.is_cancelling(id) {
        assert!(matches!(done, Cancellation::UnderWay(_)), "{done:?}");
    } else {
        assert!(
            matches!(done, Cancellation::Entered(_, by) if by == cancel_id),
            "{done:?}"
        );
        let order = Order::Cancel(CommandId(id));
        // Its deadline is that of `command`, which no action here reaches.
        model.enter(cancel_id.0, order, None, u8::MAX, offered);
    }
}

async fn apply_both(
    catalog: &dyn Catalog,
    robot: RobotId,
    model: &mut Model,
    number: u64,
    said: Vec<Said>,
) {
    let mut expected = Vec::new();
    for said in &said {
        expected.extend(hear(model, said));
    }
    let updates = said.into_iter().map(|said| {
        let update = match said {
            Said::Ordered { id, key } => ordered(NewCommand {
                idempotency_key: key.map(|key| key.to_string()),
                ..command(robot, id.into())
            }),
            Said::Step { id, progress } => update(id.into(), progress),
            Said::Progressed { id, percent } => progressed(id.into(), percent),
        };
        (update, at(2))
    });
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(number),
    };
    let changed = catalog.apply(robot, cursor, updates.collect()).await;
    let changed: Vec<_> = changed
        .unwrap()
        .iter()
        .map(|(change, entry)| (*change, entry.command.id.0, entry.state))
        .collect();
    assert_eq!(changed, expected);
}

fn hear(model: &mut Model, said: &Said) -> Option<(Change, u128, CommandState)> {
    match *said {
        Said::Ordered { id, key } => {
            let id = u128::from(id);
            if model.commands.contains_key(&id) {
                return None;
            }
            let known = Known {
                place: None,
                order: Order::Stop,
                deadline: u8::MAX,
                key: key.filter(|_| model.has_key(key).is_none()),
                offered: true,
                percent: None,
                history: vec![CommandState::Queued],
            };
            model.commands.insert(id, known);
            Some((Change::Entered, id, CommandState::Queued))
        }
        Said::Step { id, progress } => {
            let known = model.commands.get_mut(&u128::from(id))?;
            let state = CommandState::from(progress);
            if !follows(known.state(), state) {
                return None;
            }
            known.history.push(state);
            known.offered = true;
            Some((Change::Step, id.into(), state))
        }
        Said::Progressed { id, percent } => {
            let known = model.commands.get_mut(&u128::from(id))?;
            if known.state().is_final() {
                return None;
            }
            known.percent = Some(percent.min(100));
            Some((Change::Progress, id.into(), known.state()))
        }
    }
}

/// The transitions that are allowed, written out.
fn follows(from: CommandState, to: CommandState) -> bool {
    use CommandState::{
        Cancelled, Expired, Failed, Interrupted, Queued, Received, Running, Sent, Succeeded,
        Superseded,
    };
    match from {
        Queued => to != Queued,
        Sent => !matches!(to, Queued | Sent),
        Received => !matches!(to, Queued | Sent | Received),
        Running => !matches!(to, Queued | Sent | Received | Running),
        Succeeded | Failed | Cancelled | Expired | Superseded | Interrupted => false,
    }
}
