//! Which web pages may call, and how many faces may connect.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, header};
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};
use tracing::warn;

use super::Services;
use super::call::{AUTH_CODE, IDEMPOTENCY_KEY};
use super::error::HttpError;
use super::places::MATCH;
use crate::config::CorsOrigins;

/// Where Socket.IO lives.
const SOCKETIO: &str = "/socket.io/";
/// How long a browser may remember what it was allowed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The CORS headers. The origin is mirrored and not `*`, because pages with socket.io-client 2.x
/// send their polls with credentials; nothing else may be called with them.
pub(super) fn layer(origins: &CorsOrigins) -> CorsLayer {
    let origin = match origins {
        CorsOrigins::Any => AllowOrigin::mirror_request(),
        CorsOrigins::Only(origins) => {
            AllowOrigin::list(origins.iter().filter_map(|origin| value(origin)))
        }
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_credentials(AllowCredentials::predicate(|_, request| {
            request.uri.path().starts_with(SOCKETIO)
        }))
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allow_headers([
            header::ORIGIN,
            header::ACCEPT,
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            HeaderName::from_static("x-requested-with"),
            HeaderName::from_static(AUTH_CODE),
            HeaderName::from_static(IDEMPOTENCY_KEY),
        ])
        .expose_headers([
            header::RETRY_AFTER,
            header::LOCATION,
            HeaderName::from_static(MATCH),
        ])
        .max_age(MAX_AGE)
}

fn value(origin: &str) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(origin).ok();
    if value.is_none() {
        warn!(origin, "not an origin; no page has it");
    }
    value
}

/// Stands before Socket.IO, whose WebSockets no browser checks for CORS, and whose polling sessions
/// outlive their connections.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    services: Arc<Services>,
}

impl Gate {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    /// Whether a request may go on.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<(), HttpError> {
        if !request.uri().path().starts_with(SOCKETIO) {
            return Ok(());
        }
        let settings = &self.services.settings;
        if let (CorsOrigins::Only(allowed), Some(origin)) = (
            &settings.cors_origins,
            request.headers().get(header::ORIGIN),
        ) && !allowed.iter().any(|a| a.as_bytes() == origin.as_bytes())
        {
            return Err(HttpError::Origin);
        }
        let faces = usize::try_from(self.services.metrics.faces.get()).unwrap_or(0);
        let query = request.uri().query().unwrap_or_default();
        let is_new = !query.split('&').any(|pair| pair.starts_with("sid="));
        if is_new && faces >= settings.max_connections {
            return Err(HttpError::Busy);
        }
        Ok(())
    }
}
