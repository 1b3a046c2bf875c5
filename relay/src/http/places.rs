//! `/places`.

use std::sync::Arc;

use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json, no_content};
use super::guidance;
use crate::catalog::PlaceDetails;
use crate::guide::search::{self, Found};
use crate::guide::view::{Destinations, places_on};
use crate::push::{FaceEvent, Page, tell};

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let list = path!("places").and(warp::get()).and(call(services)).then(
        async |services: Arc<Services>, call: Call| {
            finish("GET /places", list(&services, &call).await)
        },
    );
    let add = path!("places").and(warp::post()).and(call(services)).then(
        async |services: Arc<Services>, call: Call| {
            finish("POST /places", add(&services, &call).await)
        },
    );
    let change = path!("places" / i64)
        .and(warp::put())
        .and(call(services))
        .then(async |id, services: Arc<Services>, call: Call| {
            finish("PUT /places/:id", change(&services, &call, id).await)
        });
    let remove = path!("places" / i64)
        .and(warp::delete())
        .and(call(services))
        .then(async |id, services: Arc<Services>, call: Call| {
            finish("DELETE /places/:id", remove(&services, &call, id).await)
        });
    list.or(add)
        .unify()
        .or(change)
        .unify()
        .or(remove)
        .unify()
        .boxed()
}

async fn list(services: &Services, call: &Call) -> Result<Response, HttpError> {
    let Some(guest) = call.guest(services).await? else {
        let places = services.catalog.places().await?;
        return Ok(json(serde_json::to_string(&places)?));
    };
    let name = call.name()?;
    let places = services.catalog.places().await?;
    let robot = &guest.robot;
    let Some(name) = name else {
        let here = serde_json::to_string(&places_on(&places, robot.floor))?;
        let events = [
            FaceEvent::page(Page::ListOnFloor),
            FaceEvent::places_on_floor(&here),
        ];
        tell(services, robot.id, &events).await;
        return Ok(json(here));
    };
    let found = search::place(&places, robot.floor, &name);
    let destinations = serde_json::to_string(&Destinations::from(&found))?;
    if let Some(place) = found.goal() {
        guidance::send(services, robot, place).await?;
    }
    let events = [
        FaceEvent::destinations(&destinations),
        FaceEvent::page(page_for(&found)),
    ];
    tell(services, robot.id, &events).await;
    Ok(json(destinations))
}

/// The page a face shows for what was found.
pub(super) fn page_for(found: &Found<'_>) -> Page {
    match found.goal() {
        Some(_) => Page::Guide,
        None => Page::Destination,
    }
}

async fn add(services: &Services, call: &Call) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let place = services.catalog.add_place(details(call)?).await?;
    services.wakeups.change_building();
    Ok(json(serde_json::to_string(&place)?))
}

async fn change(services: &Services, call: &Call, id: i64) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let place = services.catalog.change_place(id, details(call)?).await?;
    services.wakeups.change_building();
    Ok(json(serde_json::to_string(&place)?))
}

async fn remove(services: &Services, call: &Call, id: i64) -> Result<Response, HttpError> {
    call.admin(services).await?;
    services.catalog.remove_place(id).await?;
    services.wakeups.change_building();
    Ok(no_content())
}

fn details(call: &Call) -> Result<PlaceDetails, HttpError> {
    let fields = call.fields()?;
    Ok(PlaceDetails {
        name: fields.name("name")?,
        description: fields.description("description")?,
        floor: fields.floor("floor")?,
        xaxis: fields.metres("xaxis")?,
        yaxis: fields.metres("yaxis")?,
        thumburl: fields.url("thumburl")?,
        mapurl: fields.url("mapurl")?,
    })
}
