//! `/robots/:id/gaps` and `/robots/:id/completeness`: what is missing in what a robot reported, for
//! operators.

use std::sync::Arc;

use brrbrr_proto::id::RobotId;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json};
use super::records::{after, history, limit, range};
use super::robots::PathId;
use crate::journal::history::{GapView, SpoolView};

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let gaps = path!("robots" / PathId / "gaps")
        .and(warp::get())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            finish("GET /robots/:id/gaps", gaps(&services, &call, id.0).await)
        });
    let completeness = path!("robots" / PathId / "completeness")
        .and(warp::get())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            finish(
                "GET /robots/:id/completeness",
                completeness(&services, &call, id.0).await,
            )
        });
    gaps.or(completeness).unify().boxed()
}

/// A page of holes, and how the robot's spool is.
#[derive(Serialize)]
struct Gaps {
    gaps: Vec<GapView>,
    next: Option<String>,
    spool: Option<SpoolView>,
}

async fn gaps(services: &Services, call: &Call, robot: RobotId) -> Result<Response, HttpError> {
    let history = history(services, call, robot).await?;
    let (range, after, limit) = (range(call)?, after(call)?, limit(call)?);
    let page = history.gaps(range, after, limit).await?;
    let spool = services.live.spool(robot).await?;
    let gaps = Gaps {
        gaps: page.items,
        next: page.next.map(|next| next.to_string()),
        spool: spool.map(|spool| history.spool(&spool)),
    };
    Ok(json(serde_json::to_string(&gaps)?))
}

async fn completeness(
    services: &Services,
    call: &Call,
    robot: RobotId,
) -> Result<Response, HttpError> {
    let history = history(services, call, robot).await?;
    let range = range(call)?;
    let spool = services.live.spool(robot).await?;
    let answer = history.completeness(range, spool.as_ref()).await?;
    Ok(json(serde_json::to_string(&answer)?))
}
