//! What the event loop does with news of the building: it has them kept, away from its own thread.

use brrbrr_proto::id::Revision;
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
                    Done::BuildingKept(revision, building.take(revision, content, now).await)
                });
            }
            BuildingNews::Newest(revision) => {
                self.push(
                    async move { Done::BuildingKept(revision, building.confirm(revision).await) },
                );
            }
            BuildingNews::Refused(reason) => {
                warn!(%reason, "the newest building is not to be had");
                building.refuse(&reason);
            }
        }
    }

    /// Nothing waits for it: what could not be written is in memory, and its status says so. What
    /// cannot be used leaves the one before it in use, and the relay must hear of that one.
    pub(super) fn handle_building_kept(
        &mut self,
        revision: Revision,
        outcome: Result<(), CacheError>,
    ) {
        let Err(error) = outcome else { return };
        warn!(%revision, %error, "the building was not kept");
        if matches!(error, CacheError::Unusable(_)) {
            let kept = self.building.kept().map(|kept| kept.revision);
            self.link.reject_building(revision, kept);
        }
    }
}
