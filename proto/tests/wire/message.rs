//! Any message of the wire, for property tests. Strategies are boxed, because their values are large
//! and a test thread's stack is small.

use std::time::Duration;

use brrbrr_proto::down::{
    Ack, Action, Command, Commands, Down, GoTo, NoBuilding, Order, Part, Rehello, Wait, Welcome,
};
use brrbrr_proto::id::{
    BootId, CommandId, ConnectionId, Cursor, Epoch, HelloId, RelayId, Revision, Seq, SessionId,
};
use brrbrr_proto::live::{Activity, Live, Pose, RobotSide, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{
    Alarm, Arrived, Batch, Beat, CommandUpdate, Custom, Disk, Event, Gone, Hello, Item, Loss,
    Progress, Record, Report, Severity, Span, Thinned, Tombstone, Up, Wanted,
};
use brrbrr_proto::version::Versions;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Small numbers, huge ones and everything between.
fn number() -> BoxedStrategy<u64> {
    prop_oneof![4 => 0_u64..20, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(1 << 63)].boxed()
}

fn text() -> BoxedStrategy<String> {
    prop_oneof![Just(String::new()), "[a-z가-힣 ]{1,12}"].boxed()
}

fn duration() -> BoxedStrategy<Duration> {
    let some =
        (number(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos));
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        Just(Duration::from_secs(10)),
        some
    ]
    .boxed()
}

fn uptime() -> BoxedStrategy<Uptime> {
    number()
        .prop_map(|micros| Uptime::new(Duration::from_micros(micros)))
        .boxed()
}

fn wall() -> BoxedStrategy<WallClock> {
    any::<i64>().prop_map(WallClock).boxed()
}

fn cursor() -> BoxedStrategy<Cursor> {
    (number(), number())
        .prop_map(|(epoch, next)| Cursor {
            epoch: Epoch(epoch),
            next: Seq(next),
        })
        .boxed()
}

fn hello_id() -> BoxedStrategy<HelloId> {
    (number(), any::<u32>())
        .prop_map(|(connection, attempt)| HelloId {
            connection: ConnectionId(connection),
            attempt,
        })
        .boxed()
}

fn stamp() -> BoxedStrategy<Stamp> {
    (any::<u64>(), uptime(), wall())
        .prop_map(|(boot, uptime, wall)| Stamp {
            boot: BootId(boot),
            uptime,
            wall,
        })
        .boxed()
}

fn metres() -> BoxedStrategy<f64> {
    prop_oneof![-1e6..1e6, Just(f64::MAX), Just(f64::INFINITY), Just(-0.0)].boxed()
}

fn pose() -> BoxedStrategy<Pose> {
    (metres(), metres(), option::of(metres()))
        .prop_map(|(x, y, theta)| Pose { x, y, theta })
        .boxed()
}

fn status() -> BoxedStrategy<Status> {
    let activities = [
        Activity::Idle,
        Activity::Moving,
        Activity::Stopped,
        Activity::Arrived,
        Activity::Docking,
        Activity::Faulted,
    ];
    let fields = (
        option::of(select(activities.to_vec())),
        option::of(pose()),
        option::of(any::<i32>()),
        option::of(metres()),
        option::of(metres()),
        option::of(select(vec![RobotSide::Up, RobotSide::Down])),
    );
    fields
        .prop_map(
            |(activity, pose, floor, battery, speed, robot_side)| Status {
                activity,
                pose,
                floor,
                battery,
                speed,
                robot_side,
            },
        )
        .boxed()
}

pub fn hello() -> BoxedStrategy<Hello> {
    let numbers = (number(), number(), number());
    let versions = (0_u8..4, 0_u8..4).prop_map(|(oldest, newest)| Versions { oldest, newest });
    let fields = (
        hello_id(),
        numbers,
        uptime(),
        wall(),
        option::of(cursor()),
        versions,
        text(),
    );
    fields
        .prop_map(
            |(hello, (boot, next, backlog), uptime, wall, down, versions, software)| Hello {
                hello,
                boot: BootId(boot),
                uptime,
                wall,
                next: Seq(next),
                backlog,
                down,
                versions,
                software,
            },
        )
        .boxed()
}

pub fn up() -> BoxedStrategy<Up> {
    let item =
        (number(), vec(any::<u8>(), 0..40)).prop_map(|(covers, record)| Item { covers, record });
    let batch = (number(), uptime(), number(), vec(item, 0..5));
    let batch = batch.prop_map(|(session, sent, first, items)| {
        Up::Batch(Batch {
            session: SessionId(session),
            sent,
            first: Seq(first),
            items,
        })
    });
    let beat = (number(), uptime(), cursor()).prop_map(|(session, sent, down)| {
        Up::Beat(Beat {
            session: SessionId(session),
            sent,
            down,
        })
    });
    let disk = select(vec![Disk::Fine, Disk::Short, Disk::Failing]);
    let waiting = (number(), option::of(stamp()));
    let report = (number(), uptime(), waiting, disk, uptime(), text()).prop_map(
        |(session, sent, (next, oldest), disk, since, detail)| {
            Up::Report(Report {
                session: SessionId(session),
                sent,
                next: Seq(next),
                oldest,
                disk,
                since,
                detail,
            })
        },
    );
    let wanted = (number(), uptime(), option::of(revision()), part());
    let wanted = wanted.prop_map(|(session, sent, have, part)| {
        Up::Wanted(Wanted {
            session: SessionId(session),
            sent,
            have,
            part,
        })
    });
    prop_oneof![3 => batch, 1 => beat, 1 => report, 1 => wanted].boxed()
}

pub fn live() -> BoxedStrategy<Live> {
    (number(), number(), uptime(), status())
        .prop_map(|(session, count, sampled, status)| Live {
            session: SessionId(session),
            count,
            sampled,
            status,
        })
        .boxed()
}

pub fn gone() -> BoxedStrategy<Gone> {
    number()
        .prop_map(|connection| Gone {
            connection: ConnectionId(connection),
        })
        .boxed()
}

fn command() -> BoxedStrategy<Command> {
    let go_to = (pose(), option::of(any::<i32>()), text());
    let order = prop_oneof![
        go_to.prop_map(|(pose, floor, place)| Order::GoTo(GoTo { pose, floor, place })),
        Just(Order::Stop),
        Just(Order::Pause),
        Just(Order::Resume),
        Just(Order::Dock),
        text().prop_map(Order::Say),
        (text(), text()).prop_map(|(name, json)| Order::Custom(Action { name, json })),
        any::<u128>().prop_map(|id| Order::Cancel(CommandId(id))),
    ];
    (any::<u128>(), duration(), order)
        .prop_map(|(id, time_to_live, order)| Command {
            id: CommandId(id),
            time_to_live,
            order,
        })
        .boxed()
}

fn revision() -> BoxedStrategy<Revision> {
    prop_oneof![4 => 0_u128..4, 1 => any::<u128>()]
        .prop_map(Revision)
        .boxed()
}

fn part() -> BoxedStrategy<u32> {
    prop_oneof![4 => 0_u32..4, 1 => any::<u32>()].boxed()
}

fn building() -> BoxedStrategy<Down> {
    let part = (
        number(),
        revision(),
        part(),
        part(),
        vec(any::<u8>(), 0..40),
    );
    let part = part.prop_map(|(session, revision, part, parts, bytes)| {
        Down::Building(Part {
            session: SessionId(session),
            revision,
            part,
            parts,
            bytes,
        })
    });
    let no = (number(), text()).prop_map(|(session, reason)| {
        let session = SessionId(session);
        Down::NoBuilding(NoBuilding { session, reason })
    });
    prop_oneof![4 => part, 1 => no].boxed()
}

pub fn down() -> BoxedStrategy<Down> {
    let ids = (hello_id(), number(), number(), number());
    let intervals = (duration(), duration());
    let welcome = (
        ids,
        cursor(),
        wall(),
        uptime(),
        any::<u32>(),
        intervals,
        any::<u8>(),
    );
    let welcome = welcome.prop_map(|(ids, down, now, uptime, credit, intervals, version)| {
        let (hello, session, relay, up_next) = ids;
        Down::Welcome(Welcome {
            hello,
            session: SessionId(session),
            relay: RelayId(relay),
            up_next: Seq(up_next),
            down,
            now,
            uptime,
            credit,
            live_interval: intervals.0,
            beat_interval: intervals.1,
            version,
        })
    });
    let ack = (number(), number(), any::<u32>()).prop_map(|(session, next, credit)| {
        Down::Ack(Ack {
            session: SessionId(session),
            next: Seq(next),
            credit,
        })
    });
    let commands = (number(), uptime(), number(), vec(command(), 0..4));
    let commands = commands.prop_map(|(session, sent, first, commands)| {
        Down::Commands(Commands {
            session: SessionId(session),
            sent,
            first: Seq(first),
            commands,
        })
    });
    let wait = (hello_id(), duration());
    prop_oneof![
        3 => welcome,
        2 => ack,
        3 => commands,
        2 => building(),
        1 => wait.prop_map(|(hello, pause)| Down::Wait(Wait { hello, pause })),
        1 => number().prop_map(|id| Down::Rehello(Rehello { session: SessionId(id) })),
    ]
    .boxed()
}

pub fn record() -> BoxedStrategy<Record> {
    let command = option::of(any::<u128>().prop_map(CommandId));
    let severity = select(vec![
        Severity::Notice,
        Severity::Warning,
        Severity::Critical,
    ]);
    let progress = select(vec![
        Progress::Received,
        Progress::Running,
        Progress::Succeeded,
        Progress::Failed,
        Progress::Cancelled,
        Progress::Expired,
        Progress::Superseded,
        Progress::Interrupted,
    ]);
    let loss = select(vec![
        Loss::SpoolFull,
        Loss::SpoolCorrupt,
        Loss::RelayForgot,
        Loss::Thinned,
    ]);
    let tombstone = (number(), loss, option::of(stamp()), option::of(stamp()));
    let event = prop_oneof![
        status().prop_map(Event::Changed),
        (command, option::of(pose()))
            .prop_map(|(command, pose)| Event::Arrived(Arrived { command, pose })),
        (text(), severity, text()).prop_map(|(code, severity, text)| {
            Event::Alarm(Alarm {
                code,
                severity,
                text,
            })
        }),
        (any::<u128>(), progress, text()).prop_map(|(command, progress, detail)| {
            Event::Command(CommandUpdate {
                command: CommandId(command),
                progress,
                detail,
            })
        }),
        status().prop_map(Event::Telemetry),
        (text(), text()).prop_map(|(kind, json)| Event::Custom(Custom { kind, json })),
        (
            number(),
            stamp(),
            option::of(span()),
            option::of(span()),
            status()
        )
            .prop_map(|(count, since, battery, speed, last)| {
                Event::Thinned(Thinned {
                    count,
                    since,
                    battery,
                    speed,
                    last,
                })
            }),
        tombstone.prop_map(|(count, loss, since, until)| {
            Event::Tombstone(Tombstone {
                count,
                loss,
                since,
                until,
            })
        }),
    ];
    (stamp(), event)
        .prop_map(|(stamp, event)| Record { stamp, event })
        .boxed()
}

fn span() -> impl Strategy<Value = Span> {
    (-1e3..1e3, -1e3..1e3).prop_map(|(low, high)| Span { low, high })
}
