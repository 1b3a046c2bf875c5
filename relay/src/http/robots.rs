//! `/robots`: the robots, and the session of a guest with one of them.

use std::str::FromStr;
use std::sync::Arc;

use brrbrr_proto::id::RobotId;
use brrbrr_proto::seal::Secret;
use serde_json::json as value;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, enter, finish};
use super::error::{HttpError, json, no_content};
use super::guidance;
use crate::catalog::Robot;
use crate::guide::view::{events_with_places, places_on};
use crate::live::Phase;
use crate::push::{FaceEvent, Page, tell};

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let list = path!("robots").and(warp::get()).and(call(services)).then(
        async |services: Arc<Services>, call: Call| {
            finish("GET /robots", list(&services, &call).await)
        },
    );
    let add = path!("robots").and(warp::post()).and(call(services)).then(
        async |services: Arc<Services>, call: Call| {
            finish("POST /robots", add(&services, &call).await)
        },
    );
    let remove = path!("robots" / PathId)
        .and(warp::delete())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            finish("DELETE /robots/:id", remove(&services, &call, id.0).await)
        });
    let init = path!("robots" / "init")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("GET /robots/init", init(&services, &call).await)
        });
    list.or(add)
        .unify()
        .or(remove)
        .unify()
        .or(init)
        .unify()
        .or(session_routes(services))
        .unify()
        .boxed()
}

fn session_routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let auth = path!("robots" / "auth")
        .and(warp::post())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("POST /robots/auth", auth(&services, &call).await)
        });
    let arrived = path!("robots" / "arrived")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("GET /robots/arrived", arrived(&services, &call).await)
        });
    let stop = path!("robots" / "stop")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("GET /robots/stop", stop(&services, &call).await)
        });
    let finished = path!("robots" / "finished")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("GET /robots/finished", finished(&services, &call).await)
        });
    auth.or(arrived)
        .unify()
        .or(stop)
        .unify()
        .or(finished)
        .unify()
        .boxed()
}

/// A robot's id in a path. What is not one is no robot's, so the route is not found.
#[derive(Debug)]
pub(super) struct PathId(pub(super) RobotId);

impl FromStr for PathId {
    type Err = brrbrr_proto::id::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

async fn list(services: &Services, call: &Call) -> Result<Response, HttpError> {
    call.guest(services).await?;
    let robots = services.catalog.robots().await?;
    Ok(json(serde_json::to_string(&robots)?))
}

async fn add(services: &Services, call: &Call) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let fields = call.fields()?;
    let (name, floor) = (fields.name("name")?, fields.floor("floor")?);
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| {
        warn!(%error, "the operating system gives no random numbers");
        HttpError::Internal
    })?;
    let secret = Secret::new(secret);
    let robot = services
        .catalog
        .add_robot(&name, floor, None, &secret)
        .await?;
    // A code that cannot be drawn now is drawn when it is first asked for.
    if let Err(error) = services.live.code(robot.id).await {
        warn!(robot = %robot.id, %error, "no code drawn yet");
    }
    Ok(json(serde_json::to_string(&robot)?))
}

async fn remove(services: &Services, call: &Call, id: RobotId) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let _turn = services.turns.take(id).await;
    services.catalog.remove_robot(id).await?;
    tell(services, id, &[FaceEvent::error("the robot was removed")]).await;
    match services.removed.try_send(id) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
            warn!(robot = %id, "the removed robot keeps its connection until it ends by itself");
        }
    }
    // Its code is dead already, since codes of robots that are not in the catalog count as wrong.
    if let Err(error) = services.live.forget(id).await {
        warn!(robot = %id, %error, "live state of a removed robot is kept");
    }
    Ok(no_content())
}

/// Gives every robot a new code and forgets what each was doing. Faces stay connected, and bound to
/// their robots, and are told the new code.
async fn init(services: &Services, call: &Call) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let mut turns = Vec::new();
    let robots = services.catalog.robots().await?;
    for robot in &robots {
        turns.push(services.turns.take(robot.id).await);
    }
    let faces = services.live.faces().await?;
    services.live.reset().await?;
    for robot in robots {
        let code = services.live.code(robot.id).await?;
        let face = faces.iter().find(|(bound, _)| *bound == robot.id);
        let Some((_, face)) = face.filter(|(_, face)| services.push.is_connected(face)) else {
            continue;
        };
        services.live.bind(robot.id, face).await?;
        tell(services, robot.id, &[FaceEvent::auth_code(code)]).await;
    }
    drop(turns);
    Ok(no_content())
}

async fn auth(services: &Services, call: &Call) -> Result<Response, HttpError> {
    // Its turn ends here: the code in the body may be the same robot's.
    drop(call.guest(services).await?);
    let typed = call.fields()?.typed_code("inputAuthenticationCode")?;
    let Some(guest) = enter(services, call.peer, &typed).await? else {
        return Ok(json(value!({ "isAuthenticated": false }).to_string()));
    };
    let robot = &guest.robot;
    tell(services, robot.id, &[FaceEvent::page(Page::Service)]).await;
    // Written by hand for its order of keys.
    let floor = robot.floor;
    Ok(json(format!(
        r#"{{"isAuthenticated":true,"floor":{floor}}}"#
    )))
}

async fn arrived(services: &Services, call: &Call) -> Result<Response, HttpError> {
    let guest = call.required_guest(services).await?;
    let robot = &guest.robot;
    let is_arrived = services.live.guidance(robot.id).await?.phase == Phase::Arrived;
    if is_arrived {
        let told = [
            FaceEvent::page(Page::Destination),
            FaceEvent::page_misspelt(Page::Destination),
        ];
        tell(services, robot.id, &told).await;
    }
    Ok(json(value!({ "isArrived": is_arrived }).to_string()))
}

async fn stop(services: &Services, call: &Call) -> Result<Response, HttpError> {
    let guest = call.required_guest(services).await?;
    let robot = &guest.robot;
    let told = stopped_events(services, robot).await?;
    guidance::stop(services, robot).await?;
    tell(services, robot.id, &told).await;
    Ok(no_content())
}

/// What a face is told when its robot stops.
pub(super) async fn stopped_events(
    services: &Services,
    robot: &Robot,
) -> Result<Vec<FaceEvent>, HttpError> {
    let places = services.catalog.places().await?;
    let events = services.catalog.happenings().await?;
    Ok(vec![
        FaceEvent::page(Page::ListOnFloor),
        FaceEvent::places_on_floor(&serde_json::to_string(&places_on(&places, robot.floor))?),
        FaceEvent::events_opened(&serde_json::to_string(&events_with_places(
            &events, &places,
        ))?),
    ])
}

async fn finished(services: &Services, call: &Call) -> Result<Response, HttpError> {
    let guest = call.required_guest(services).await?;
    let code = guidance::finish(services, &guest.robot).await?;
    let told = [FaceEvent::page(Page::Welcome), FaceEvent::auth_code(code)];
    tell(services, guest.robot.id, &told).await;
    Ok(json(value!({ "isAuthenticated": false }).to_string()))
}
