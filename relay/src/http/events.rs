//! `/events`: happenings in the building.

use std::sync::Arc;

use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json, no_content};
use super::fields::invalid;
use super::guidance;
use super::places::{noted, page_for};
use crate::catalog::HappeningDetails;
use crate::guide::search;
use crate::guide::view::{Destinations, EventView, events_with_places};
use crate::push::{FaceEvent, Page, tell};

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let list = path!("events").and(warp::get()).and(call(services)).then(
        async |services: Arc<Services>, call: Call| {
            finish("GET /events", list(&services, &call).await)
        },
    );
    let add = path!("events").and(warp::post()).and(call(services)).then(
        async |services: Arc<Services>, call: Call| {
            finish("POST /events", add(&services, &call).await)
        },
    );
    let remove = path!("events" / i64)
        .and(warp::delete())
        .and(call(services))
        .then(async |id, services: Arc<Services>, call: Call| {
            finish("DELETE /events/:id", remove(&services, &call, id).await)
        });
    list.or(add).unify().or(remove).unify().boxed()
}

async fn list(services: &Services, call: &Call) -> Result<Response, HttpError> {
    let Some(guest) = call.guest(services).await? else {
        let events = services.catalog.happenings().await?;
        let events: Vec<_> = events.iter().map(EventView::plain).collect();
        return Ok(json(serde_json::to_string(&events)?));
    };
    let name = call.name()?;
    let events = services.catalog.happenings().await?;
    let places = services.catalog.places().await?;
    let robot = &guest.robot;
    let Some(name) = name else {
        let opened = serde_json::to_string(&events_with_places(&events, &places))?;
        let told = [
            FaceEvent::page(Page::ListOnFloor),
            FaceEvent::events_opened(&opened),
        ];
        tell(services, robot.id, &told).await;
        return Ok(json(opened));
    };
    let answer = search::event(&events, &places, robot.floor, &name);
    let found = &answer.found;
    let destinations = serde_json::to_string(&Destinations::from(found))?;
    if let Some(place) = found.goal() {
        guidance::send(services, robot, place).await?;
    }
    let told = [
        FaceEvent::page(page_for(found)),
        FaceEvent::destinations(&destinations),
    ];
    tell(services, robot.id, &told).await;
    noted(json(destinations), answer.inexact.as_ref())
}

async fn add(services: &Services, call: &Call) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let event = services.catalog.add_happening(details(call)?).await?;
    services.wakeups.change_building();
    Ok(json(serde_json::to_string(&EventView::plain(&event))?))
}

async fn remove(services: &Services, call: &Call, id: i64) -> Result<Response, HttpError> {
    call.admin(services).await?;
    services.catalog.remove_happening(id).await?;
    services.wakeups.change_building();
    Ok(no_content())
}

fn details(call: &Call) -> Result<HappeningDetails, HttpError> {
    let fields = call.fields()?;
    let details = HappeningDetails {
        name: fields.name("name")?,
        description: fields.description("description")?,
        starttime: fields.time("starttime")?,
        endtime: fields.time("endtime")?,
        place_name: fields.name("placeName")?,
        place_floor: fields.floor("placeFloor")?,
        thumburl: fields.url("thumburl")?,
    };
    if details.endtime < details.starttime {
        return Err(invalid("endtime", "must not be before starttime"));
    }
    Ok(details)
}
