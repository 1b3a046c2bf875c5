//! Workers on real stores.

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::seal::Secret;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{CommandUpdate, Event, Item, Loss, Progress, Record, Thinned, Tombstone};
use prometheus_client::registry::Registry;

use super::*;
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{CommandState, NewCommand};
use crate::journal::sqlite::SqliteJournal;
use crate::live::memory::MemoryLive;

struct Site {
    workers: Workers,
    done: mpsc::Receiver<Done>,
    stores: Stores,
    registry: Registry,
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
        let stores = Stores::new(&catalog, &journal, &live, &metrics);
        let (done_tx, done) = mpsc::channel(64);
        Self {
            workers: Workers::new(stores.clone(), done_tx),
            done,
            stores,
            registry,
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
        let command = NewCommand {
            id,
            robot: site.robot,
            order: Order::Stop,
            deadline: Timestamp::UNIX_EPOCH,
            actor: "voice".to_owned(),
            idempotency_key: None,
            submitted: Timestamp::UNIX_EPOCH,
        };
        site.stores.catalog.submit(command).await.unwrap();
    }
    // The catalog fails between two runs that are queued: the first one cannot be committed.
    let catalog = rusqlite::Connection::open(site.folder.path().join("catalog")).unwrap();
    let refuse = "CREATE TRIGGER away BEFORE INSERT ON applied WHEN new.next = 2
                  BEGIN SELECT raise(ABORT, 'away'); END";
    catalog.execute_batch(refuse).unwrap();
    let done = |command| {
        Event::Command(CommandUpdate {
            command,
            progress: Progress::Succeeded,
            detail: String::new(),
        })
    };
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
