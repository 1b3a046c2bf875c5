//! Keeps in the live store which robots are in contact. The driver says what has changed and goes on;
//! a task of its own writes all that is new together, and tries again while the store is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::live::{Live, Presence, Result};

/// How often the relay writes that it is alive. After a crash robots are out of contact since then.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// The pause after which a store that is away is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be written. See the module's documentation.
#[derive(Debug)]
pub struct Contacts {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    news: Mutex<News>,
    changed: Notify,
}

/// Conflated: at most one of each for a robot.
#[derive(Debug, Default)]
struct News {
    changes: BTreeMap<RobotId, Presence>,
    alive: Option<(Timestamp, Vec<(RobotId, Timestamp)>)>,
    is_over: bool,
}

impl Contacts {
    /// Starts the task that writes.
    #[must_use]
    pub fn start(live: Arc<dyn Live>) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(Arc::clone(&shared), live));
        Self { shared, task }
    }

    /// A robot's contact has changed.
    pub fn note(&self, robot: RobotId, presence: Presence) {
        lock(&self.shared).changes.insert(robot, presence);
        self.shared.changed.notify_one();
    }

    /// The relay is alive, and robots were last heard at these moments.
    pub fn note_alive(&self, at: Timestamp, heard: Vec<(RobotId, Timestamp)>) {
        lock(&self.shared).alive = Some((at, heard));
        self.shared.changed.notify_one();
    }

    /// A robot is to be forgotten.
    pub fn forget(&self, robot: RobotId) {
        lock(&self.shared).changes.remove(&robot);
    }

    /// Writes what is left and ends.
    pub async fn finish(self) {
        lock(&self.shared).is_over = true;
        self.shared.changed.notify_one();
        if let Err(panic) = self.task.await {
            warn!(%panic, "contacts are not kept");
        }
    }
}

impl Shared {
    /// What could not be written is to be written, where there is nothing newer.
    fn take_back(&self, changes: BTreeMap<RobotId, Presence>) {
        let mut news = lock(self);
        for (robot, presence) in changes {
            news.changes.entry(robot).or_insert(presence);
        }
    }
}

async fn run(shared: Arc<Shared>, live: Arc<dyn Live>) {
    let mut is_away = false;
    loop {
        let (changes, alive, is_over) = {
            let mut news = lock(&shared);
            let changes = std::mem::take(&mut news.changes);
            (changes, news.alive.take(), news.is_over)
        };
        match write(&*live, &changes, alive).await {
            Ok(()) => {
                if std::mem::take(&mut is_away) {
                    info!("contacts are kept again");
                }
                if is_over {
                    return;
                }
                shared.changed.notified().await;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    warn!(%error, "contacts are shown but not kept");
                }
                if is_over {
                    return;
                }
                shared.take_back(changes);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn write(
    live: &dyn Live,
    changes: &BTreeMap<RobotId, Presence>,
    alive: Option<(Timestamp, Vec<(RobotId, Timestamp)>)>,
) -> Result<()> {
    if !changes.is_empty() {
        let changes = changes.iter().map(|(robot, presence)| (*robot, *presence));
        live.note_contacts(changes.collect()).await?;
    }
    if let Some((at, heard)) = alive {
        live.keep_alive(at, heard).await?;
    }
    Ok(())
}

fn lock(shared: &Shared) -> MutexGuard<'_, News> {
    // Nothing panics while it holds the lock.
    shared.news.lock().unwrap_or_else(PoisonError::into_inner)
}
