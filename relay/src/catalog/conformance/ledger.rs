//! What every ledger must do.

use super::*;

/// Runs every case, each with robots of its own.
pub(super) async fn conforms(catalog: &dyn Catalog) {
    commands_are_numbered_and_kept(catalog).await;
    super::stream::conforms(catalog).await;
    commands_are_listed_by_page_and_by_state(catalog).await;
    an_idempotency_key_is_accepted_once(catalog).await;
    a_key_with_another_order_is_a_conflict(catalog).await;
    unfinished_commands_are_bounded_but_a_stop_finds_room(catalog).await;
    a_command_that_was_never_offered_is_cancelled_at_once(catalog).await;
    one_cancellation_of_an_offered_command_is_under_way_at_a_time(catalog).await;
    only_what_was_never_offered_expires_here(catalog).await;
    updates_move_commands_forward_only(catalog).await;
    the_newest_progress_is_kept_until_the_end(catalog).await;
    a_command_of_the_board_is_entered_once_and_has_no_position(catalog).await;
    the_applied_position_never_goes_back(catalog).await;
    a_removed_robot_takes_its_ledger_along(catalog).await;
}

/// Fifty callers at once get positions without holes, and the same key gets one command.
pub(crate) async fn submits_concurrently(catalog: std::sync::Arc<dyn Catalog>) {
    const CALLERS: u64 = 50;
    let robot = enter(&*catalog, "concurrent").await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let catalog = std::sync::Arc::clone(&catalog);
        callers.spawn(async move {
            let mut own = command(robot, 1_000 + u128::from(caller));
            own.idempotency_key = Some(format!("own {caller}"));
            let mut shared = command(robot, 2_000 + u128::from(caller));
            shared.idempotency_key = Some("shared".to_owned());
            let own = catalog.submit(own, caller % 2 == 0).await.unwrap();
            (
                own.seq,
                catalog.submit(shared, true).await.unwrap().command.id,
            )
        });
    }
    let mut shared = Vec::new();
    let mut seqs = Vec::new();
    while let Some(done) = callers.join_next().await {
        let (seq, id) = done.unwrap();
        seqs.push(seq);
        shared.push(id);
    }
    shared.dedup();
    assert_eq!(shared.len(), 1, "one command for one key");
    let entries = catalog.offer(robot, Seq::FIRST, 1_000).await.unwrap();
    assert_eq!(super::seqs(&entries), (1..=CALLERS + 1).collect::<Vec<_>>());
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 50);
}

async fn commands_are_numbered_and_kept(catalog: &dyn Catalog) {
    let robot = enter(catalog, "numbered").await;
    let other = enter(catalog, "other").await;
    let orders = [
        Order::GoTo(GoTo {
            pose: Pose {
                x: 34.6,
                y: 445.6,
                theta: None,
            },
            floor: Some(7),
            place: "701호".to_owned(),
        }),
        Order::Stop,
        Order::Say("안녕".to_owned()),
        Order::Cancel(CommandId(1)),
    ];
    for (number, order) in orders.into_iter().enumerate() {
        let id = 100 + u128::try_from(number).unwrap();
        let new = NewCommand {
            order,
            ..command(robot, id)
        };
        let entry = catalog.submit(new.clone(), true).await.unwrap();
        assert_eq!(entry.command, new);
        let seq = Seq::FIRST.plus(u64::try_from(number).unwrap());
        assert_eq!(entry.seq, Some(seq));
        assert_eq!(
            (entry.state, entry.detail.as_str()),
            (CommandState::Queued, "")
        );
        let (stored, steps) = catalog.command(new.id).await.unwrap();
        assert_eq!(stored, entry);
        let queued = Transition {
            state: CommandState::Queued,
            at: new.submitted,
            detail: String::new(),
        };
        assert_eq!(steps, [queued]);
    }
    assert_eq!(
        catalog.submit(command(other, 200), true).await.unwrap().seq,
        Some(Seq::FIRST)
    );
    let again = catalog.submit(command(robot, 100), true).await;
    assert!(matches!(again, Err(CatalogError::Conflict(_))), "{again:?}");

    let due = catalog.offer(robot, Seq(2), 2).await.unwrap();
    assert_eq!(seqs(&due), [2, 3]);
    assert_eq!(catalog.offer(robot, Seq(5), 2).await.unwrap(), []);
    let recent = catalog.recent_commands(robot, 3).await.unwrap();
    assert_eq!(seqs(&recent), [4, 3, 2]);
    let stream = catalog.down_stream(robot).await.unwrap();
    assert_eq!((stream.acked, stream.next), (Seq(1), Seq(5)));
    leave(catalog, &[robot, other]).await;
}

async fn an_idempotency_key_is_accepted_once(catalog: &dyn Catalog) {
    let robot = enter(catalog, "once").await;
    let other = enter(catalog, "once too").await;
    let keyed = |robot, id| NewCommand {
        idempotency_key: Some("key".to_owned()),
        ..command(robot, id)
    };
    let first = catalog.submit(keyed(robot, 1), true).await.unwrap();
    let moved = vec![(update(1, Progress::Succeeded), at(3))];
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, cursor, moved).await.unwrap();
    let again = catalog.submit(keyed(robot, 2), true).await.unwrap();
    assert_eq!(again.command, first.command);
    assert_eq!(again.state, CommandState::Succeeded, "as it stands now");
    assert_eq!(
        catalog
            .submit(keyed(other, 3), true)
            .await
            .unwrap()
            .command
            .id,
        CommandId(3)
    );
    assert_eq!(catalog.down_stream(robot).await.unwrap().next, Seq(2));
    leave(catalog, &[robot, other]).await;
}

async fn commands_are_listed_by_page_and_by_state(catalog: &dyn Catalog) {
    let robot = enter(catalog, "listed").await;
    let other = enter(catalog, "not listed").await;
    submit(catalog, robot, 1..=5).await;
    submit(catalog, other, 6..=6).await;
    let moved = vec![
        (update(2, Progress::Running), at(1)),
        (update(3, Progress::Failed), at(2)),
        (update(5, Progress::Failed), at(3)),
    ];
    apply(catalog, robot, moved).await;
    use CommandState::{Failed, Queued, Running, Sent};
    for (page, expected) in [
        (page(None, &[], 2), vec![5, 4]),
        (page(Some(4), &[], 2), vec![3, 2]),
        (page(Some(2), &[], 2), vec![1]),
        (page(Some(1), &[], 2), vec![]),
        (page(None, &[Failed], 9), vec![5, 3]),
        (page(Some(5), &[Failed], 9), vec![3]),
        (page(None, &[Running, Queued], 9), vec![4, 2, 1]),
        (page(None, &[Sent], 9), vec![]),
    ] {
        let found = catalog.commands(robot, page.clone()).await.unwrap();
        assert_eq!(ids(&found), expected, "{page:?}");
    }
    for stranger in [6, 7] {
        let refused = catalog.commands(robot, page(Some(stranger), &[], 1)).await;
        assert!(
            matches!(refused, Err(CatalogError::Missing(_))),
            "{refused:?}"
        );
    }
    leave(catalog, &[robot, other]).await;
}

async fn a_key_with_another_order_is_a_conflict(catalog: &dyn Catalog) {
    let robot = enter(catalog, "keyed").await;
    let go_to = |id, place: &str, x| NewCommand {
        idempotency_key: Some("key".to_owned()),
        order: Order::GoTo(GoTo {
            pose: Pose {
                x,
                y: 0.0,
                theta: None,
            },
            floor: Some(7),
            place: place.to_owned(),
        }),
        ..command(robot, id)
    };
    catalog.submit(go_to(1, "a", 1.0), true).await.unwrap();
    // The place was moved on the map in between.
    let again = catalog.submit(go_to(2, "a", 2.0), true).await.unwrap();
    assert_eq!(again.command.id, CommandId(1));
    let stop = NewCommand {
        idempotency_key: Some("key".to_owned()),
        ..command(robot, 3)
    };
    for other in [go_to(3, "b", 1.0), go_to(3, "", 1.0), stop] {
        let refused = catalog.submit(other, true).await;
        assert!(
            matches!(refused, Err(CatalogError::Conflict(_))),
            "{refused:?}"
        );
    }
    assert_eq!(catalog.down_stream(robot).await.unwrap().next, Seq(2));
    leave(catalog, &[robot]).await;
}

async fn unfinished_commands_are_bounded_but_a_stop_finds_room(catalog: &dyn Catalog) {
    let robot = enter(catalog, "busy").await;
    let say = |id| NewCommand {
        order: Order::Say("x".to_owned()),
        idempotency_key: Some(format!("{id}")),
        ..command(robot, id)
    };
    let most = u128::try_from(MAX_UNFINISHED).unwrap();
    for id in 1..=most {
        catalog.submit(say(id), id % 2 == 0).await.unwrap();
    }
    let full = catalog.submit(say(most + 1), true).await;
    assert!(
        matches!(full, Err(CatalogError::Full(by)) if by == robot),
        "{full:?}"
    );
    let known = catalog
        .submit(
            NewCommand {
                id: CommandId(0),
                ..say(1)
            },
            true,
        )
        .await;
    assert_eq!(known.unwrap().command.id, CommandId(1));
    let stops = u128::try_from(MAX_STOPS_BEYOND).unwrap();
    for id in most + 1..=most + stops {
        catalog.submit(command(robot, id), true).await.unwrap();
    }
    let full = catalog.submit(command(robot, 0), true).await;
    assert!(matches!(full, Err(CatalogError::Full(_))), "{full:?}");
    let cancel = command(robot, 0);
    let cancelled = catalog.cancel(CommandId(2), cancel, true).await.unwrap();
    assert!(
        matches!(cancelled, Cancellation::Entered(..)),
        "{cancelled:?}"
    );
    leave(catalog, &[robot]).await;
}

async fn a_command_that_was_never_offered_is_cancelled_at_once(catalog: &dyn Catalog) {
    let robot = enter(catalog, "withdrawn").await;
    catalog.submit(command(robot, 1), false).await.unwrap();
    let cancel = NewCommand {
        submitted: at(5),
        ..command(robot, 2)
    };
    let ended = catalog.cancel(CommandId(1), cancel.clone(), false).await;
    let Ok(Cancellation::Ended(ended)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(
        (ended.state, ended.offered),
        (CommandState::Cancelled, false)
    );
    let (stored, steps) = catalog.command(CommandId(1)).await.unwrap();
    assert_eq!(stored, ended);
    let last = steps.last().unwrap();
    assert_eq!((last.state, last.at), (CommandState::Cancelled, at(5)));
    let over = catalog.cancel(CommandId(1), cancel, false).await.unwrap();
    assert_eq!(over, Cancellation::Over(ended));
    // Its position stays, and the cancellation took none.
    assert_eq!(catalog.down_stream(robot).await.unwrap().next, Seq(2));
    let late = apply(catalog, robot, vec![(update(1, Progress::Running), at(6))]).await;
    assert_eq!(late, []);
    leave(catalog, &[robot]).await;
}

async fn one_cancellation_of_an_offered_command_is_under_way_at_a_time(catalog: &dyn Catalog) {
    let robot = enter(catalog, "cancelled").await;
    submit(catalog, robot, 1..=1).await;
    let target = CommandId(1);
    let entered = catalog.cancel(target, command(robot, 2), true).await;
    let Ok(Cancellation::Entered(entry, cancel)) = entered else {
        panic!("{entered:?}");
    };
    assert_eq!((entry.cancelling, cancel), (true, CommandId(2)));
    let (cancel, _) = catalog.command(cancel).await.unwrap();
    assert_eq!(cancel.command.order, Order::Cancel(target));
    assert_eq!((cancel.seq, cancel.offered), (Some(Seq(2)), true));
    let again = catalog
        .cancel(target, command(robot, 3), true)
        .await
        .unwrap();
    assert_eq!(again, Cancellation::UnderWay(entry));
    // The cancellation was in vain, so there may be another.
    apply(catalog, robot, vec![(update(2, Progress::Expired), at(1))]).await;
    assert!(!catalog.command(target).await.unwrap().0.cancelling);
    let anew = catalog
        .cancel(target, command(robot, 3), true)
        .await
        .unwrap();
    assert!(
        matches!(anew, Cancellation::Entered(_, CommandId(3))),
        "{anew:?}"
    );
    // The command was done first.
    apply(
        catalog,
        robot,
        vec![(update(1, Progress::Succeeded), at(2))],
    )
    .await;
    let over = catalog
        .cancel(target, command(robot, 4), true)
        .await
        .unwrap();
    let Cancellation::Over(entry) = over else {
        panic!("{over:?}");
    };
    assert_eq!(
        (entry.state, entry.cancelling),
        (CommandState::Succeeded, false)
    );
    assert_eq!(catalog.recent_commands(robot, 9).await.unwrap().len(), 3);
    leave(catalog, &[robot]).await;
}

async fn only_what_was_never_offered_expires_here(catalog: &dyn Catalog) {
    let robot = enter(catalog, "expired").await;
    for (id, offered, deadline) in [(1, true, 1), (2, false, 3), (3, false, 2), (4, false, 9)] {
        let new = NewCommand {
            deadline: at(deadline),
            ..command(robot, id)
        };
        catalog.submit(new, offered).await.unwrap();
    }
    assert_eq!(catalog.next_expiry().await.unwrap(), Some(at(2)));
    assert_eq!(catalog.expire(at(1), 9).await.unwrap(), []);
    assert_eq!(ids(&catalog.expire(at(8), 1).await.unwrap()), [3]);
    let expired = catalog.expire(at(8), 9).await.unwrap();
    assert_eq!(ids(&expired), [2]);
    assert_eq!(
        (expired[0].state, expired[0].offered),
        (CommandState::Expired, false)
    );
    assert_eq!(catalog.expire(at(8), 9).await.unwrap(), []);
    let (stored, steps) = catalog.command(CommandId(2)).await.unwrap();
    assert_eq!(stored, expired[0]);
    assert_eq!(steps.last().unwrap().at, at(8));
    assert_eq!(catalog.next_expiry().await.unwrap(), Some(at(9)));
    catalog.offer(robot, Seq(4), 1).await.unwrap();
    assert_eq!(catalog.next_expiry().await.unwrap(), None);
    assert_eq!(catalog.expire(at(99), 9).await.unwrap(), []);
    leave(catalog, &[robot]).await;
}

async fn the_newest_progress_is_kept_until_the_end(catalog: &dyn Catalog) {
    let robot = enter(catalog, "progress").await;
    submit(catalog, robot, 1..=1).await;
    let said = vec![
        (progressed(9, 1), at(1)),
        (progressed(1, 40), at(2)),
        (update(1, Progress::Running), at(3)),
        (progressed(1, 250), at(4)),
        (update(1, Progress::Succeeded), at(5)),
        (progressed(1, 50), at(6)),
    ];
    let changed = apply(catalog, robot, said).await;
    let changed: Vec<_> = changed
        .iter()
        .map(|(change, entry)| {
            let percent = entry.progress.as_ref().map(|progress| progress.percent);
            (*change, entry.state, percent)
        })
        .collect();
    use CommandState::{Queued, Running, Succeeded};
    let expected = [
        (Change::Progress, Queued, Some(40)),
        (Change::Step, Running, Some(40)),
        (Change::Progress, Running, Some(100)),
        (Change::Step, Succeeded, Some(100)),
    ];
    assert_eq!(changed, expected);
    let (entry, _) = catalog.command(CommandId(1)).await.unwrap();
    assert_eq!(entry.progress.unwrap().at, at(4));
    leave(catalog, &[robot]).await;
}

async fn a_command_of_the_board_is_entered_once_and_has_no_position(catalog: &dyn Catalog) {
    let robot = enter(catalog, "board").await;
    let other = enter(catalog, "other board").await;
    let keyed = |robot, id, key: &str| NewCommand {
        idempotency_key: Some(key.to_owned()),
        actor: "board".to_owned(),
        submitted: at(3),
        ..command(robot, id)
    };
    catalog
        .submit(keyed(robot, 1, "both"), false)
        .await
        .unwrap();
    let said = vec![
        (ordered(keyed(robot, 2, "own")), at(3)),
        (update(2, Progress::Received), at(3)),
        (ordered(keyed(robot, 3, "both")), at(4)),
        // One that is another robot's, or that was entered before.
        (ordered(keyed(other, 4, "x")), at(5)),
        (ordered(keyed(robot, 1, "y")), at(6)),
    ];
    let changed = apply(catalog, robot, said.clone()).await;
    let steps: Vec<_> = changed
        .iter()
        .map(|(change, entry)| (*change, entry.command.id.0))
        .collect();
    let expected = [
        (Change::Entered, 2),
        (Change::Step, 2),
        (Change::Entered, 3),
    ];
    assert_eq!(steps, expected);
    assert_eq!(apply(catalog, robot, said).await, [], "once only");

    let (entry, history) = catalog.command(CommandId(2)).await.unwrap();
    assert_eq!(entry.command, keyed(robot, 2, "own"));
    assert_eq!((entry.seq, entry.offered), (None, true));
    let history: Vec<_> = history.iter().map(|step| (step.state, step.at)).collect();
    use CommandState::{Queued, Received};
    assert_eq!(history, [(Queued, at(3)), (Received, at(3))]);
    let (entry, _) = catalog.command(CommandId(3)).await.unwrap();
    assert_eq!(entry.command.idempotency_key, None);
    assert_eq!(catalog.down_stream(robot).await.unwrap().next, Seq(2));
    let due = catalog.offer(robot, Seq(1), 9).await.unwrap();
    assert_eq!(ids(&due), [1]);
    // It can be cancelled like any other, and its key is known.
    let cancel = catalog.cancel(CommandId(3), command(robot, 5), true).await;
    assert!(
        matches!(cancel, Ok(Cancellation::Entered(..))),
        "{cancel:?}"
    );
    let again = catalog.submit(keyed(robot, 6, "own"), true).await.unwrap();
    assert_eq!(again.command.id, CommandId(2));
    leave(catalog, &[robot, other]).await;
}

async fn updates_move_commands_forward_only(catalog: &dyn Catalog) {
    let robot = enter(catalog, "updated").await;
    let other = enter(catalog, "not updated").await;
    submit(catalog, robot, 1..=2).await;
    submit(catalog, other, 3..=3).await;
    let updates = [
        (1, Progress::Received),
        (1, Progress::Running),
        (9_999, Progress::Running),
        (3, Progress::Running),
        (1, Progress::Received),
        (2, Progress::Succeeded),
        (2, Progress::Failed),
        (1, Progress::Failed),
    ];
    let timed = updates.iter().zip(1..).map(|((id, progress), moment)| {
        let update = CommandUpdate {
            command: CommandId(*id),
            progress: *progress,
            detail: format!("{moment}"),
        };
        (LedgerUpdate::Step(update), at(moment))
    });
    let timed: Vec<_> = timed.collect();
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(9),
    };
    let changed = catalog.apply(robot, cursor, timed.clone()).await.unwrap();
    let seen: Vec<_> = changed
        .iter()
        .map(|(_, entry)| (entry.command.id.0, entry.state, entry.detail.as_str()))
        .collect();
    use CommandState::{Failed, Queued, Received, Running, Succeeded};
    let expected = [
        (1, Received, "1"),
        (1, Running, "2"),
        (2, Succeeded, "6"),
        (1, Failed, "8"),
    ];
    assert_eq!(seen, expected);
    let (entry, steps) = catalog.command(CommandId(1)).await.unwrap();
    assert_eq!((entry.state, entry.detail.as_str()), (Failed, "8"));
    let states: Vec<_> = steps.iter().map(|step| step.state).collect();
    assert_eq!(states, [Queued, Received, Running, Failed]);
    assert_eq!(
        steps[3],
        Transition {
            state: Failed,
            at: at(8),
            detail: "8".to_owned()
        }
    );
    assert_eq!(catalog.command(CommandId(3)).await.unwrap().0.state, Queued);

    assert_eq!(
        catalog.apply(robot, cursor, timed).await.unwrap(),
        [],
        "once only"
    );
    leave(catalog, &[robot, other]).await;
}

async fn the_applied_position_never_goes_back(catalog: &dyn Catalog) {
    let robot = enter(catalog, "applied").await;
    for (epoch, next, expected) in [(1, 5, 5), (1, 3, 5), (2, 2, 2), (1, 6, 6)] {
        let cursor = Cursor {
            epoch: Epoch(epoch),
            next: Seq(next),
        };
        catalog.apply(robot, cursor, Vec::new()).await.unwrap();
        assert_eq!(
            catalog.applied(robot, Epoch(epoch)).await.unwrap(),
            Seq(expected)
        );
    }
    assert_eq!(catalog.applied(robot, Epoch(3)).await.unwrap(), Seq::FIRST);
    leave(catalog, &[robot]).await;
}

async fn a_removed_robot_takes_its_ledger_along(catalog: &dyn Catalog) {
    let robot = enter(catalog, "removed").await;
    submit(catalog, robot, 1..=2).await;
    leave(catalog, &[robot]).await;
    let gone = catalog.command(CommandId(1)).await;
    assert!(matches!(gone, Err(CatalogError::Missing(_))), "{gone:?}");
    let again = enter(catalog, "removed").await;
    assert_eq!(
        catalog.submit(command(again, 1), true).await.unwrap().seq,
        Some(Seq::FIRST)
    );
    leave(catalog, &[again]).await;
}
