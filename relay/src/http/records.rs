//! `/robots/:id/records`: what a robot reported, for operators. Also what all questions about a
//! robot's history have in common: who may ask, and for which stretch of time.

use std::sync::Arc;

use brrbrr_proto::id::RobotId;
use jiff::Timestamp;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json};
use super::fields::invalid;
use super::robots::PathId;
use crate::journal::history::{History, Place, Range};
use crate::journal::view::{KINDS, RecordView};

/// How many entries an answer has where the caller does not say.
const LIMIT: usize = 100;
/// How many it may have.
const MAX_LIMIT: usize = 1_000;

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    path!("robots" / PathId / "records")
        .and(warp::get())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            finish(
                "GET /robots/:id/records",
                records(&services, &call, id.0).await,
            )
        })
        .boxed()
}

/// A page of records.
#[derive(Serialize)]
struct Records {
    records: Vec<Received>,
    next: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    #[serde(flatten)]
    record: RecordView,
    received_at: Timestamp,
}

async fn records(services: &Services, call: &Call, robot: RobotId) -> Result<Response, HttpError> {
    let history = history(services, call, robot).await?;
    let (range, after, limit) = (range(call)?, after(call)?, limit(call)?);
    let kind = call.parameter("kind")?;
    if kind
        .as_ref()
        .is_some_and(|kind| !KINDS.contains(&kind.as_str()))
    {
        return Err(invalid("kind", "is not a kind of event"));
    }
    let page = history
        .records(range, after, kind.as_deref(), limit)
        .await?;
    let records = page
        .items
        .into_iter()
        .map(|(record, received_at)| Received {
            record,
            received_at,
        });
    let records = Records {
        records: records.collect(),
        next: page.next.map(|next| next.to_string()),
    };
    Ok(json(serde_json::to_string(&records)?))
}

/// The history of a robot, for callers who may read it.
pub(super) async fn history<'a>(
    services: &'a Services,
    call: &Call,
    robot: RobotId,
) -> Result<History<'a>, HttpError> {
    call.admin(services).await?;
    services.catalog.robot(robot).await?;
    Ok(History::of(&*services.journal, robot).await?)
}

/// The stretch of time that the parameters `from` and `to` say.
pub(super) fn range(call: &Call) -> Result<Range, HttpError> {
    let range = Range {
        from: time(call, "from")?,
        to: time(call, "to")?,
    };
    if range.from.zip(range.to).is_some_and(|(from, to)| to < from) {
        return Err(invalid("to", "must not be before from"));
    }
    Ok(range)
}

/// Where the caller wants to go on.
pub(super) fn after(call: &Call) -> Result<Option<Place>, HttpError> {
    let after = call.parameter("after")?;
    let place = after.map(|after| after.parse()).transpose();
    place.map_err(|_| invalid("after", "must be what an earlier answer called next"))
}

/// How many entries the caller wants.
pub(super) fn limit(call: &Call) -> Result<usize, HttpError> {
    let Some(limit) = call.parameter("limit")? else {
        return Ok(LIMIT);
    };
    let limit = limit.parse().ok();
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| invalid("limit", "must be a number from 1 to 1000"))
}

fn time(call: &Call, name: &'static str) -> Result<Option<Timestamp>, HttpError> {
    let Some(text) = call.parameter(name)? else {
        return Ok(None);
    };
    let time = text.parse().map(Some);
    time.map_err(|_| {
        let expected = "must be a time in ISO 8601 with Z or an offset";
        invalid(name, expected)
    })
}
