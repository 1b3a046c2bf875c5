//! What robots are told of the building: read from the catalog, encoded once for all of them, and
//! read again when it may have changed.

use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::building::{BuildingError, Event, Itself, Place, Shared};
use brrbrr_proto::id::Revision;
use brrbrr_proto::link::relay::BuildingAnswer;
use brrbrr_proto::time::WallClock;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::catalog::{self, Catalog, CatalogError, Happening, Robot};
use crate::wake::Wakeups;

/// How often to look for what another process has changed in the catalog.
pub const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long to wait after a change for more of them: a building is entered place by place.
const SETTLE: Duration = Duration::from_millis(500);

/// What all robots are told, or why they cannot be told; `None` before the first look.
pub type Known = Option<Result<Arc<Shared>, String>>;

/// Why the building is not known.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("encoding the building failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Keeps `known` up to date until it is dropped. It looks when it is told of a change, and `every` so
/// often.
pub async fn watch(
    catalog: Arc<dyn Catalog>,
    wakeups: Arc<Wakeups>,
    every: Duration,
    known: watch::Sender<Known>,
) {
    loop {
        match look(catalog.as_ref()).await {
            Ok(found) => note(&known, found),
            // What was known stays good.
            Err(error) => warn!(%error, "the building cannot be read for the robots"),
        }
        tokio::select! {
            () = wakeups.building_changed() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// What a robot is told that has this revision and wants this part.
#[must_use]
pub fn answer(
    shared: &Shared,
    robot: Robot,
    have: Option<Revision>,
    part: Option<u32>,
) -> BuildingAnswer {
    let itself = Itself {
        name: robot.name,
        floor: robot.floor,
        home: robot.home,
    };
    match shared.of(&itself) {
        Ok(offer) => BuildingAnswer::of(&offer, have, part),
        Err(error) => BuildingAnswer::Refused(error.to_string()),
    }
}

async fn look(catalog: &dyn Catalog) -> Result<Result<Shared, BuildingError>, LookError> {
    let places = catalog.places().await?.into_iter().map(place);
    let places: Vec<_> = places.collect();
    let events: Vec<_> = catalog.happenings().await?.into_iter().map(event).collect();
    // Megabytes are encoded and hashed where nobody waits for it.
    let shared = tokio::task::spawn_blocking(move || Shared::new(&places, &events));
    Ok(shared.await?)
}

fn note(known: &watch::Sender<Known>, found: Result<Shared, BuildingError>) {
    let found = found.map_err(|error| error.to_string());
    known.send_if_modified(|known| {
        let is_same = match (known.as_ref(), &found) {
            (Some(Ok(known)), Ok(found)) => **known == *found,
            (Some(Err(known)), Err(found)) => known == found,
            (Some(_) | None, _) => false,
        };
        if is_same {
            return false;
        }
        match &found {
            Ok(_) => info!("the building has changed"),
            Err(reason) => warn!(reason, "robots keep the building as they know it"),
        }
        *known = Some(found.map(Arc::new));
        true
    });
}

fn place(place: catalog::Place) -> Place {
    let details = place.details;
    Place {
        id: place.id,
        name: details.name,
        aliases: details.aliases,
        floor: details.floor,
        x: details.xaxis,
        y: details.yaxis,
        description: details.description,
        thumburl: details.thumburl,
        mapurl: details.mapurl,
    }
}

fn event(event: Happening) -> Event {
    let details = event.details;
    Event {
        id: event.id,
        name: details.name,
        description: details.description,
        starts: WallClock(details.starttime.as_microsecond()),
        ends: WallClock(details.endtime.as_microsecond()),
        place: details.place_name,
        floor: details.place_floor,
        thumburl: details.thumburl,
    }
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::seal::Secret;

    use super::*;
    use crate::catalog::PlaceDetails;
    use crate::catalog::sqlite::SqliteCatalog;

    fn room(name: &str) -> PlaceDetails {
        PlaceDetails {
            name: name.to_owned(),
            description: None,
            floor: 7,
            xaxis: 1.0,
            yaxis: 2.0,
            thumburl: None,
            mapurl: None,
            aliases: vec!["쉼터".to_owned()],
        }
    }

    #[tokio::test]
    async fn what_changes_in_the_catalog_is_known_soon_and_what_does_not_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&path).unwrap());
        let secret = Secret::new([1; 32]);
        let robot = catalog.add_robot("guide-7", 7, None, &secret).await;
        let robot = robot.unwrap();
        let wakeups = Arc::new(Wakeups::default());
        let (sender, mut known) = watch::channel(None);
        let start = |every, sender| {
            let looks = watch(Arc::clone(&catalog), Arc::clone(&wakeups), every, sender);
            tokio::spawn(looks)
        };
        // It looks by itself so seldom that only a word of the change can be why it does.
        let looks = start(Duration::from_secs(3_600), sender);
        let revision = |known: &Known| {
            let Some(Ok(shared)) = known else {
                panic!("{known:?}")
            };
            match answer(shared, robot.clone(), None, None) {
                BuildingAnswer::Newest(revision) => revision,
                other @ (BuildingAnswer::Part { .. } | BuildingAnswer::Refused(_)) => {
                    panic!("{other:?}")
                }
            }
        };
        known.changed().await.unwrap();
        let empty = revision(&known.borrow_and_update());

        catalog.add_place(room("카페")).await.unwrap();
        wakeups.change_building();
        known.changed().await.unwrap();
        let one = revision(&known.borrow_and_update());
        assert_ne!(empty, one);

        looks.abort();

        // Another process says nothing.
        let (sender, mut known) = watch::channel(None);
        let looks = start(Duration::from_millis(5), sender);
        known.changed().await.unwrap();
        assert_eq!(one, revision(&known.borrow_and_update()));
        catalog.add_place(room("식당")).await.unwrap();
        known.changed().await.unwrap();
        let two = revision(&known.borrow_and_update());
        assert_ne!(one, two);
        // Many looks later nothing has been told that is not new.
        catalog.remove_place(2).await.unwrap();
        known.changed().await.unwrap();
        assert_eq!(one, revision(&known.borrow_and_update()));
        looks.abort();
    }

    #[tokio::test]
    async fn a_building_that_no_robot_could_keep_is_refused_with_the_reason() {
        let (sender, known) = watch::channel(None);
        let place = |id| catalog::Place {
            id,
            details: room("카페"),
        };
        let places: Vec<_> = (0..20_001).map(place).map(super::place).collect();
        note(&sender, Shared::new(&places, &[]));
        let Some(Err(reason)) = known.borrow().clone() else {
            panic!("{known:?}")
        };
        assert!(reason.contains("20001 places"), "{reason}");
    }
}
