//! Stops and cancellations: while nothing can be stored, against other commands, and repeated.

use super::*;

/// A motion that the robot has.
fn driving() -> Bench {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 600);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
    bench
}

#[test]
fn a_stop_that_cannot_be_stored_reaches_the_robot_once_and_ends_when_it_can_be() {
    let mut bench = driving();
    assert!(bench.refused(2, Order::Stop, 60));
    assert_eq!(bench.executing, [(CommandId(2), Order::Stop)]);
    bench.executed(Ok(()));
    bench.fail_to_persist();
    for _ in 0..3 {
        bench.resend(false);
        assert!(bench.executing.is_empty());
    }
    assert!(bench.ended.is_empty(), "nothing can be stored");
    bench.resend(true);
    bench.advance(1);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
}

#[test]
fn a_stop_that_is_stored_while_it_is_on_its_way_ends_with_the_robots_word() {
    let mut bench = driving();
    bench.refused(2, Order::Stop, 60);
    bench.resend(true);
    assert_eq!(bench.executing.len(), 1);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
}

#[test]
fn the_cancellation_of_the_running_motion_reaches_the_robot_although_nothing_can_be_stored() {
    let mut bench = driving();
    assert!(!bench.refused(2, Order::Cancel(CommandId(99)), 60));
    assert!(bench.refused(3, Order::Cancel(CommandId(1)), 60));
    assert_eq!(bench.executing, [(CommandId(3), Order::Stop)]);
    bench.work();
    bench.resend(true);
    bench.resend(true);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Failed);
    assert_eq!(bench.ended[&CommandId(3)], Progress::Succeeded);
}

#[test]
fn only_what_halts_the_robot_is_passed_on_before_it_is_stored() {
    let mut bench = driving();
    for (id, order) in [
        (2, go_to()),
        (3, Order::Pause),
        (4, Order::Say("hello".to_owned())),
    ] {
        assert!(!bench.refused(id, order, 60));
    }
    assert!(!bench.refused(5, Order::Stop, 0), "its time has passed");
    assert!(bench.executing.is_empty());
}

#[test]
fn a_stop_that_comes_again_after_a_restart_is_refused_when_its_time_has_passed() {
    let mut bench = driving();
    bench.refused(2, Order::Stop, 60);
    bench.executed(Ok(()));
    bench.restart(false, false);
    bench.reach(Reach::Ready);
    bench.advance(60);
    bench.resend(false);
    bench.resend(true);
    bench.work();
    assert_eq!(bench.ended[&CommandId(2)], Progress::Expired);
}

#[test]
fn a_motion_that_waits_is_not_begun_after_a_stop_that_could_not_be_stored() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.refused(2, Order::Stop, 60);
    bench.executed(Ok(()));
    bench.work();
    assert!(bench.executing.is_empty());
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert!(bench.commands.running().is_none());
}

#[test]
fn a_motion_that_came_before_a_stop_is_not_begun_although_it_is_stored_after_it() {
    let mut bench = Bench::ready();
    bench.refused(1, go_to(), 60);
    bench.refused(2, Order::Stop, 60);
    bench.work();
    bench.resend(true);
    bench.resend(true);
    bench.command(3, go_to(), 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(3));
}

#[test]
fn a_robot_that_ignores_a_cancellation_is_told_once() {
    let mut bench = driving();
    bench.command(2, Order::Cancel(CommandId(1)), 600);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    for _ in 0..10 {
        bench.status(Activity::Moving);
        bench.advance(1);
        assert!(bench.executing.is_empty(), "told again");
    }
    // It arrives after all. That is recorded, and the command stays as it ended.
    assert!(matches!(bench.report(arrival()), Heard::News(_)));
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.arrived, [Some(CommandId(1))]);
}

#[test]
fn a_command_that_is_withdrawn_twice_halts_the_robot_once() {
    let mut bench = driving();
    bench.command(2, Order::Cancel(CommandId(1)), 60);
    bench.command(3, Order::Cancel(CommandId(1)), 60);
    // Everything is stored before the robot's broker has a word for the first.
    while bench.persisting.is_some() {
        bench.persist();
    }
    bench.work();
    let stops: Vec<_> = bench.given.iter().filter(|id| id.0 > 1).collect();
    assert_eq!(stops, [&CommandId(2)]);
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
    assert_eq!(bench.ended[&CommandId(3)], Progress::Failed);
}

#[test]
fn a_cancellation_that_races_with_an_arrival_leaves_one_end() {
    let mut bench = driving();
    bench.command(2, Order::Cancel(CommandId(1)), 60);
    bench.persist();
    bench.report(arrival());
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Succeeded);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Failed);
}

#[test]
fn a_cancellation_does_not_stop_the_motion_that_takes_the_place_of_its_target() {
    let mut bench = driving();
    bench.command(2, go_to(), 60);
    bench.persist();
    bench.command(3, Order::Cancel(CommandId(1)), 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Superseded);
    assert_eq!(bench.ended[&CommandId(3)], Progress::Failed);
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(2));
}

#[test]
fn a_word_that_waits_can_be_withdrawn_and_one_that_is_spoken_cannot() {
    let mut bench = Bench::new();
    bench.command(1, Order::Say("hello".to_owned()), 600);
    bench.command(2, Order::Cancel(CommandId(1)), 600);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
    bench.reach(Reach::Ready);
    bench.command(3, Order::Say("hello".to_owned()), 600);
    bench.persist();
    bench.command(4, Order::Cancel(CommandId(3)), 600);
    bench.work();
    assert_eq!(bench.ended[&CommandId(3)], Progress::Succeeded);
    assert_eq!(bench.ended[&CommandId(4)], Progress::Failed);
}

#[test]
fn a_robot_that_arrives_before_its_broker_confirms_the_order_has_arrived() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.persist();
    assert_eq!(bench.executing.len(), 1);
    assert!(matches!(bench.report(arrival()), Heard::News(_)));
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Succeeded);
    assert_eq!(bench.commands.unfinished(), 0);
    bench.command(2, go_to(), 60);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(2));
}

#[test]
fn a_command_whose_time_passed_while_the_board_slept_expires_and_is_not_handed_over() {
    let mut bench = Bench::new();
    bench.command(1, go_to(), 60);
    // The board sleeps, and the first that is heard then is that the robot can be reached.
    bench.now = bench.now.plus(Duration::from_secs(3600));
    bench.reach(Reach::Ready);
    bench.work();
    assert!(bench.given.is_empty());
    assert_eq!(bench.ended[&CommandId(1)], Progress::Expired);

    bench.command(2, go_to(), 60);
    // Asleep between the offer and the word that it is stored.
    bench.now = bench.now.plus(Duration::from_secs(3600));
    bench.work();
    assert!(bench.given.is_empty());
    assert_eq!(bench.ended[&CommandId(2)], Progress::Expired);
}

#[test]
fn a_stop_that_went_out_past_a_failing_disk_is_not_repeated_after_a_restart() {
    let mut bench = Bench::ready();
    bench.command(1, Order::Stop, 60);
    bench.executed(Err(HandOverError::Away("busy".to_owned())));
    // That it was not taken cannot be stored, and it goes out again all the same.
    bench.fail_to_persist();
    bench.advance(1);
    assert_eq!(bench.executing.len(), 1);
    bench.executed(Ok(()));
    bench.advance(1);
    bench.restart(true, false);
    bench.reach(Reach::Ready);
    bench.work();
    assert!(bench.executing.is_empty());
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
}

#[test]
fn a_stop_that_came_twice_and_was_stored_once_is_told_once() {
    let mut bench = driving();
    bench.command(2, Order::Stop, 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
    // The other frame with it finds a disk that takes nothing.
    let again = stored(2, Order::Stop, 60, bench.now);
    bench.commands.handle_refused(again, bench.now);
    bench.take();
    assert!(bench.executing.is_empty(), "told again");
}
