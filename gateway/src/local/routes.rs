//! Which request is answered by what.

use std::sync::Arc;

use brrbrr_proto::id::RobotId;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::sync::{Semaphore, mpsc};

use super::answer::{Answer, Refusal, json, respond};
use super::events::{self, Posted};
use super::guard::Guard;
use super::metrics::metrics;
use super::{commands, places};
use crate::board_commands::BoardCommands;
use crate::building::BuildingCache;
use crate::clock::Clock;
use crate::status::{Snapshot, StatusBoard};

/// Callers that wait for the end of a command at a time, on all sockets together. They hold
/// connections, and others are to find some free.
const WAITERS: usize = 32;

/// What the routes work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// This robot.
    pub robot: RobotId,
    /// What the enrolment calls it, and its floor.
    pub enrolled: (String, i32),
    /// How things stand.
    pub board: StatusBoard,
    /// Where events go.
    pub posts: mpsc::Sender<Posted>,
    /// Where commands go, and are looked up.
    pub commands: BoardCommands,
    /// What is known of the building.
    pub building: BuildingCache,
    /// The board's clocks.
    pub clock: Clock,
    /// Places for callers that wait.
    pub waiters: Waiters,
}

/// Places for callers that wait for the end of a command.
#[derive(Debug, Clone)]
pub struct Waiters(pub(super) Arc<Semaphore>);

impl Default for Waiters {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITERS)))
    }
}

pub(super) async fn answer(
    request: Request<Incoming>,
    guard: &Guard,
    services: &Services,
) -> Answer {
    let done = match guard.admit(&request) {
        Ok(()) => route(request, services).await,
        Err(refusal) => Err(refusal),
    };
    done.unwrap_or_else(|refusal| refusal.answer())
}

async fn route(request: Request<Incoming>, services: &Services) -> Result<Answer, Refusal> {
    let path = request.uri().path().to_owned();
    if let Some(rest) = path.strip_prefix("/api/v1/") {
        let segments: Vec<&str> = rest.split('/').collect();
        return api(request, &segments, services).await;
    }
    match path.as_str() {
        "/events" => {
            only(&request, &Method::POST, "POST")?;
            Ok(events::post(request, &services.posts).await?)
        }
        "/status" => {
            only(&request, &Method::GET, "GET")?;
            json(StatusCode::OK, &snapshot(services))
        }
        "/healthz" => {
            only(&request, &Method::GET, "GET")?;
            Ok(respond(StatusCode::OK, "text/plain", b"ok\n".to_vec()))
        }
        "/metrics" => {
            only(&request, &Method::GET, "GET")?;
            let text = metrics(&snapshot(services)).into_bytes();
            Ok(respond(StatusCode::OK, "text/plain; version=0.0.4", text))
        }
        _ => Err(Refusal::NoRoute),
    }
}

async fn api(
    request: Request<Incoming>,
    segments: &[&str],
    services: &Services,
) -> Result<Answer, Refusal> {
    let is_get = request.method() == Method::GET;
    match segments {
        ["robots", robot, rest @ ..] => {
            if *robot != services.robot.to_string() {
                return Err(Refusal::Missing(format!("robot {robot} here")));
            }
            match rest {
                ["commands"] => commands::given(request, services).await,
                ["status"] => {
                    only(&request, &Method::GET, "GET")?;
                    places::status(services)
                }
                _ => Err(Refusal::NoRoute),
            }
        }
        ["commands"] => commands::given(request, services).await,
        ["commands", id] => commands::one(request, id, services).await,
        ["commands", id, "wait"] => {
            only(&request, &Method::GET, "GET")?;
            commands::wait(&request, id, services).await
        }
        ["robots" | "places" | "events" | "searchs"] if !is_get => Err(Refusal::Method("GET")),
        ["robots"] => places::robots(services),
        ["places"] => places::list(services).await,
        ["events"] => places::events(services).await,
        ["searchs"] => places::search(&request, services).await,
        _ => Err(Refusal::NoRoute),
    }
}

fn snapshot(services: &Services) -> Snapshot {
    let mut snapshot = services.board.snapshot();
    snapshot.building = services.building.status();
    snapshot
}

fn only<B>(request: &Request<B>, method: &Method, name: &'static str) -> Result<(), Refusal> {
    if request.method() == method {
        Ok(())
    } else {
        Err(Refusal::Method(name))
    }
}
