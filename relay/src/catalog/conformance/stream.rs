//! What every ledger must do with a robot's down stream.

use std::time::Duration;

use brrbrr_proto::link::COMMANDS_BYTES;

use super::*;

/// Runs every case, each with robots of its own.
pub(super) async fn conforms(catalog: &dyn Catalog) {
    what_is_offered_stays_so_and_what_ended_before_is_not(catalog).await;
    a_stop_and_a_newer_motion_end_the_motions_that_wait(catalog).await;
    what_is_outdone_by_something_outside_its_frame_is_told(catalog).await;
    a_frame_holds_no_more_than_fits(catalog).await;
    what_was_sent_is_marked_once(catalog).await;
    delivery_never_goes_back(catalog).await;
    a_renewed_stream_holds_what_was_not_delivered(catalog).await;
}

async fn what_is_offered_stays_so_and_what_ended_before_is_not(catalog: &dyn Catalog) {
    let robot = enter(catalog, "offered").await;
    for (id, offered) in [(1, true), (2, false), (3, false), (4, false)] {
        let entry = catalog.submit(command(robot, id), offered).await.unwrap();
        assert_eq!(entry.offered, offered);
    }
    let cancel = command(robot, 9);
    catalog.cancel(CommandId(3), cancel, false).await.unwrap();
    let offered = |entries: Vec<LedgerEntry>| {
        let offered = entries
            .iter()
            .map(|entry| (entry.command.id.0, entry.offered));
        offered.collect::<Vec<_>>()
    };
    // Asked twice, as when the frame was lost.
    for _ in 0..2 {
        let due = catalog.offer(robot, Seq(1), 3).await.unwrap();
        let withdrawn = due.iter().map(LedgerEntry::is_withdrawn);
        assert_eq!(withdrawn.collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(offered(due), [(1, true), (2, true), (3, false)]);
    }
    let all = catalog.recent_commands(robot, 9).await.unwrap();
    assert_eq!(offered(all), [(4, false), (3, false), (2, true), (1, true)]);
    // What the robot speaks of was offered, whatever this ledger remembers.
    apply(catalog, robot, vec![(update(4, Progress::Received), at(1))]).await;
    assert!(catalog.command(CommandId(4)).await.unwrap().0.offered);
    leave(catalog, &[robot]).await;
}

async fn a_stop_and_a_newer_motion_end_the_motions_that_wait(catalog: &dyn Catalog) {
    let robot = enter(catalog, "waiting").await;
    let other = enter(catalog, "waiting elsewhere").await;
    let new = |robot, id, order| NewCommand {
        order,
        submitted: at(i64::try_from(id).unwrap()),
        ..command(robot, id)
    };
    let say = Order::Say("x".to_owned());
    for (robot, id, order, offered) in [
        (robot, 1, Order::Dock, true),
        (robot, 2, Order::Dock, false),
        (robot, 3, say.clone(), false),
        (other, 4, Order::Dock, false),
    ] {
        let order = new(robot, id, order);
        let done = catalog.accept(order, offered).await.unwrap();
        assert_eq!(done.ended, [], "{id}");
    }
    let replaced = catalog.accept(new(robot, 5, Order::Dock), false).await;
    let replaced = replaced.unwrap().ended;
    assert_eq!(ids(&replaced), [2]);
    assert_eq!(replaced[0].state, CommandState::Superseded);
    let (stored, steps) = catalog.command(CommandId(2)).await.unwrap();
    assert_eq!(stored, replaced[0]);
    assert_eq!(steps.last().unwrap().at, at(5));
    for id in [6, 7] {
        // Nothing else ends them.
        let order = new(robot, id, say.clone());
        assert_eq!(catalog.accept(order, false).await.unwrap().ended, []);
    }
    let stopped = catalog.accept(new(robot, 8, Order::Stop), true).await;
    let stopped = stopped.unwrap().ended;
    assert_eq!(ids(&stopped), [5]);
    assert_eq!(stopped[0].state, CommandState::Cancelled);
    use CommandState::{Cancelled, Queued, Superseded};
    let states: Vec<_> = states(catalog, robot).await.into_values().collect();
    let expected = [
        Queued, Superseded, Queued, Cancelled, Queued, Queued, Queued,
    ];
    assert_eq!(states, expected);
    let (elsewhere, _) = catalog.command(CommandId(4)).await.unwrap();
    assert_eq!(elsewhere.state, Queued);
    leave(catalog, &[robot, other]).await;
}

async fn what_is_outdone_by_something_outside_its_frame_is_told(catalog: &dyn Catalog) {
    let robot = enter(catalog, "outdone").await;
    let outdone = async |limit| {
        let due = catalog.offer(robot, Seq(1), limit).await.unwrap();
        let told = due.iter().filter(|entry| entry.outdone);
        told.map(|entry| entry.command.id.0).collect::<Vec<_>>()
    };
    let new = |id, order| NewCommand {
        order,
        deadline: at(5),
        ..command(robot, id)
    };
    let say = Order::Say("x".to_owned());
    for (id, order) in [(1, Order::Dock), (2, say.clone()), (3, say)] {
        catalog.submit(new(id, order), true).await.unwrap();
    }
    assert_eq!(outdone(2).await, [], "nothing behind drives or stops");
    let cancelled = catalog.cancel(CommandId(2), command(robot, 4), true).await;
    assert!(matches!(cancelled, Ok(Cancellation::Entered(..))));
    assert_eq!(outdone(2).await, [], "another one is cancelled");
    let cancelled = catalog.cancel(CommandId(1), command(robot, 5), true).await;
    assert!(matches!(cancelled, Ok(Cancellation::Entered(..))));
    assert_eq!(outdone(2).await, [1]);
    assert_eq!(outdone(5).await, [], "the board gets both, and sees to it");
    // A stop that was never sent and is over: the board gets its position only.
    catalog.submit(new(6, Order::Dock), true).await.unwrap();
    catalog.submit(new(7, Order::Stop), false).await.unwrap();
    assert_eq!(ids(&catalog.expire(at(5), 9).await.unwrap()), [7]);
    assert_eq!(outdone(9).await, [1, 6]);
    assert_eq!(outdone(6).await, [1, 6]);
    let due = catalog.offer(robot, Seq(6), 1).await.unwrap();
    let sent = due.into_iter().next().unwrap().to_send(at(1));
    assert_eq!((sent.id, sent.time_to_live), (CommandId(6), Duration::ZERO));
    leave(catalog, &[robot]).await;
}

async fn a_frame_holds_no_more_than_fits(catalog: &dyn Catalog) {
    let robot = enter(catalog, "large").await;
    for (id, bytes) in [
        (1, 2 * COMMANDS_BYTES),
        (2, 9),
        (3, COMMANDS_BYTES - 99),
        (4, 99),
    ] {
        let new = NewCommand {
            order: Order::Say("x".repeat(bytes)),
            ..command(robot, id)
        };
        catalog.submit(new, false).await.unwrap();
    }
    for (from, expected) in [(1, vec![1]), (2, vec![2, 3]), (3, vec![3])] {
        let due = catalog.offer(robot, Seq(from), 9).await.unwrap();
        assert_eq!(seqs(&due), expected);
    }
    let (last, _) = catalog.command(CommandId(4)).await.unwrap();
    assert!(!last.offered, "what does not go out is not offered");
    leave(catalog, &[robot]).await;
}

async fn what_was_sent_is_marked_once(catalog: &dyn Catalog) {
    let robot = enter(catalog, "sent").await;
    submit(catalog, robot, 1..=4).await;
    let received = vec![(update(2, Progress::Received), at(2))];
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, cursor, received).await.unwrap();
    let epoch = catalog.down_stream(robot).await.unwrap().epoch;
    let stranger = Epoch(epoch.0.wrapping_add(1));
    let other = catalog.mark_sent(robot, stranger, Seq(1), Seq(5), at(4));
    other.await.unwrap();
    for moment in [5, 6] {
        catalog
            .mark_sent(robot, epoch, Seq(1), Seq(4), at(moment))
            .await
            .unwrap();
    }
    let states: Vec<_> = states(catalog, robot).await.into_values().collect();
    use CommandState::{Queued, Received, Sent};
    assert_eq!(states, [Sent, Received, Sent, Queued]);
    let (_, steps) = catalog.command(CommandId(1)).await.unwrap();
    let steps: Vec<_> = steps.iter().map(|step| (step.state, step.at)).collect();
    assert_eq!(steps, [(Queued, at(0)), (Sent, at(5))]);
    leave(catalog, &[robot]).await;
}

async fn delivery_never_goes_back(catalog: &dyn Catalog) {
    let robot = enter(catalog, "delivered").await;
    submit(catalog, robot, 1..=4).await;
    let epoch = catalog.down_stream(robot).await.unwrap().epoch;
    let stranger = Epoch(epoch.0.wrapping_add(1));
    for (epoch, next, acked) in [
        (epoch, 3, 3),
        (epoch, 2, 3),
        (stranger, 5, 3),
        // The robot claims more than was ever sent: its word means another ledger.
        (epoch, 6, 3),
        (epoch, 5, 5),
    ] {
        let cursor = Cursor {
            epoch,
            next: Seq(next),
        };
        catalog.mark_delivered(robot, cursor).await.unwrap();
        assert_eq!(
            catalog.down_stream(robot).await.unwrap().acked,
            Seq(acked),
            "{cursor:?}"
        );
    }
    leave(catalog, &[robot]).await;
}

async fn a_renewed_stream_holds_what_was_not_delivered(catalog: &dyn Catalog) {
    let robot = enter(catalog, "renewed").await;
    submit(catalog, robot, 1..=5).await;
    let old = catalog.down_stream(robot).await.unwrap();
    catalog
        .mark_sent(robot, old.epoch, Seq(1), Seq(4), at(5))
        .await
        .unwrap();
    let cursor = Cursor {
        epoch: old.epoch,
        next: Seq(3),
    };
    catalog.mark_delivered(robot, cursor).await.unwrap();
    // The robot has reported on the fourth, so it has it, although it never said so.
    let reported = vec![(update(4, Progress::Running), at(6))];
    let up = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, up, reported).await.unwrap();

    let epoch = Epoch(old.epoch.0.wrapping_add(1));
    let expected = DownStream {
        epoch,
        acked: Seq(1),
        next: Seq(3),
    };
    // Asked twice, as after an answer that was lost.
    for _ in 0..2 {
        assert_eq!(
            catalog.renew_down_stream(robot, epoch).await.unwrap(),
            expected
        );
    }
    assert_eq!(catalog.down_stream(robot).await.unwrap(), expected);
    let waiting = catalog.offer(robot, Seq(1), 10).await.unwrap();
    let waiting: Vec<_> = waiting
        .iter()
        .map(|entry| (entry.command.id.0, entry.seq.unwrap().0))
        .collect();
    assert_eq!(waiting, [(3, 1), (5, 2)]);
    let next = catalog.submit(command(robot, 6), true).await.unwrap();
    assert_eq!(next.seq, Some(Seq(3)));
    assert_eq!(
        catalog.recent_commands(robot, 10).await.unwrap().len(),
        6,
        "nothing is forgotten"
    );
    leave(catalog, &[robot]).await;
}
