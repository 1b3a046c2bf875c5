//! What surrounds every request: its limits in size, time and number, the counters, and the promise
//! that what was begun is finished, though the caller hangs up, and fails alone when it panics.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt;
use tracing::error;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::call::{AUTH_CODE, Call, Route};
use super::error::HttpError;
use super::{Services, commands, events, gaps, health, places, records, robots, search, status};

/// The largest body. The largest record of the contract has some kilobytes.
const MAX_BODY: usize = 1024 * 1024;
/// Requests that are under way at a time, and so the memory that their bodies take. More than the
/// queue of a store, so that a store that stops is what callers hear of.
const MAX_REQUESTS: u32 = 1536;

/// The address at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// An answer that may come much later than a request may take. It is waited for without a place
/// among the requests, ends when the caller hangs up, and must itself take care to end with the relay.
#[derive(Clone)]
pub(super) struct Later(Arc<Mutex<Option<BoxFuture<'static, Response>>>>);

impl Later {
    /// What a route returns in place of the answer.
    pub(super) fn response(answer: impl Future<Output = Response> + Send + 'static) -> Response {
        let mut response = Response::default();
        let later = Self(Arc::new(Mutex::new(Some(Box::pin(answer)))));
        response.extensions_mut().insert(later);
        response
    }

    /// The answer itself, which is nearly always this one.
    async fn of(mut response: Response) -> Response {
        let later = response.extensions_mut().remove::<Self>();
        // Nobody else has it, so a panic elsewhere does not matter.
        let answer = later.and_then(|later| {
            let mut answer = later.0.lock().unwrap_or_else(PoisonError::into_inner);
            answer.take()
        });
        match answer {
            Some(answer) => answer.await,
            None => response,
        }
    }
}

/// Answers everything but Socket.IO.
#[derive(Clone)]
pub(super) struct Front {
    services: Arc<Services>,
    routes: BoxedFilter<(Response,)>,
    requests: Requests,
}

/// The requests that are under way.
#[derive(Clone)]
pub(super) struct Requests(Arc<Semaphore>);

impl Requests {
    /// Waits until none is under way, and lets none begin.
    pub(super) async fn finish(&self) {
        if let Ok(all) = self.0.acquire_many(MAX_REQUESTS).await {
            all.forget();
        }
    }
}

impl Front {
    pub(super) fn new(services: Arc<Services>) -> Self {
        let requests = usize::try_from(MAX_REQUESTS).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            routes: routes(&services),
            services,
            requests: Requests(Arc::new(Semaphore::new(requests))),
        }
    }

    pub(super) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Answers a request.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let began = Instant::now();
        let deadline = began + self.services.settings.request_limit;
        let response = self.answer_by(request, deadline).await;
        let response = response.unwrap_or_else(HttpError::into_response);
        let route = response.extensions().get::<Route>();
        let route = route.map_or("none", |route| route.0);
        // What a caller wants to wait for says nothing about how fast this relay is.
        let took = began.elapsed();
        let response = Later::of(response).await;
        let status = response.status().as_u16();
        let metrics = &self.services.metrics;
        metrics.answered(route, status, took);
        Ok(response)
    }

    async fn answer_by(
        &self,
        request: Request<Incoming>,
        deadline: Instant,
    ) -> Result<Response, HttpError> {
        let permit = Arc::clone(&self.requests.0).try_acquire_owned();
        let permit = permit.map_err(|_| HttpError::Busy)?;
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>();
        let Peer(peer) = *peer.ok_or(HttpError::Internal)?;
        let body = timeout_at(deadline, read(body)).await;
        let body = body.map_err(|_| HttpError::Slow)??;
        // Not with a code, which makes a GET do something.
        if parts.method == Method::HEAD && !parts.headers.contains_key(AUTH_CODE) {
            parts.method = Method::GET;
        }
        let call = Call::new(peer, &parts, body);
        parts.extensions.insert(call);
        let request = Request::from_parts(parts, Empty::<Bytes>::new());
        let routes = warp::service(self.routes.clone());
        let work = async move {
            let answered = routes.oneshot(request).await;
            drop(permit);
            answered.unwrap_or_else(|never| match never {})
        };
        detached(work, deadline).await
    }
}

/// Runs work that goes on when nobody waits for it any more, and fails alone.
async fn detached(
    work: impl Future<Output = Response> + Send + 'static,
    deadline: Instant,
) -> Result<Response, HttpError> {
    match timeout_at(deadline, tokio::spawn(work)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(panic)) => {
            error!(%panic, "a request failed");
            Err(HttpError::Internal)
        }
        Err(_) => Err(HttpError::Late),
    }
}

async fn read(body: Incoming) -> Result<Bytes, HttpError> {
    if body.size_hint().lower() > u64::try_from(MAX_BODY).unwrap_or(u64::MAX) {
        return Err(HttpError::TooLarge { limit: MAX_BODY });
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(HttpError::TooLarge { limit: MAX_BODY })
        }
        Err(_) => Err(HttpError::BrokenBody),
    }
}

fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let resources = places::routes(services)
        .or(events::routes(services))
        .unify()
        .or(search::routes(services))
        .unify()
        .or(robots::routes(services))
        .unify()
        .or(records::routes(services))
        .unify()
        .or(gaps::routes(services))
        .unify()
        .or(status::routes(services))
        .unify()
        .or(commands::routes(services))
        .unify();
    warp::path("api")
        .and(warp::path("v1"))
        .and(resources)
        .or(health::routes(services))
        .unify()
        .recover(async |rejection| Ok::<_, Infallible>(refusal(&rejection)))
        .unify()
        .boxed()
}

fn refusal(rejection: &Rejection) -> Response {
    let error = if rejection.is_not_found() {
        HttpError::NoRoute
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        HttpError::Method
    } else {
        error!(?rejection, "a request was rejected for no reason of ours");
        HttpError::Internal
    };
    error.into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_fails_alone() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let failed = detached(async { panic!("on purpose") }, deadline).await;
        assert_eq!(failed.unwrap_err().into_response().status(), 500);
        let done = detached(async { Response::default() }, deadline).await;
        assert_eq!(done.unwrap().status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_too_long_is_answered_and_still_done() {
        let (go, gone) = oneshot::channel();
        let (finished, is_finished) = oneshot::channel();
        let work = async move {
            gone.await.unwrap();
            finished.send(()).unwrap();
            Response::default()
        };
        let late = detached(work, Instant::now() + Duration::from_secs(10)).await;
        assert_eq!(late.unwrap_err().into_response().status(), 503);
        go.send(()).unwrap();
        is_finished.await.unwrap();
    }
}
