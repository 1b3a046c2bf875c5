//! What the event loop does with news of the building: it has them kept, away from its own thread.

use brrbrr_proto::link::gateway::BuildingNews;
use tracing::{info, warn};

use super::{Done, EventLoop};
use crate::building::CacheError;

impl EventLoop {
    pub(super) fn handle_building(&self, news: BuildingNews) {
        let building = self.building.clone();
        match news {
            BuildingNews::Whole(revision, content) => {
                info!(%revision, bytes = content.len(), "the building has changed");
                let now = self.clock.wall();
                self.push(async move {
                    Done::BuildingKept(building.take(revision, content, now).await)
                });
            }
            BuildingNews::Newest => {
                self.push(async move { Done::BuildingKept(building.confirm().await) });
            }
            BuildingNews::Refused(reason) => {
                warn!(%reason, "the newest building is not to be had");
                building.refuse(&reason);
            }
        }
    }
}

/// Nothing waits for it: what could not be written is in memory, and its status says so.
pub(super) fn note(outcome: Result<(), CacheError>) {
    if let Err(error) = outcome {
        warn!(%error, "the building was not kept");
    }
}
