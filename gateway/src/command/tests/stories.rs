//! What becomes of commands, step by step.

use super::*;

#[test]
fn a_motion_is_stored_then_handed_over_then_running_until_the_robot_arrives() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    assert!(bench.executing.is_empty(), "its offer is not stored yet");
    bench.persist();
    assert_eq!(bench.executing, [(CommandId(1), go_to())]);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
    assert!(matches!(bench.report(arrival()), Heard::News(_)));
    assert_eq!(bench.report(arrival()), Heard::NoNews);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Succeeded);
    assert_eq!(bench.arrived, [Some(CommandId(1))]);
}

#[test]
fn a_motion_with_nothing_in_its_way_is_handed_over_as_soon_as_it_is_stored() {
    let mut bench = Bench::ready();
    bench.plans = true;
    bench.command(1, go_to(), 60);
    assert_eq!(bench.executing, [(CommandId(1), go_to())]);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
}

#[test]
fn a_planned_motion_that_finds_something_in_its_way_waits_like_any_other() {
    let mut bench = Bench::ready();
    let mut planned = stored(1, go_to(), 60, bench.now);
    planned.hand_over = bench
        .commands
        .plan(planned.command.id, &planned.command.order);
    assert_eq!(planned.hand_over, HandOver::Offered);
    bench.disk.push(planned.clone());
    bench.reach(Reach::Away);
    bench.commands.handle_command(planned, bench.now);
    bench.take();
    assert!(bench.executing.is_empty());
    bench.persist();
    assert_eq!(bench.disk[0].hand_over, HandOver::NotYet);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
}

#[test]
fn a_newer_motion_takes_the_place_of_the_older_when_the_robot_has_it() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.command(2, go_to(), 60);
    bench.persist();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Superseded);
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(2));
}

#[test]
fn a_refused_motion_leaves_the_running_one_alone() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.command(2, go_to(), 60);
    bench.persist();
    bench.executed(Err(HandOverError::Refused("another floor".to_owned())));
    bench.work();
    assert_eq!(bench.ended[&CommandId(2)], Progress::Failed);
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
}

#[test]
fn stop_ends_the_running_motion_and_those_that_wait() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.reach(Reach::Draining);
    bench.command(2, go_to(), 60);
    bench.command(3, Order::Stop, 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(3)], Progress::Succeeded);
}

#[test]
fn a_cancelled_motion_is_stopped_if_the_robot_has_it_and_else_just_ends() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.command(2, Order::Cancel(CommandId(1)), 60);
    bench.persist();
    assert_eq!(bench.executing, [(CommandId(2), Order::Stop)]);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);

    bench.reach(Reach::Away);
    bench.command(3, go_to(), 60);
    bench.command(4, Order::Cancel(CommandId(3)), 60);
    bench.command(5, Order::Cancel(CommandId(99)), 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(3)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(4)], Progress::Succeeded);
    assert_eq!(bench.ended[&CommandId(5)], Progress::Failed);
}

#[test]
fn a_motion_waits_for_the_robots_broker_until_its_deadline() {
    let mut bench = Bench::new();
    bench.command(1, go_to(), 60);
    bench.command(2, Order::Say("hello".to_owned()), 600);
    bench.advance(59);
    assert!(bench.ended.is_empty());
    bench.advance(1);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Expired);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
}

#[test]
fn an_order_that_no_robot_took_is_offered_again() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.persist();
    bench.executed(Err(HandOverError::Away("no robot".to_owned())));
    bench.persist();
    assert!(bench.executing.is_empty());
    bench.advance(1);
    bench.work();
    assert!(bench.commands.running().is_some());
}

#[test]
fn an_old_arrival_is_not_taken_for_that_of_the_next_trip() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.report(arrival());
    // The step is on the disk, but the robot's broker was not told: it will deliver again.
    bench.restart(true, false);
    bench.command(2, go_to(), 60);
    bench.reach(Reach::Draining);
    bench.work();
    assert!(bench.executing.is_empty() && bench.commands.running().is_none());
    let again = Report {
        redelivered: true,
        ..arrival()
    };
    assert_eq!(bench.report(again), Heard::NoNews);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(2));
    assert_eq!(bench.arrived, [Some(CommandId(1))]);
}

#[test]
fn a_running_motion_outlives_a_restart_of_the_daemon_but_not_of_the_board() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.restart(true, false);
    assert!(bench.commands.running().is_some());
    bench.restart(true, true);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
    assert!(matches!(bench.report(arrival()), Heard::News(_)));
    bench.work();
    assert_eq!(bench.arrived, [Some(CommandId(1))]);
    assert_eq!(bench.report(arrival()), Heard::NoNews);
}

#[test]
fn a_motion_that_may_have_been_handed_over_before_a_crash_is_interrupted() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.persist();
    assert_eq!(bench.executing.len(), 1);
    bench.restart(false, false);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
}

#[test]
fn a_stop_goes_out_even_when_nothing_can_be_stored() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench.command(2, Order::Stop, 60);
    bench.fail_to_persist();
    assert_eq!(bench.executing, [(CommandId(2), Order::Stop)]);
    bench.executed(Ok(()));
    bench.advance(1);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Succeeded);
}
