//! The promises of [`Commands`], against a driver that fails, stops and starts again at any step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brrbrr_proto::down::{Command, GoTo};
use proptest::prelude::*;

use super::*;

const BOOT: BootId = BootId(1);

fn at(seconds: u64) -> Uptime {
    Uptime::new(Duration::from_secs(seconds))
}

fn go_to() -> Order {
    let pose = Pose {
        x: 1.0,
        y: 2.0,
        theta: None,
    };
    Order::GoTo(GoTo {
        pose,
        floor: None,
        place: String::new(),
    })
}

fn stored(id: u128, order: Order, ttl: u64, now: Uptime) -> StoredCommand {
    let command = Command {
        id: CommandId(id),
        time_to_live: Duration::from_secs(ttl),
        order,
    };
    StoredCommand::received(command, BOOT, now)
}

fn arrival() -> Report {
    Report {
        command: None,
        outcome: Outcome::Arrived(None),
        source: None,
        redelivered: false,
    }
}

/// A driver with a disk that keeps what was persisted, and a robot that takes what it is given.
struct Bench {
    commands: Commands,
    disk: Vec<StoredCommand>,
    now: Uptime,
    boot: BootId,
    /// Whether commands are stored as offered where nothing stands in their way.
    plans: bool,
    persisting: Option<Step>,
    executing: Vec<(CommandId, Order)>,
    /// Orders that the robot may have got.
    given: BTreeSet<CommandId>,
    ended: BTreeMap<CommandId, Progress>,
    arrived: Vec<Option<CommandId>>,
}

impl Bench {
    fn new() -> Self {
        Self {
            commands: Commands::new(BOOT, Vec::new(), None, at(1)),
            disk: Vec::new(),
            now: at(1),
            boot: BOOT,
            plans: false,
            persisting: None,
            executing: Vec::new(),
            given: BTreeSet::new(),
            ended: BTreeMap::new(),
            arrived: Vec::new(),
        }
    }

    fn ready() -> Self {
        let mut bench = Self::new();
        bench.commands.handle_reach(Reach::Ready, bench.now);
        bench
    }

    fn command(&mut self, id: u128, order: Order, ttl: u64) {
        let mut command = stored(id, order, ttl, self.now);
        command.boot = self.boot;
        if self.plans {
            command.hand_over = self
                .commands
                .plan(command.command.id, &command.command.order);
        }
        self.disk.push(command.clone());
        self.commands.handle_command(command, self.now);
        self.take();
    }

    /// Takes all outputs and checks what may never be.
    fn take(&mut self) {
        while let Some(output) = self.commands.poll_output() {
            match output {
                Output::Persist(step) => {
                    assert!(self.persisting.is_none(), "one step at a time");
                    self.persisting = Some(step);
                }
                Output::Execute { id, order, .. } => {
                    assert!(self.given.insert(id), "handed over twice: {id}");
                    let stored = self.disk.iter().find(|s| s.command.id == id).unwrap();
                    assert!(self.now < stored.deadline, "handed over late: {id}");
                    assert_eq!(stored.boot, self.boot, "of an earlier boot: {id}");
                    let on_disk = stored.hand_over == HandOver::Offered;
                    let halts = order == Order::Stop;
                    assert!(on_disk || halts, "handed over before it was stored: {id}");
                    self.executing.push((id, order));
                }
                Output::Tell(_) => {}
            }
        }
    }

    fn write(&mut self, step: &Step) {
        for change in &step.changes {
            let stored = self.disk.iter_mut().find(|s| s.command.id == change.id);
            let stored = stored.unwrap();
            if stored.progress.is_final() {
                assert_eq!(
                    stored.progress, change.progress,
                    "ended twice: {}",
                    change.id
                );
            }
            stored.progress = change.progress;
            stored.hand_over = change.hand_over;
        }
        for event in &step.events {
            match event {
                Event::Command(update) if update.progress.is_final() => {
                    let twice = self.ended.insert(update.command, update.progress);
                    assert_eq!(twice, None, "reported twice: {}", update.command);
                }
                Event::Arrived(arrived) => self.arrived.push(arrived.command),
                Event::Command(_)
                | Event::Changed(_)
                | Event::Alarm(_)
                | Event::Telemetry(_)
                | Event::Custom(_)
                | Event::Ordered(_)
                | Event::Progressed(_)
                | Event::Thinned(_)
                | Event::Tombstone(_) => {}
            }
        }
        let running = |s: &&StoredCommand| s.progress == Progress::Running;
        assert!(self.disk.iter().filter(running).count() <= 1);
    }

    fn persist(&mut self) {
        if let Some(step) = self.persisting.take() {
            self.write(&step);
            self.commands.handle_persisted(step.ticket, self.now);
            self.take();
        }
    }

    fn fail_to_persist(&mut self) {
        if let Some(step) = self.persisting.take() {
            self.commands.handle_persist_failed(step.ticket, self.now);
            self.take();
        }
    }

    fn executed(&mut self, result: Result<(), HandOverError>) {
        if self.executing.is_empty() {
            return;
        }
        let (id, _) = self.executing.remove(0);
        if matches!(result, Err(HandOverError::Away(_))) {
            self.given.remove(&id);
        }
        self.commands.handle_executed(id, result, self.now);
        self.take();
    }

    fn report(&mut self, report: Report) -> Heard {
        let heard = self.commands.handle_report(report, self.now);
        self.take();
        heard
    }

    fn advance(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
        self.commands.handle_timeout(self.now);
        if let Some(due) = self.commands.poll_timeout() {
            assert!(due > self.now, "a timeout that never ends");
        }
        self.take();
    }

    fn restart(&mut self, written: bool, reboot: bool) {
        if let Some(step) = self.persisting.take()
            && written
        {
            self.write(&step);
        }
        self.executing.clear();
        if reboot {
            self.boot = BootId(self.boot.0 + 1);
        }
        let unfinished = self.disk.iter().filter(|s| !s.progress.is_final());
        let unfinished = unfinished.cloned().collect();
        let mut motions = self.disk.iter().filter(|s| s.command.order.is_motion());
        self.commands = Commands::new(self.boot, unfinished, motions.next_back(), self.now);
        self.take();
    }

    /// Does everything that can be done without time passing.
    fn work(&mut self) {
        while self.persisting.is_some() || !self.executing.is_empty() {
            self.persist();
            self.executed(Ok(()));
        }
    }
}

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
    bench.commands.handle_reach(Reach::Away, bench.now);
    bench.commands.handle_command(planned, bench.now);
    bench.take();
    assert!(bench.executing.is_empty());
    bench.persist();
    assert_eq!(bench.disk[0].hand_over, HandOver::NotYet);
    bench.commands.handle_reach(Reach::Ready, bench.now);
    bench.take();
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
    bench.commands.handle_reach(Reach::Draining, bench.now);
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

    bench.commands.handle_reach(Reach::Away, bench.now);
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
    bench.commands.handle_reach(Reach::Ready, bench.now);
    bench.take();
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
    bench.commands.handle_reach(Reach::Draining, bench.now);
    bench.take();
    bench.work();
    assert!(bench.executing.is_empty() && bench.commands.running().is_none());
    let again = Report {
        redelivered: true,
        ..arrival()
    };
    assert_eq!(bench.report(again), Heard::NoNews);
    bench.commands.handle_reach(Reach::Ready, bench.now);
    bench.take();
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
    bench.commands.handle_reach(Reach::Ready, bench.now);
    bench.take();
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

#[derive(Debug, Clone)]
enum Action {
    Command(Kind, u64),
    Reach(Reach),
    Persist,
    FailToPersist,
    Executed(u8),
    Arrive,
    Advance(u64),
    Restart { written: bool, reboot: bool },
}

#[derive(Debug, Clone)]
enum Kind {
    GoTo,
    Stop,
    Say,
    Cancel(u128),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let kind = prop_oneof![
        4 => Just(Kind::GoTo),
        2 => Just(Kind::Stop),
        1 => Just(Kind::Say),
        2 => (1_u128..12).prop_map(Kind::Cancel),
    ];
    let reach = prop_oneof![Just(Reach::Away), Just(Reach::Draining), Just(Reach::Ready)];
    let action = prop_oneof![
        4 => (kind, 0_u64..30).prop_map(|(kind, ttl)| Action::Command(kind, ttl)),
        3 => reach.prop_map(Action::Reach),
        8 => Just(Action::Persist),
        1 => Just(Action::FailToPersist),
        6 => (0_u8..8).prop_map(Action::Executed),
        3 => Just(Action::Arrive),
        2 => (0_u64..10).prop_map(Action::Advance),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(written, reboot)| Action::Restart { written, reboot }),
    ];
    prop::collection::vec(action, 0..60)
}

fn act(bench: &mut Bench, action: Action, next_id: &mut u128) {
    match action {
        Action::Command(kind, ttl) => {
            *next_id += 1;
            let order = match kind {
                Kind::GoTo => go_to(),
                Kind::Stop => Order::Stop,
                Kind::Say => Order::Say("hello".to_owned()),
                Kind::Cancel(id) => Order::Cancel(CommandId(id)),
            };
            bench.command(*next_id, order, ttl);
        }
        Action::Reach(reach) => {
            bench.commands.handle_reach(reach, bench.now);
            bench.take();
        }
        Action::Persist => bench.persist(),
        Action::FailToPersist => bench.fail_to_persist(),
        Action::Executed(n) => bench.executed(match n {
            0 => Err(HandOverError::Away("away".to_owned())),
            1 => Err(HandOverError::Unknown("no word".to_owned())),
            2 => Err(HandOverError::Refused("cannot".to_owned())),
            _ => Ok(()),
        }),
        Action::Arrive => {
            bench.report(arrival());
        }
        Action::Advance(seconds) => bench.advance(seconds),
        Action::Restart { written, reboot } => {
            // A stop that went out while nothing could be stored may go out again; the others not.
            let stops = bench.disk.iter().filter(|s| !s.command.order.is_motion());
            for stop in stops.filter(|s| s.hand_over == HandOver::NotYet) {
                bench.given.remove(&stop.command.id);
            }
            bench.restart(written, reboot);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_every_command_ends_once_and_none_is_late_or_doubled(
        actions in actions(),
        plans: bool,
    ) {
        let mut bench = Bench::new();
        bench.plans = plans;
        let mut next_id = 0;
        for action in actions {
            act(&mut bench, action, &mut next_id);
        }
        bench.commands.handle_reach(Reach::Ready, bench.now);
        bench.take();
        for _ in 0..4 {
            bench.work();
            bench.advance(30);
        }
        bench.work();
        bench.report(arrival());
        bench.work();
        prop_assert_eq!(bench.commands.unfinished(), 0);
        prop_assert_eq!(bench.ended.len(), bench.disk.len());
        let mut arrived: Vec<_> = bench.arrived.iter().flatten().collect();
        let count = arrived.len();
        arrived.sort();
        arrived.dedup();
        prop_assert_eq!(arrived.len(), count, "an arrival was reported twice");
    }
}
