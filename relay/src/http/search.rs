//! `/searchs`: a place or an event by its name. The historical spelling is part of the contract.

use std::sync::Arc;

use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json};
use super::guidance;
use super::places::page_for;
use crate::guide::search;
use crate::guide::view::{Destinations, SearchView};
use crate::push::{FaceEvent, tell};

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    path!("searchs")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("GET /searchs", find(&services, &call).await)
        })
        .boxed()
}

async fn find(services: &Services, call: &Call) -> Result<Response, HttpError> {
    let guest = call.required_guest(services).await?;
    let name = call.name()?.ok_or(HttpError::NoQuery)?;
    let places = services.catalog.places().await?;
    let events = services.catalog.happenings().await?;
    let robot = &guest.robot;
    let answer = search::anything(&places, &events, robot.floor, &name);
    let found = &answer.found;
    let destinations = Destinations::from(found);
    let view = SearchView::new(found, &destinations, answer.inexact.as_ref());
    let answered = serde_json::to_string(&view)?;
    let destinations = serde_json::to_string(&destinations)?;
    if let Some(place) = found.goal() {
        guidance::send(services, robot, place).await?;
    }
    let told = [
        FaceEvent::destinations(&destinations),
        FaceEvent::page(page_for(found)),
    ];
    tell(services, robot.id, &told).await;
    Ok(json(answered))
}
