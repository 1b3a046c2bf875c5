//! The HTTP contract of voice capsules, pages and admins, and Socket.IO, on one port.
//!
//! A request passes, from outside in: the connection's limits (`connections`), the check of a page's
//! origin, CORS, Socket.IO, the request's limits (`front`), the routes (one resource a file).

use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt};
use tracing::warn;

use crate::catalog::Catalog;
use crate::changes::Changes;
use crate::config::{AdminToken, CorsOrigins};
use crate::endings::Endings;
use crate::journal::Journal;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::push::Push;
use crate::push::socketio::Faces;
use crate::wake::Wakeups;
use connections::Bounds;
use cors::Gate;
use front::Front;
use turns::Turns;

mod call;
mod commands;
mod connections;
mod cors;
mod error;
mod events;
mod fields;
mod front;
mod gaps;
mod guidance;
mod health;
mod places;
mod query;
mod records;
mod robots;
mod search;
pub mod status;
pub mod turns;

/// How long a robot waits for its face to come back. Longer than a page takes to load again, and
/// than Socket.IO's own pauses between attempts.
pub const FACE_GRACE: Duration = Duration::from_secs(30);
/// How long a request may take, its body and its answer.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Open connections: some thousand faces, and as many callers.
pub const MAX_CONNECTIONS: usize = 8192;
/// How long shutting down waits for requests that are under way.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What every route needs.
#[derive(Debug)]
pub struct Services {
    /// Places, events, robots and the ledger.
    pub catalog: Arc<dyn Catalog>,
    /// Codes, faces and guidance.
    pub live: Arc<dyn Live>,
    /// The trip log, and what robots reported.
    pub journal: Arc<dyn Journal>,
    /// Faces.
    pub push: Push,
    /// Robots with a new order.
    pub wakeups: Arc<Wakeups>,
    /// Whoever waits for a command.
    pub changes: Arc<Changes>,
    /// What ends commands that were never sent.
    pub endings: Endings,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Robots that were removed, for whoever holds their session.
    pub removed: mpsc::Sender<RobotId>,
    /// One thing at a time for each robot.
    pub turns: Turns,
    /// What can be configured.
    pub settings: Settings,
}

/// What can be configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether writes need no admin token.
    pub legacy_open: bool,
    /// What admins show; without one, nobody is an admin.
    pub admin_token: Option<AdminToken>,
    /// Which web pages may call.
    pub cors_origins: CorsOrigins,
    /// See [`FACE_GRACE`].
    pub face_grace: Duration,
    /// See [`REQUEST_LIMIT`].
    pub request_limit: Duration,
    /// See [`MAX_CONNECTIONS`].
    pub max_connections: usize,
    /// See [`DRAIN_LIMIT`].
    pub drain_limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            legacy_open: false,
            admin_token: None,
            cors_origins: CorsOrigins::Any,
            face_grace: FACE_GRACE,
            request_limit: REQUEST_LIMIT,
            max_connections: MAX_CONNECTIONS,
            drain_limit: DRAIN_LIMIT,
        }
    }
}

/// Serves until `shutdown` resolves, and then finishes the requests that are under way.
pub async fn serve(
    listener: TcpListener,
    services: Arc<Services>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let settings = &services.settings;
    let bounds = Bounds {
        connections: settings.max_connections,
        drain_limit: settings.drain_limit,
    };
    if let Err(error) = guidance::take_up(&services).await {
        warn!(?error, "guidance may be that of an earlier trip");
    }
    let (faces, socketio) = Faces::start(Arc::clone(&services)).await;
    let freeing = tokio::spawn(async move { faces.run().await });
    let front = Front::new(Arc::clone(&services));
    let requests = front.requests();
    let routes = tower::service_fn(move |request| front.clone().answer(request));
    let stack = cors::layer(&settings.cors_origins).layer(socketio.layer(routes));
    let gate = Gate::new(Arc::clone(&services));
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let (stack, admitted) = (stack.clone(), gate.admit(&request));
        async move {
            match admitted {
                Ok(()) => stack.oneshot(request).await.map(connections::boxed),
                Err(refused) => Ok(connections::boxed(refused.into_response())),
            }
        }
    });
    let finish = async {
        services.changes.close();
        requests.finish().await;
        services.push.close().await;
    };
    let metrics = Arc::clone(&services.metrics);
    connections::serve(listener, service, bounds, metrics, shutdown, finish).await;
    freeing.abort();
}
