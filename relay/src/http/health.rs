//! `/healthz`, `/readyz` and `/metrics`, for whoever runs the relay.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::json as value;
use tracing::warn;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, answer, json};

/// How long a store may take to answer and still count as there.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// What Prometheus reads.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let alive = path!("healthz").and(warp::get()).then(async || {
        let alive = value!({ "status": "ok" });
        finish("GET /healthz", Ok(json(alive.to_string())))
    });
    let ready = path!("readyz").and(warp::get()).and(call(services)).then(
        async |services: Arc<Services>, _: Call| finish("GET /readyz", Ok(ready(&services).await)),
    );
    let metrics = path!("metrics")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, _: Call| finish("GET /metrics", metrics(&services)));
    alive.or(ready).unify().or(metrics).unify().boxed()
}

async fn ready(services: &Services) -> Response {
    let catalog = answers(async { services.catalog.robots().await.map(drop) });
    let live = answers(async { services.live.faces().await.map(drop) });
    let journal = answers(async { services.journal.trips(None, 1).await.map(drop) });
    let (catalog, live, journal) = tokio::join!(catalog, live, journal);
    let is_ready = catalog && live && journal;
    let word = |answers| if answers { "ok" } else { "away" };
    let stores = value!({
        "catalog": word(catalog),
        "journal": word(journal),
        "live": word(live),
    });
    let mut response = json(value!({ "ready": is_ready, "stores": stores }).to_string());
    if !is_ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn answers<E: std::fmt::Display>(call: impl Future<Output = Result<(), E>>) -> bool {
    match tokio::time::timeout(STORE_PATIENCE, call).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(%error, "not ready");
            false
        }
        Err(_) => false,
    }
}

fn metrics(services: &Services) -> Result<Response, HttpError> {
    match services.metrics.page() {
        Ok(page) => Ok(answer(StatusCode::OK, TEXT, page)),
        Err(error) => {
            warn!(%error, "the metrics page cannot be written");
            Err(HttpError::Internal)
        }
    }
}
