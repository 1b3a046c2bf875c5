//! Whatever happens, in any order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Command(Kind, u64),
    /// One that the disk refuses.
    Refused(Kind, u64, bool),
    /// The oldest refused one comes again: is it stored now?
    Resend(bool),
    Reach(Reach),
    Persist,
    FailToPersist,
    Executed(u8),
    Arrive(Option<u128>),
    Status(Activity),
    Progress(u8),
    Started(bool),
    Unheard,
    Advance(u64),
    Restart {
        written: bool,
        reboot: bool,
    },
}

#[derive(Debug, Clone)]
enum Kind {
    GoTo,
    Dock,
    Stop,
    Pause,
    Resume,
    Say,
    Cancel(u128),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let kind = || {
        prop_oneof![
            5 => Just(Kind::GoTo),
            1 => Just(Kind::Dock),
            2 => Just(Kind::Stop),
            1 => Just(Kind::Pause),
            1 => Just(Kind::Resume),
            1 => Just(Kind::Say),
            3 => (1_u128..12).prop_map(Kind::Cancel),
        ]
    };
    let reach = prop_oneof![
        1 => Just(Reach::Away),
        1 => Just(Reach::Draining),
        3 => Just(Reach::Ready),
    ];
    let activity = prop_oneof![
        3 => Just(Activity::Idle),
        3 => Just(Activity::Moving),
        1 => Just(Activity::Stopped),
        1 => Just(Activity::Arrived),
        1 => Just(Activity::Docking),
        1 => Just(Activity::Faulted),
    ];
    let action = prop_oneof![
        5 => (kind(), 0_u64..30).prop_map(|(kind, ttl)| Action::Command(kind, ttl)),
        2 => (kind(), 0_u64..30, any::<bool>())
            .prop_map(|(kind, ttl, on_board)| Action::Refused(kind, ttl, on_board)),
        2 => any::<bool>().prop_map(Action::Resend),
        3 => reach.prop_map(Action::Reach),
        8 => Just(Action::Persist),
        1 => Just(Action::FailToPersist),
        6 => (0_u8..8).prop_map(Action::Executed),
        2 => Just(Action::Arrive(None)),
        1 => (1_u128..12).prop_map(|id| Action::Arrive(Some(id))),
        4 => activity.prop_map(Action::Status),
        2 => (0_u8..110).prop_map(Action::Progress),
        1 => any::<bool>().prop_map(Action::Started),
        1 => Just(Action::Unheard),
        4 => (0_u64..10).prop_map(Action::Advance),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(written, reboot)| Action::Restart { written, reboot }),
    ];
    prop::collection::vec(action, 0..80)
}

fn order(kind: &Kind) -> Order {
    match kind {
        Kind::GoTo => go_to(),
        Kind::Dock => Order::Dock,
        Kind::Stop => Order::Stop,
        Kind::Pause => Order::Pause,
        Kind::Resume => Order::Resume,
        Kind::Say => Order::Say("hello".to_owned()),
        Kind::Cancel(id) => Order::Cancel(CommandId(*id)),
    }
}

fn act(bench: &mut Bench, action: Action, next_id: &mut u128) {
    match action {
        Action::Command(kind, ttl) => {
            *next_id += 1;
            bench.command(*next_id, order(&kind), ttl);
        }
        Action::Refused(kind, ttl, on_board) => {
            *next_id += 1;
            bench.refused(*next_id, order(&kind), ttl);
            if let Some(stored) = bench.unstored.last_mut().filter(|_| on_board) {
                stored.origin = Origin::Board {
                    actor: "board".to_owned(),
                    key: None,
                };
            }
        }
        Action::Resend(is_stored) => bench.resend(is_stored),
        Action::Reach(reach) => bench.reach(reach),
        Action::Persist => bench.persist(),
        Action::FailToPersist => bench.fail_to_persist(),
        Action::Executed(n) => bench.executed(match n {
            0 => Err(HandOverError::Away("away".to_owned())),
            1 => Err(HandOverError::Unknown("no word".to_owned())),
            2 => Err(HandOverError::Refused("cannot".to_owned())),
            _ => Ok(()),
        }),
        Action::Arrive(id) => {
            bench.report(Report {
                command: id.map(CommandId),
                ..arrival()
            });
        }
        Action::Status(activity) => bench.status(activity),
        Action::Progress(percent) => bench.progress(percent),
        Action::Started(redelivered) => {
            bench.started(redelivered);
        }
        Action::Unheard => {
            bench.said(Word::Reach);
            bench.commands.handle_unheard(bench.now);
            bench.take();
        }
        Action::Advance(seconds) => bench.advance(seconds),
        Action::Restart { written, reboot } => {
            // A stop that went out while nothing could be stored may go out again; the others not.
            let unstored = bench.unstored.iter().chain(&bench.disk);
            let stops = unstored.filter(|s| !s.command.order.is_motion());
            let stops = stops.filter(|s| s.hand_over == HandOver::NotYet);
            for id in stops.map(|stop| stop.command.id) {
                bench.given.remove(&id);
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
        arrives: bool,
    ) {
        let mut bench = Bench::new();
        bench.plans = plans;
        let mut next_id = 0;
        for action in actions {
            act(&mut bench, action, &mut next_id);
        }
        while !bench.unstored.is_empty() {
            bench.resend(true);
        }
        bench.reach(Reach::Ready);
        for _ in 0..4 {
            bench.work();
            bench.advance(30);
        }
        bench.work();
        if arrives {
            bench.report(arrival());
        } else {
            // The robot has forgotten it, and says nothing.
            bench.advance(watching::MOTION_LIMIT.as_secs());
        }
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
