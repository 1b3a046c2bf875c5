//! `/places`.

use std::sync::Arc;

use brrbrr_proto::names::Inexact;
use http::HeaderValue;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json, no_content};
use super::guidance;
use super::query::percent_encoded;
use crate::catalog::{Aliases, PlaceDetails};
use crate::guide::search::{self, Found};
use crate::guide::view::{Destinations, places_on};
use crate::push::{FaceEvent, Page, tell};

/// The header that says how a name was found, where it was not exactly: the JSON that `/searchs` has in
/// its field `match`, percent-encoded.
pub(super) const MATCH: &str = "x-brrbrr-match";

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
    let answer = search::place(&places, robot.floor, &name);
    let found = &answer.found;
    let destinations = serde_json::to_string(&Destinations::from(found))?;
    if let Some(place) = found.goal() {
        guidance::send(services, robot, place).await?;
    }
    let events = [
        FaceEvent::destinations(&destinations),
        FaceEvent::page(page_for(found)),
    ];
    tell(services, robot.id, &events).await;
    noted(json(destinations), answer.inexact.as_ref())
}

/// Says in a header that a name was not found exactly: a list has no room for it.
pub(super) fn noted(mut list: Response, inexact: Option<&Inexact>) -> Result<Response, HttpError> {
    if let Some(inexact) = inexact {
        let document = percent_encoded(&serde_json::to_string(inexact)?);
        let value = HeaderValue::try_from(document).map_err(|_| HttpError::Internal)?;
        list.headers_mut().insert(MATCH, value);
    }
    Ok(list)
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
    let (details, _) = details(call)?;
    let place = services.catalog.add_place(details).await?;
    services.wakeups.change_building();
    Ok(json(serde_json::to_string(&place)?))
}

async fn change(services: &Services, call: &Call, id: i64) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let (details, aliases) = details(call)?;
    let place = services.catalog.change_place(id, details, aliases).await?;
    services.wakeups.change_building();
    Ok(json(serde_json::to_string(&place)?))
}

async fn remove(services: &Services, call: &Call, id: i64) -> Result<Response, HttpError> {
    call.admin(services).await?;
    services.catalog.remove_place(id).await?;
    services.wakeups.change_building();
    Ok(no_content())
}

/// What the body says. Aliases are kept where it says nothing of them: older clients do not know the
/// field, and an empty list removes them.
fn details(call: &Call) -> Result<(PlaceDetails, Aliases), HttpError> {
    let fields = call.fields()?;
    let aliases = fields.aliases("aliases")?;
    let change = match &aliases {
        Some(_) => Aliases::Replaced,
        None => Aliases::Kept,
    };
    let details = PlaceDetails {
        name: fields.name("name")?,
        description: fields.description("description")?,
        floor: fields.floor("floor")?,
        xaxis: fields.metres("xaxis")?,
        yaxis: fields.metres("yaxis")?,
        thumburl: fields.url("thumburl")?,
        mapurl: fields.url("mapurl")?,
        aliases: aliases.unwrap_or_default(),
    };
    Ok((details, change))
}
