//! Orders of which nobody knows whether the robot has them, and what came before them.

use super::*;

fn driving() -> Bench {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench
}

fn lost() -> Result<(), HandOverError> {
    Err(HandOverError::Unknown("no word".to_owned()))
}

#[test]
fn a_motion_that_the_robot_may_have_left_does_not_succeed_by_an_unnamed_arrival() {
    let mut bench = driving();
    bench.command(2, go_to(), 60);
    bench.persist();
    bench.executed(lost());
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Interrupted);
    bench.report(arrival());
    bench.work();
    assert_eq!(bench.arrived, [Some(CommandId(2))]);
}

#[test]
fn the_same_holds_where_the_daemon_was_killed_in_the_hand_over() {
    let mut bench = driving();
    bench.command(2, go_to(), 60);
    bench.persist();
    bench.restart(true, false);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Interrupted);
}

#[test]
fn a_motion_does_not_run_on_after_a_stop_that_may_have_reached_the_robot() {
    let mut bench = driving();
    bench.command(2, Order::Stop, 60);
    bench.persist();
    bench.executed(lost());
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
    assert_eq!(bench.commands.unfinished(), 0);
}

#[test]
fn a_motion_does_not_begin_after_a_stop_whose_step_was_lost_with_the_daemon() {
    let mut bench = Bench::new();
    bench.command(1, go_to(), 60);
    bench.refused(2, Order::Stop, 60);
    bench.resend(true);
    bench.reach(Reach::Draining);
    bench.fail_to_persist();
    bench.restart(false, false);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
}

#[test]
fn a_stop_that_comes_too_late_still_keeps_older_motions_from_beginning() {
    let mut bench = Bench::new();
    bench.command(1, go_to(), 60);
    bench.command(2, Order::Stop, 0);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(2)], Progress::Expired);
}

#[test]
fn a_robot_that_was_halted_by_hand_for_good_does_not_run_its_motion_for_ever() {
    let mut bench = driving();
    bench.status(Activity::Moving);
    for _ in 0..watching::MOTION_LIMIT.as_secs() {
        bench.status(Activity::Stopped);
        bench.advance(1);
    }
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
}

#[test]
fn nothing_goes_on_after_a_stop_that_came_later() {
    let mut bench = driving();
    bench.reach(Reach::Away);
    bench.command(2, Order::Resume, 60);
    bench.command(3, Order::Stop, 60);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(2)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
}

#[test]
fn a_robot_without_a_motion_is_not_told_to_go_on() {
    let mut bench = Bench::ready();
    bench.command(1, Order::Resume, 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Failed);
}

#[test]
fn of_stops_that_wait_for_the_robots_broker_one_goes_out() {
    let mut bench = Bench::new();
    for id in 1..=200 {
        bench.command(id, Order::Stop, 60);
        bench.work();
    }
    assert_eq!(bench.commands.unfinished(), 1);
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.ended[&CommandId(200)], Progress::Succeeded);
    assert_eq!(bench.ended[&CommandId(199)], Progress::Superseded);
}

#[test]
fn what_waits_can_be_withdrawn_however_much_waits() {
    let mut bench = Bench::new();
    let full = u128::try_from(UNFINISHED_MAX).unwrap();
    for id in 1..=full {
        bench.command(id, Order::Say("hello".to_owned()), 60);
    }
    bench.command(full + 1, Order::Cancel(CommandId(1)), 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Cancelled);
    assert_eq!(bench.ended[&CommandId(full + 1)], Progress::Succeeded);
}

#[test]
fn what_is_to_be_offered_again_holds_up_what_came_after_it() {
    let mut bench = driving();
    bench.command(2, Order::Pause, 60);
    bench.persist();
    bench.executed(Err(HandOverError::Away("nobody listens".to_owned())));
    bench.command(3, Order::Resume, 60);
    bench.work();
    assert_eq!(bench.ended.get(&CommandId(3)), None);
    bench.advance(1);
    bench.persist();
    assert_eq!(bench.executing, [(CommandId(2), Order::Pause)]);
    bench.work();
    assert_eq!(bench.ended[&CommandId(3)], Progress::Succeeded);
}

#[test]
fn a_motion_is_not_handed_over_before_a_broker_that_came_back_has_been_heard() {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.reach(Reach::Away);
    bench.reach(Reach::Draining);
    bench.persist();
    assert!(bench.executing.is_empty());
    bench.reach(Reach::Ready);
    bench.work();
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
}

#[test]
fn a_resume_that_comes_back_does_not_go_out_behind_a_stop() {
    let mut bench = driving();
    bench.command(2, Order::Resume, 60);
    bench.persist();
    bench.command(3, Order::Stop, 60);
    bench.persist();
    assert_eq!(bench.executing.len(), 2);
    bench.executed(Err(HandOverError::Away("nobody listens".to_owned())));
    bench.advance(1);
    bench.persist();
    assert_eq!(bench.executing, [(CommandId(3), Order::Stop)]);
    bench.work();
    assert_eq!(bench.ended[&CommandId(2)], Progress::Cancelled);
}

#[test]
fn a_motion_that_was_paused_for_long_goes_on() {
    let mut bench = driving();
    bench.status(Activity::Moving);
    bench.command(2, Order::Pause, 60);
    bench.work();
    for _ in 0..5 {
        bench.advance(watching::MOTION_LIMIT.as_secs() / 2);
        bench.status(Activity::Stopped);
    }
    bench.command(3, Order::Resume, 60);
    bench.work();
    assert_eq!(bench.ended[&CommandId(3)], Progress::Succeeded);
    assert_eq!(bench.commands.running().unwrap().command.id, CommandId(1));
}

#[test]
fn a_paused_motion_that_the_robot_has_forgotten_does_not_run_for_ever() {
    let mut bench = driving();
    bench.command(2, Order::Pause, 60);
    bench.work();
    for _ in 0..5 {
        bench.advance(watching::MOTION_LIMIT.as_secs() / 2);
        bench.status(Activity::Idle);
    }
    bench.work();
    assert_eq!(bench.ended[&CommandId(1)], Progress::Interrupted);
}
