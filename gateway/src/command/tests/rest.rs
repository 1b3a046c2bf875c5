//! Motions that the robot has forgotten, and how far they have got.

use super::*;

fn driving() -> Bench {
    let mut bench = Bench::ready();
    bench.command(1, go_to(), 60);
    bench.work();
    bench
}

fn end(bench: &mut Bench) -> Option<Progress> {
    bench.work();
    bench.ended.get(&CommandId(1)).copied()
}

#[test]
fn a_motion_does_not_outlive_a_restart_of_the_robots_software() {
    let mut bench = driving();
    assert!(matches!(bench.started(false), Heard::News(_)));
    assert_eq!(end(&mut bench), Some(Progress::Interrupted));
    assert_eq!(bench.started(false), Heard::NoNews);
}

#[test]
fn an_old_word_of_a_restart_does_not_end_a_newer_motion() {
    let mut bench = driving();
    assert_eq!(bench.started(true), Heard::NoNews);
    assert_eq!(end(&mut bench), None);
    // The motion is older than this daemon, so the word may well be about it.
    bench.restart(true, false);
    assert!(matches!(bench.started(true), Heard::News(_)));
    assert_eq!(end(&mut bench), Some(Progress::Interrupted));
}

#[test]
fn a_robot_that_stood_idle_before_it_got_its_order_still_drives() {
    let mut bench = driving();
    bench.status(Activity::Idle);
    bench.advance(600);
    assert_eq!(end(&mut bench), None);
}

#[test]
fn a_robot_that_has_moved_and_stands_idle_has_forgotten_its_motion() {
    let mut bench = driving();
    bench.status(Activity::Moving);
    bench.status(Activity::Idle);
    bench.advance(4);
    assert_eq!(end(&mut bench), None);
    bench.advance(1);
    assert_eq!(end(&mut bench), Some(Progress::Interrupted));
}

#[test]
fn a_robot_that_never_set_off_is_believed_when_it_has_had_time_to() {
    for activity in [Activity::Idle, Activity::Docking, Activity::Faulted] {
        let mut bench = driving();
        for _ in 0..14 {
            bench.status(activity);
            bench.advance(1);
            assert_eq!(end(&mut bench), None);
        }
        bench.status(activity);
        bench.advance(1);
        assert_eq!(end(&mut bench), Some(Progress::Interrupted));
    }
}

#[test]
fn an_arrival_right_behind_an_idle_status_is_an_arrival() {
    let mut bench = driving();
    bench.status(Activity::Moving);
    bench.status(Activity::Idle);
    bench.advance(3);
    bench.report(arrival());
    assert_eq!(end(&mut bench), Some(Progress::Succeeded));
}

#[test]
fn a_robot_that_drives_on_or_is_paused_has_not_forgotten_its_motion() {
    let mut bench = driving();
    bench.status(Activity::Moving);
    bench.status(Activity::Idle);
    bench.advance(4);
    bench.status(Activity::Moving);
    bench.advance(60);
    assert_eq!(end(&mut bench), None);
    bench.command(2, Order::Pause, 60);
    bench.work();
    bench.status(Activity::Idle);
    bench.advance(60);
    assert_eq!(end(&mut bench), None);
}

#[test]
fn what_cannot_be_heard_ends_no_motion() {
    let mut bench = driving();
    bench.status(Activity::Moving);
    bench.status(Activity::Idle);
    bench.reach(Reach::Away);
    bench.advance(36_000);
    bench.reach(Reach::Draining);
    bench.status(Activity::Idle);
    bench.advance(60);
    assert_eq!(end(&mut bench), None);
    // All is heard now, and what was said before does not count.
    bench.reach(Reach::Ready);
    bench.advance(4);
    assert_eq!(end(&mut bench), None);
    bench.report(arrival());
    assert_eq!(end(&mut bench), Some(Progress::Succeeded));
}

#[test]
fn a_motion_of_which_nothing_is_heard_does_not_run_for_ever() {
    let mut bench = driving();
    bench.commands.limit_motions(Duration::from_secs(100));
    bench.advance(99);
    bench.progress(50);
    bench.advance(99);
    assert_eq!(end(&mut bench), None);
    bench.advance(1);
    assert_eq!(end(&mut bench), Some(Progress::Interrupted));
}

#[test]
fn progress_is_told_once_a_second_when_it_is_new_and_the_last_of_it_at_once() {
    let mut bench = driving();
    for percent in [10, 10, 20, 30] {
        bench.progress(percent);
    }
    bench.advance(1);
    bench.advance(1);
    bench.progress(90);
    bench.progress(100);
    bench.report(arrival());
    let told: Vec<u8> = bench.progress.iter().map(|told| told.2).collect();
    assert_eq!(told, [10, 30, 90, 100]);
    bench.progress(100);
    assert_eq!(bench.progress.len(), 4, "it has ended");
}

#[test]
fn progress_of_another_command_is_not_told() {
    let mut bench = driving();
    let other = Some(CommandId(7));
    bench
        .commands
        .handle_progress(other, 50, String::new(), bench.now);
    bench.take();
    assert!(bench.progress.is_empty());
}
