//! `/robots/:id/commands` and `/commands/:id`: giving a robot commands, seeing what became of them,
//! cancelling them, and waiting for their end. For admins, and for the guest with the robot's code.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::api::{CommandView, Submission, fits};
use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, RobotId};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, Guest, call, finish};
use super::error::{HttpError, json, json_with};
use super::fields::invalid;
use super::front::Later;
use super::guidance::{self, Wish};
use super::records;
use super::robots::{PathId, stopped_events};
use super::turns::Turn;
use crate::catalog::command::NotAState;
use crate::catalog::{
    Cancellation, CatalogError, CommandState, LedgerEntry, Page, Place, Robot, Transition,
};
use crate::changes::Waiter;
use crate::guide::commands::{command_view, order_for};
use crate::guide::view::Destinations;
use crate::guide::{ADMIN, GUEST};
use crate::live::Presence;
use crate::push::{FaceEvent, Page as FacePage, tell};

/// How long a caller waits for a command's end where it does not say.
const WAIT: Duration = Duration::from_secs(30);
/// How long it may wait. Proxies cut connections that say nothing for longer.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often a waiter looks into the ledger though nobody told it to: another relay may have changed
/// it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let submit = path!("robots" / PathId / "commands")
        .and(warp::post())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            let done = submit(&services, &call, id.0).await;
            finish("POST /robots/:id/commands", done)
        });
    let list = path!("robots" / PathId / "commands")
        .and(warp::get())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            let done = list(&services, &call, id.0).await;
            finish("GET /robots/:id/commands", done)
        });
    let show = path!("commands" / PathCommand)
        .and(warp::get())
        .and(call(services))
        .then(
            async |id: PathCommand, services: Arc<Services>, call: Call| {
                finish("GET /commands/:id", show(&services, &call, id.0).await)
            },
        );
    let cancel = path!("commands" / PathCommand)
        .and(warp::delete())
        .and(call(services))
        .then(
            async |id: PathCommand, services: Arc<Services>, call: Call| {
                finish("DELETE /commands/:id", cancel(&services, &call, id.0).await)
            },
        );
    let wait = path!("commands" / PathCommand / "wait")
        .and(warp::get())
        .and(call(services))
        .then(
            async |id: PathCommand, services: Arc<Services>, call: Call| {
                let done = wait(&services, &call, id.0).await;
                finish("GET /commands/:id/wait", done)
            },
        );
    submit
        .or(list)
        .unify()
        .or(show)
        .unify()
        .or(cancel)
        .unify()
        .or(wait)
        .unify()
        .boxed()
}

/// A command's id in a path. What is not one is no command's, so the route is not found.
#[derive(Debug)]
struct PathCommand(CommandId);

impl FromStr for PathCommand {
    type Err = brrbrr_proto::id::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Who calls. At least one of the two.
struct Caller {
    guest: Option<Guest>,
    is_admin: bool,
}

/// The right to do something to a robot, and its turn, until it is dropped.
struct Right {
    actor: &'static str,
    _guest: Option<Guest>,
    _turn: Option<Turn>,
}

impl Caller {
    async fn of(services: &Services, call: &Call) -> Result<Self, HttpError> {
        let guest = call.guest(services).await?;
        let is_admin = call.is_admin(services);
        if guest.is_none() && !is_admin {
            return Err(HttpError::Stranger);
        }
        Ok(Self { guest, is_admin })
    }

    /// The caller's right to look at a robot. Whoever looks needs no turn.
    fn may_see(self, robot: RobotId) -> Result<(), HttpError> {
        if self.is_admin || self.is_guest_of(robot) {
            Ok(())
        } else {
            Err(HttpError::OtherRobot)
        }
    }

    /// The caller's right to command a robot.
    async fn may_command(self, services: &Services, robot: RobotId) -> Result<Right, HttpError> {
        if self.is_guest_of(robot) {
            return Ok(Right {
                actor: GUEST,
                _guest: self.guest,
                _turn: None,
            });
        }
        // Another robot's turn must not be kept while waiting for this one's.
        drop(self.guest);
        if !self.is_admin {
            return Err(HttpError::OtherRobot);
        }
        Ok(Right {
            actor: ADMIN,
            _guest: None,
            _turn: Some(services.turns.take(robot).await),
        })
    }

    fn is_guest_of(&self, robot: RobotId) -> bool {
        let guest = self.guest.as_ref();
        guest.is_some_and(|guest| guest.robot.id == robot)
    }
}

async fn submit(services: &Services, call: &Call, id: RobotId) -> Result<Response, HttpError> {
    let caller = Caller::of(services, call).await?;
    let right = caller.may_command(services, id).await?;
    let robot = services.catalog.robot(id).await?;
    let key = call.idempotency_key()?;
    let submission = Submission::read(call.fields()?.into_map())?;
    let places = services.catalog.places().await?;
    let (order, place) = match order_for(submission.task, &places, &robot) {
        Ok(resolved) => resolved,
        // The building has changed since the same key was used.
        Err(no_goal) => {
            return match earlier_trip(services, id, key.as_deref()).await? {
                Some(entry) => answer(services, &entry, StatusCode::OK).await,
                None => Err(no_goal.into()),
            };
        }
    };
    fits(&order)?;
    let wish = Wish {
        order,
        lifetime: submission.lifetime,
        actor: right.actor,
        key,
    };
    let (entry, is_new) = guidance::order(services, &robot, wish).await?;
    if is_new {
        show_on_face(services, &robot, &entry, place).await;
    }
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    answer(services, &entry, status).await
}

/// The robot's command with this key, if it was sent somewhere by that.
async fn earlier_trip(
    services: &Services,
    robot: RobotId,
    key: Option<&str>,
) -> Result<Option<LedgerEntry>, HttpError> {
    let Some(key) = key else { return Ok(None) };
    let known = services.catalog.with_key(robot, key).await?;
    Ok(known.filter(|entry| matches!(entry.command.order, Order::GoTo(_))))
}

async fn answer(
    services: &Services,
    entry: &LedgerEntry,
    status: StatusCode,
) -> Result<Response, HttpError> {
    let view = serde_json::to_string(&view(services, entry, None).await?)?;
    let mut response = json_with(status, view);
    let location = format!("/api/v1/commands/{}", entry.command.id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Shows the robot's face what a guest's own wish would have shown. The order stands without it.
async fn show_on_face(
    services: &Services,
    robot: &Robot,
    entry: &LedgerEntry,
    place: Option<&Place>,
) {
    let events = match (&entry.command.order, place) {
        (Order::GoTo(_), Some(place)) => {
            let destinations = Destinations::Places(vec![place]);
            serde_json::to_string(&destinations)
                .map_err(HttpError::from)
                .map(|destinations| {
                    vec![
                        FaceEvent::destinations(&destinations),
                        FaceEvent::page(FacePage::Guide),
                    ]
                })
        }
        (Order::Stop, _) => stopped_events(services, robot).await,
        (
            Order::GoTo(_)
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Cancel(_)
            | Order::Withdrawn,
            _,
        ) => return,
    };
    match events {
        Ok(events) => tell(services, robot.id, &events).await,
        Err(error) => warn!(robot = %robot.id, %error, "face not told"),
    }
}

/// A page of commands.
#[derive(Serialize)]
struct Commands {
    commands: Vec<CommandView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

async fn list(services: &Services, call: &Call, id: RobotId) -> Result<Response, HttpError> {
    Caller::of(services, call).await?.may_see(id)?;
    services.catalog.robot(id).await?;
    let limit = records::limit(call)?;
    let expected = "must be what an earlier answer called next";
    let after = call.parameter("after")?;
    let after = after.map(|after| after.parse()).transpose();
    let page = Page {
        after: after.map_err(|_| invalid("after", expected))?,
        states: states(call)?,
        // One more tells whether there is another page.
        limit: limit.saturating_add(1),
    };
    let (is_first, asked) = (
        page.after.is_none(),
        services.catalog.commands(id, page).await,
    );
    let mut entries = match asked {
        Err(CatalogError::Missing(_)) if !is_first => return Err(invalid("after", expected)),
        asked => asked?,
    };
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().filter(|_| has_more);
    let presence = services.live.presence(id).await?;
    let commands = Commands {
        next: last.map(|last| last.command.id.to_string()),
        commands: entries
            .iter()
            .map(|entry| command_view(entry, &presence, None))
            .collect(),
    };
    Ok(json(serde_json::to_string(&commands)?))
}

/// The states that the caller wants to see, by name, with commas between them.
fn states(call: &Call) -> Result<Vec<CommandState>, HttpError> {
    let Some(names) = call.parameter("state")? else {
        return Ok(Vec::new());
    };
    let states = names.split(',').map(str::parse).collect::<Result<_, _>>();
    states.map_err(|_: NotAState| {
        invalid(
            "state",
            "must be states of commands, with commas between them",
        )
    })
}

async fn show(services: &Services, call: &Call, id: CommandId) -> Result<Response, HttpError> {
    let caller = Caller::of(services, call).await?;
    let (entry, history) = services.catalog.command(id).await?;
    caller.may_see(entry.command.robot)?;
    let view = view(services, &entry, Some(&history)).await?;
    Ok(json(serde_json::to_string(&view)?))
}

async fn cancel(services: &Services, call: &Call, id: CommandId) -> Result<Response, HttpError> {
    let caller = Caller::of(services, call).await?;
    let (entry, _) = services.catalog.command(id).await?;
    let right = caller.may_command(services, entry.command.robot).await?;
    let (entry, status) = match guidance::cancel(services, &entry, right.actor).await? {
        Cancellation::Ended(entry) | Cancellation::Over(entry) => (entry, StatusCode::OK),
        Cancellation::Entered(entry, _) | Cancellation::UnderWay(entry) => {
            (entry, StatusCode::ACCEPTED)
        }
    };
    let view = serde_json::to_string(&view(services, &entry, None).await?)?;
    Ok(json_with(status, view))
}

async fn wait(services: &Arc<Services>, call: &Call, id: CommandId) -> Result<Response, HttpError> {
    let caller = Caller::of(services, call).await?;
    let (entry, _) = services.catalog.command(id).await?;
    caller.may_see(entry.command.robot)?;
    let until = Instant::now() + timeout(call)?;
    let waiter = services.changes.wait_for(id).map_err(|_| HttpError::Busy)?;
    let services = Arc::clone(services);
    let end = async move {
        let _counted = Counted::new(&services);
        let end = ended(&services, id, waiter, until).await;
        end.unwrap_or_else(HttpError::into_response)
    };
    Ok(Later::response(end))
}

/// A waiter on show in the metrics, until it is dropped.
struct Counted(Arc<Services>);

impl Counted {
    fn new(services: &Arc<Services>) -> Self {
        services.metrics.waiters.inc();
        Self(Arc::clone(services))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.waiters.dec();
    }
}

/// The command once it has ended, or as it is when the time is up or the relay ends.
async fn ended(
    services: &Services,
    id: CommandId,
    mut waiter: Waiter,
    until: Instant,
) -> Result<Response, HttpError> {
    loop {
        let is_last = Instant::now() >= until || services.changes.is_closed();
        let (entry, history) = services.catalog.command(id).await?;
        if entry.state.is_final() || is_last {
            let view = view(services, &entry, Some(&history)).await?;
            return Ok(json(serde_json::to_string(&view)?));
        }
        let look_again = until.min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            () = waiter.changed() => {}
            () = tokio::time::sleep_until(look_again) => {}
        }
    }
}

fn timeout(call: &Call) -> Result<Duration, HttpError> {
    let Some(seconds) = call.parameter("timeout")? else {
        return Ok(WAIT);
    };
    let seconds = seconds.parse().ok();
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let timeout = timeout.filter(|timeout| *timeout <= MAX_WAIT);
    timeout.ok_or_else(|| invalid("timeout", "must be a number of seconds from 0 to 60"))
}

async fn view(
    services: &Services,
    entry: &LedgerEntry,
    history: Option<&[Transition]>,
) -> Result<CommandView, HttpError> {
    let presence: Presence = services.live.presence(entry.command.robot).await?;
    Ok(command_view(entry, &presence, history))
}
