//! Workers on real stores.

use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{
    Arrived, CommandUpdate, Event, Item, Loss, Ordered, Progress, Progressed, Record, Thinned,
    Tombstone,
};
use jiff::SignedDuration;
use prometheus_client::registry::Registry;

use super::*;
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{CommandState, NewCommand};
use crate::journal::TripStep;
use crate::journal::sqlite::SqliteJournal;
use crate::live::Phase;
use crate::live::memory::MemoryLive;

struct Site {
    workers: Workers,
    done: mpsc::Receiver<Done>,
    stores: Stores,
    registry: Registry,
    changes: Arc<Changes>,
    robot: RobotId,
    folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| folder.path().join(name);
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&file("catalog")).unwrap());
        let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(&file("journal")).unwrap());
        let live: Arc<dyn Live> = Arc::new(MemoryLive::open(&file("live")).unwrap());
        let secret = Secret::new([7; 32]);
        let robot = catalog.add_robot("a", 7, None, &secret).await.unwrap().id;
        let mut registry = Registry::default();
        let metrics = Arc::new(LinkMetrics::new(&mut registry));
        let changes = Arc::new(Changes::default());
        let stores = Stores::new(&catalog, &journal, &live, &metrics, &changes);
        let (done_tx, done) = mpsc::channel(64);
        Self {
            workers: Workers::new(Clock::start(), stores.clone(), done_tx),
            done,
            stores,
            registry,
            changes,
            robot,
            folder,
        }
    }

    fn store(&mut self, session: u64, first: u64, events: &[Event]) {
        let store = store(session, first, events);
        self.workers.up(self.robot, UpJob::Store(store)).unwrap();
    }

    async fn stored(&mut self) -> (SessionId, Seq, usize) {
        let done = self.done.recv().await.unwrap();
        let Done::Stored(_, session, next, bytes) = done else {
            panic!("{done:?}");
        };
        (session, next, bytes)
    }

    fn metrics(&self) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        page
    }

    #[track_caller]
    fn assert_counted(&self, lines: &[&str]) {
        let page = self.metrics();
        for line in lines {
            assert!(page.lines().any(|found| found == *line), "{line}\n{page}");
        }
    }
}

fn stamp(second: u64) -> Stamp {
    Stamp {
        boot: BootId(1),
        uptime: Uptime::new(Duration::from_secs(second)),
        wall: WallClock(0),
    }
}

fn item(event: &Event) -> Item {
    let record = Record {
        stamp: stamp(1),
        event: event.clone(),
    };
    let covers = record.covers();
    let record = record.encode().unwrap();
    Item { covers, record }
}

fn store(session: u64, first: u64, events: &[Event]) -> Store {
    Store {
        session: SessionId(session),
        epoch: Epoch(1),
        first: Seq(first),
        items: events.iter().map(item).collect(),
        clock: BoardClock {
            boot: BootId(1),
            earliest: 1_790_000_000_000_000,
            latest: 1_790_000_000_000_000,
        },
    }
}

fn command(robot: RobotId, id: CommandId, order: Order) -> NewCommand {
    NewCommand {
        id,
        robot,
        order,
        deadline: Timestamp::UNIX_EPOCH,
        actor: "voice".to_owned(),
        idempotency_key: None,
        submitted: Timestamp::UNIX_EPOCH,
    }
}

fn go_to(place: &str) -> Order {
    Order::GoTo(GoTo {
        pose: Pose {
            x: 1.0,
            y: 2.0,
            theta: None,
        },
        floor: Some(7),
        place: place.to_owned(),
    })
}

/// A trip that was ordered on the board, at the second 1 of its boot.
fn ordered(command: CommandId, place: &str) -> Event {
    Event::Ordered(Ordered {
        command,
        key: None,
        actor: "board".to_owned(),
        time_to_live: Duration::from_secs(60),
        order: go_to(place),
    })
}

fn step(command: CommandId, progress: Progress) -> Event {
    Event::Command(CommandUpdate {
        command,
        progress,
        detail: String::new(),
    })
}

fn sample() -> Event {
    Event::Telemetry(Status::default())
}

#[tokio::test]
async fn runs_that_wait_are_stored_together_up_to_the_end_of_their_session() {
    let mut site = Site::new().await;
    // The worker does not run before the first wait below, so all of these wait for it.
    site.store(1, 1, &[sample(), sample()]);
    site.store(1, 3, &[sample()]);
    site.store(2, 4, &[sample()]);
    site.store(2, 9, &[sample()]);
    let bytes = item(&sample()).record.len();
    assert_eq!(site.stored().await, (SessionId(1), Seq(4), 3 * bytes));
    assert_eq!(site.stored().await, (SessionId(2), Seq(5), bytes));
    let refused = site.done.recv().await.unwrap();
    assert!(
        matches!(refused, Done::StoreFailed(_, SessionId(2), _)),
        "a hole is not joined: {refused:?}"
    );
    let due = site.stores.journal.due(site.robot, Epoch(1)).await;
    assert_eq!(due.unwrap(), Seq(5));
}

#[tokio::test]
async fn a_run_that_the_catalog_refused_reaches_the_ledger_with_the_next_one() {
    let mut site = Site::new().await;
    let (first, second) = (CommandId(1), CommandId(2));
    for id in [first, second] {
        let command = command(site.robot, id, Order::Stop);
        site.stores.catalog.submit(command, true).await.unwrap();
    }
    // The catalog fails between two runs that are queued: the first one cannot be committed.
    let catalog = rusqlite::Connection::open(site.folder.path().join("catalog")).unwrap();
    let refuse = "CREATE TRIGGER away BEFORE INSERT ON applied WHEN new.next = 2
                  BEGIN SELECT raise(ABORT, 'away'); END";
    catalog.execute_batch(refuse).unwrap();
    let done = |command| step(command, Progress::Succeeded);
    // Of two sessions, so that they are not joined.
    site.store(1, 1, &[done(first)]);
    site.store(2, 2, &[done(second)]);
    let refused = site.done.recv().await.unwrap();
    assert!(
        matches!(refused, Done::StoreFailed(_, SessionId(1), _)),
        "{refused:?}"
    );
    let (session, next, _) = site.stored().await;
    assert_eq!((session, next), (SessionId(2), Seq(3)));
    // Both come again, and are no news.
    site.store(2, 1, &[done(first), done(second)]);
    site.stored().await;
    site.assert_counted(&["brrbrr_records_total 2"]);
    for id in [first, second] {
        let (entry, _) = site.stores.catalog.command(id).await.unwrap();
        assert_eq!(entry.state, CommandState::Succeeded, "{id}");
    }
}

#[tokio::test]
async fn holes_are_counted_by_reason() {
    let mut site = Site::new().await;
    let shed = |count, loss| {
        Event::Tombstone(Tombstone {
            count,
            loss,
            since: None,
            until: None,
        })
    };
    let thinned = Event::Thinned(Thinned {
        count: 10,
        since: stamp(0),
        battery: None,
        speed: None,
        last: Status::default(),
    });
    let events = [
        shed(3, Loss::SpoolFull),
        shed(4, Loss::SpoolFull),
        shed(0, Loss::SpoolCorrupt),
        thinned,
    ];
    site.store(1, 1, &events);
    site.stored().await;
    site.assert_counted(&[
        r#"brrbrr_records_shed_total{reason="full"} 7"#,
        r#"brrbrr_records_shed_total{reason="corrupt"} 0"#,
        r#"brrbrr_gaps_total{reason="full"} 2"#,
        r#"brrbrr_gaps_total{reason="corrupt"} 1"#,
        r#"brrbrr_gaps_total{reason="thinned"} 1"#,
        "brrbrr_records_thinned_total 10",
    ]);
}

#[tokio::test]
async fn the_state_of_a_spool_is_kept_and_counted_until_the_robot_is_removed() {
    let mut site = Site::new().await;
    site.store(1, 1, &[sample(), sample()]);
    site.stored().await;
    let report = Report {
        session: SessionId(1),
        sent: Uptime::default(),
        next: Seq(8),
        oldest: None,
        disk: Disk::Failing,
        since: Uptime::default(),
        detail: "input/output error".to_owned(),
    };
    let (robot, live) = (site.robot, Arc::clone(&site.stores.live));
    let job = DownJob::Report(Epoch(1), report.clone());
    site.workers.down(robot, job).unwrap();
    let kept = loop {
        if let Some(spool) = live.spool(robot).await.unwrap() {
            break spool;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((kept.epoch, &kept.report), (Epoch(1), &report));
    site.assert_counted(&[
        r#"brrbrr_robots_disk{state="failing"} 1"#,
        r#"brrbrr_robots_disk{state="short"} 0"#,
        "brrbrr_records_waiting 5",
    ]);
    live.forget(robot).await.unwrap();
    // What is still in work says nothing of it afterwards.
    let job = DownJob::Report(Epoch(1), report);
    site.workers.down(robot, job).unwrap();
    site.workers.dismiss(robot).await;
    site.assert_counted(&["brrbrr_records_waiting 0"]);
    assert_eq!(live.spool(robot).await.unwrap(), None);
}

#[tokio::test]
async fn the_age_of_live_statuses_is_counted_finely_around_a_second() {
    let site = Site::new().await;
    for age in [3, 400, 999, 1_001, 60_000] {
        site.stores.metrics.hear_live(Duration::from_millis(age));
    }
    site.assert_counted(&[
        r#"brrbrr_live_age_seconds_bucket{le="0.005"} 1"#,
        r#"brrbrr_live_age_seconds_bucket{le="0.5"} 2"#,
        r#"brrbrr_live_age_seconds_bucket{le="1.0"} 3"#,
        r#"brrbrr_live_age_seconds_bucket{le="10.0"} 4"#,
        r#"brrbrr_live_age_seconds_bucket{le="+Inf"} 5"#,
    ]);
}

#[tokio::test]
async fn what_the_relay_ended_is_sent_as_withdrawn_and_the_rest_is_marked_as_offered_first() {
    let mut site = Site::new().await;
    let (robot, catalog) = (site.robot, Arc::clone(&site.stores.catalog));
    let ids = [1, 2, 3].map(CommandId);
    for (id, offered) in ids.into_iter().zip([true, false, false]) {
        let command = command(robot, id, Order::Stop);
        catalog.submit(command, offered).await.unwrap();
    }
    let cancel = command(robot, CommandId(9), Order::Stop);
    catalog.cancel(ids[1], cancel, false).await.unwrap();
    let load = DownJob::Load {
        session: SessionId(1),
        from: Seq::FIRST,
    };
    site.workers.down(robot, load).unwrap();
    let loaded = site.done.recv().await.unwrap();
    let Done::Loaded(_, _, _, commands, _) = loaded else {
        panic!("{loaded:?}");
    };
    let orders: Vec<_> = commands.into_iter().map(|command| command.order).collect();
    assert_eq!(orders, [Order::Stop, Order::Withdrawn, Order::Stop]);
    // From here on only the robot can end the third.
    assert_eq!(catalog.expire(Timestamp::MAX, 9).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_done_on_the_board_is_in_the_ledger_the_trip_log_and_the_guidance() {
    let mut site = Site::new().await;
    let (robot, stores) = (site.robot, site.stores.clone());
    let trip = CommandId(5);
    let progressed = Event::Progressed(Progressed {
        command: trip,
        percent: 40,
        text: "on the way".to_owned(),
    });
    let arrived = Event::Arrived(Arrived {
        command: Some(trip),
        pose: None,
    });
    let mut told = site.changes.wait_for(trip).unwrap();
    let begin = [ordered(trip, "로비"), step(trip, Progress::Received)];
    site.store(1, 1, &begin);
    site.stored().await;
    told.changed().await;
    let shown = stores.live.guidance(robot).await.unwrap();
    assert_eq!((shown.phase, shown.trip), (Phase::Moving, Some(trip)));
    assert_eq!(shown.destination.as_deref(), Some("로비"));

    let rest = [
        step(trip, Progress::Running),
        progressed,
        arrived,
        step(trip, Progress::Succeeded),
    ];
    site.store(1, 3, &rest);
    site.stored().await;
    let shown = stores.live.guidance(robot).await.unwrap();
    assert_eq!(shown.phase, Phase::Arrived);
    let (entry, history) = stores.catalog.command(trip).await.unwrap();
    assert_eq!((entry.seq, entry.state), (None, CommandState::Succeeded));
    assert_eq!(entry.progress.map(|progress| progress.percent), Some(40));
    // A second after the boot, as the board's clock says, and a minute to live from there.
    let at = Timestamp::from_second(1_790_000_001).unwrap();
    assert!(history.iter().all(|step| step.at == at), "{history:?}");
    assert_eq!(entry.command.submitted, at);
    let lifetime = entry.command.deadline.duration_since(at);
    assert_eq!(lifetime, SignedDuration::from_secs(60));
    let trips = stores.journal.trips(Some("a"), 9).await.unwrap();
    let trips: Vec<_> = trips.iter().rev().map(|line| line.status).collect();
    assert_eq!(trips, [TripStep::Departed, TripStep::Arrived]);
}

#[tokio::test]
async fn a_trip_of_the_board_that_is_older_than_what_was_ordered_here_is_history() {
    let mut site = Site::new().await;
    let (robot, stores) = (site.robot, site.stores.clone());
    let newer = NewCommand {
        submitted: Timestamp::from_second(1_790_000_005).unwrap(),
        ..command(robot, CommandId(1), go_to("카페"))
    };
    stores.catalog.submit(newer, false).await.unwrap();
    let trip = CommandId(5);
    let events = [ordered(trip, "로비"), step(trip, Progress::Superseded)];
    site.store(1, 1, &events);
    site.stored().await;
    // The guest of the newer trip has finished.
    let shown = stores.live.guidance(robot).await.unwrap();
    assert_eq!((shown.phase, shown.trip), (Phase::Idle, None));
    let (entry, _) = stores.catalog.command(trip).await.unwrap();
    assert_eq!(entry.state, CommandState::Superseded);
}
