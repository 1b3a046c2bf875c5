//! Ends commands that no robot was ever sent, when their time has passed. Everything else about a
//! command is the robot's to say.
//!
//! The ledger decides which those are, so several relays on one ledger may do this at once.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::catalog::{Catalog, CatalogError, LedgerEntry};
use crate::changes::Changes;
use crate::clock::calendar;
use crate::guide;
use crate::live::Live;
use crate::session::metrics::{LinkMetrics, StepLabel};

/// Commands that are ended in one transaction, so that other work is not kept waiting.
const GROUP: usize = 256;
/// How often the ledger is asked when the next time passes: another relay may have entered commands,
/// and the calendar may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What ends commands, and what is told of it.
#[derive(Debug, Clone)]
pub struct Endings {
    catalog: Arc<dyn Catalog>,
    live: Arc<dyn Live>,
    changes: Arc<Changes>,
    metrics: Arc<LinkMetrics>,
}

impl Endings {
    /// Ends commands of this ledger.
    #[must_use]
    pub fn new(
        catalog: &Arc<dyn Catalog>,
        live: &Arc<dyn Live>,
        changes: &Arc<Changes>,
        metrics: &Arc<LinkMetrics>,
    ) -> Self {
        Self {
            catalog: Arc::clone(catalog),
            live: Arc::clone(live),
            changes: Arc::clone(changes),
            metrics: Arc::clone(metrics),
        }
    }

    /// Runs until `stop` resolves.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let pause = match self.expire_due().await {
                Ok(pause) => pause.min(LOOK_AGAIN),
                Err(error) => {
                    warn!(%error, "commands whose time has passed are not ended yet");
                    LOOK_AGAIN
                }
            };
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(pause) => {}
                () = self.changes.entered() => {}
            }
        }
    }

    /// Ends what is due, and says how long nothing else will be.
    async fn expire_due(&self) -> Result<Duration, CatalogError> {
        loop {
            // Looking takes no sync; nearly always nothing is due.
            let Some(next) = self.catalog.next_expiry().await? else {
                return Ok(LOOK_AGAIN);
            };
            let now = calendar();
            let pause = Duration::try_from(next.duration_since(now)).unwrap_or_default();
            if !pause.is_zero() {
                return Ok(pause);
            }
            for entry in self.catalog.expire(now, GROUP).await? {
                self.tell(&entry).await;
            }
        }
    }

    /// A command was ended by this relay: says so to all whom it concerns.
    pub async fn tell(&self, entry: &LedgerEntry) {
        let (robot, command, state) = (entry.command.robot, entry.command.id, entry.state);
        info!(%robot, %command, ?state, "command ended before it was sent");
        let state = state.name();
        let steps = &self.metrics.command_steps;
        steps.get_or_create(&StepLabel { state }).inc();
        if let Some(phase) = guide::phase_after(entry)
            && let Err(error) = self.live.advance(robot, command, phase).await
        {
            warn!(%robot, %error, "end of the trip not shown");
        }
        self.changes.tell(command);
    }
}
