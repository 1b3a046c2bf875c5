//! `/commands`: giving the robot commands, seeing what became of them, cancelling them, and waiting
//! for their end.

use std::time::Duration;

use brrbrr_proto::api::{CommandView, MAX_KEY_BYTES, Submission, Task, fits};
use brrbrr_proto::building::{Building, Place};
use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::{CommandId, Epoch, Seq};
use brrbrr_proto::live::Pose;
use brrbrr_proto::names::Asked;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{Answer, Refusal, invalid, json};
use super::events;
use super::places::{Found, find_place};
use super::query::parameter;
use super::routes::Services;
use super::view::{self, Shown};
use crate::board_commands::Wish;
use crate::spool::KeptCommand;

/// Who asks, for the relay's ledger.
const ACTOR: &str = "board";
/// How many commands are listed where the caller does not say.
const LIMIT: usize = 100;
/// The most commands in one answer. A board remembers few.
const MAX_LIMIT: usize = 200;
/// No more commands are added to an answer that has so many bytes: one command may have 16 KiB, and
/// several callers hold such answers.
const PAGE_BYTES: usize = 256 * 1024;
/// How many commands are read at a time. The thread that reads them also makes records durable.
const READ_AT_ONCE: usize = 16;
/// How long a caller waits for a command's end where it does not say.
const WAIT: Duration = Duration::from_secs(30);
/// How long it may wait.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long to leave the spool alone before a waiter looks again: once its command is let go of,
/// every record wakes it until the end is durable.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `POST` and `GET` on the robot's commands.
pub(super) async fn given(
    request: Request<Incoming>,
    services: &Services,
) -> Result<Answer, Refusal> {
    match *request.method() {
        Method::POST => submit(request, services).await,
        Method::GET => list(&request, services).await,
        _ => Err(Refusal::Method("GET, POST")),
    }
}

/// `GET` and `DELETE` on one command.
pub(super) async fn one(
    request: Request<Incoming>,
    id: &str,
    services: &Services,
) -> Result<Answer, Refusal> {
    let id = parse(id)?;
    match *request.method() {
        Method::GET => {
            let kept = find(id, services).await?;
            json(StatusCode::OK, &shown(&kept, true, services))
        }
        Method::DELETE => cancel(id, services).await,
        _ => Err(Refusal::Method("GET, DELETE")),
    }
}

/// `GET` on the end of one command: the answer comes when it has ended, or when the time is up.
pub(super) async fn wait(
    request: &Request<Incoming>,
    id: &str,
    services: &Services,
) -> Result<Answer, Refusal> {
    let id = parse(id)?;
    let until = Instant::now() + timeout(request.uri().query())?;
    let Ok(_place) = services.waiters.0.try_acquire() else {
        return Err(Refusal::Busy);
    };
    let mut changes = Changes {
        id,
        records: services.board.records(),
        unfinished: services.board.unfinished(),
    };
    loop {
        changes.mark();
        let kept = find(id, services).await?;
        if kept.stored.progress.is_final() || Instant::now() >= until {
            return json(StatusCode::OK, &shown(&kept, true, services));
        }
        tokio::time::timeout_at(until, changes.end()).await.ok();
    }
}

/// What tells that a command may have ended.
struct Changes {
    id: CommandId,
    records: watch::Receiver<(Epoch, Seq)>,
    unfinished: watch::Receiver<Vec<CommandId>>,
}

impl Changes {
    /// Only what changes from now on counts.
    fn mark(&mut self) {
        self.records.borrow_and_update();
        self.unfinished.borrow_and_update();
    }

    /// Returns when it is worth looking again. While the command is under way no record is, however
    /// many there are.
    async fn end(&mut self) {
        loop {
            let changed = tokio::select! {
                changed = self.records.changed() => changed,
                changed = self.unfinished.changed() => changed,
            };
            if changed.is_err() {
                // The gateway is stopping; the time limit ends this.
                return std::future::pending().await;
            }
            if !self.unfinished.borrow().contains(&self.id) {
                return tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn submit(request: Request<Incoming>, services: &Services) -> Result<Answer, Refusal> {
    events::check_json(request.headers())?;
    let key = idempotency_key(request.headers())?;
    let body = events::read(request.into_body()).await?;
    let body = serde_json::from_slice(&body).map_err(Refusal::BadJson)?;
    let submission = Submission::read(body)?;
    let order = order_for(submission.task, services).await?;
    fits(&order)?;
    let wish = Wish {
        order,
        lifetime: submission.lifetime,
        key,
        actor: ACTOR.to_owned(),
    };
    let given = services.commands.submit(wish).await?;
    let status = if given.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut answer = json(status, &shown(&given.command, false, services))?;
    let location = format!("/api/v1/commands/{}", given.command.id());
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

/// The order that a task means in this building.
async fn order_for(task: Task, services: &Services) -> Result<Order, Refusal> {
    match task {
        Task::Place(name) => {
            let found = services
                .building
                .look(move |building| go_to_named(&name, building));
            found.await?.ok_or(Refusal::NoBuilding)?
        }
        Task::PlaceId(id) => {
            let found = services
                .building
                .look(move |building| go_to_numbered(id, building));
            found.await?.ok_or(Refusal::NoBuilding)?
        }
        Task::Order(order) => {
            let kept = services.building.kept();
            let floor = kept.map_or(services.enrolled.1, |kept| kept.building.robot.floor);
            match &order {
                Order::GoTo(goal) if goal.floor.is_some_and(|its| its != floor) => {
                    let its = goal.floor.unwrap_or(floor);
                    Err(other_floor("the goal", its, floor))
                }
                Order::GoTo(_)
                | Order::Stop
                | Order::Pause
                | Order::Resume
                | Order::Dock
                | Order::Say(_)
                | Order::Custom(_)
                | Order::Cancel(_)
                | Order::Withdrawn => Ok(order),
            }
        }
    }
}

fn go_to_named(name: &str, building: &Building) -> Result<Order, Refusal> {
    let floor = building.robot.floor;
    // The relay's ears cannot tell the two apart, so it takes a `+` for a space here too.
    let asked = Asked::new(&name.replace('+', " "));
    match find_place(&building.places, floor, &asked) {
        Found::Here(place) => Ok(go_to(place)),
        Found::Elsewhere(places) => Err(match places.first() {
            Some(place) => other_floor(&format!("place {name:?}"), place.floor, floor),
            None => Refusal::Missing(format!("place {name:?}")),
        }),
        Found::Nothing => Err(Refusal::Missing(format!("place {name:?}"))),
    }
}

fn go_to_numbered(id: i64, building: &Building) -> Result<Order, Refusal> {
    let floor = building.robot.floor;
    let place = building.places.iter().find(|place| place.id == id);
    let place = place.ok_or_else(|| Refusal::Missing(format!("place {id}")))?;
    if place.floor == floor {
        Ok(go_to(place))
    } else {
        Err(other_floor(&format!("place {id}"), place.floor, floor))
    }
}

fn other_floor(goal: &str, its: i32, floor: i32) -> Refusal {
    let reason = format!("{goal} is on floor {its}, and this robot serves floor {floor}");
    Refusal::OtherFloor(reason)
}

fn go_to(place: &Place) -> Order {
    Order::GoTo(GoTo {
        pose: Pose {
            x: place.x,
            y: place.y,
            theta: None,
        },
        floor: Some(place.floor),
        place: place.name.clone(),
    })
}

/// A page of commands.
#[derive(Default, Serialize)]
struct Commands {
    commands: Vec<CommandView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

async fn list(request: &Request<Incoming>, services: &Services) -> Result<Answer, Refusal> {
    let query = request.uri().query();
    let limit = limit(query)?;
    let after = after(query, services).await?;
    let states = states(query)?;
    json(StatusCode::OK, &page(limit, after, states, services).await?)
}

/// Reads on until the page is full, or until there are no more commands.
async fn page(
    limit: usize,
    mut after: Option<CommandId>,
    states: Option<Vec<Shown>>,
    services: &Services,
) -> Result<Commands, Refusal> {
    let is_wanted = |kept: &KeptCommand| {
        let state = Shown::Here(kept.stored.progress);
        states.as_ref().is_none_or(|states| states.contains(&state))
    };
    let mut page = Commands::default();
    let mut bytes = 0;
    loop {
        let read = services.commands.list(READ_AT_ONCE, after, None).await?;
        after = read.last().map(KeptCommand::id);
        let is_last = read.len() < READ_AT_ONCE;
        for kept in read.into_iter().filter(is_wanted) {
            if page.commands.len() == limit || bytes > PAGE_BYTES {
                page.next = page.commands.last().map(|last| last.id.clone());
                return Ok(page);
            }
            let view = shown(&kept, false, services);
            bytes += serde_json::to_vec(&view)?.len();
            page.commands.push(view);
        }
        if is_last {
            return Ok(page);
        }
    }
}

async fn cancel(id: CommandId, services: &Services) -> Result<Answer, Refusal> {
    let kept = find(id, services).await?;
    let is_over = kept.stored.progress.is_final();
    let kept = if is_over || kept.cancelling {
        kept
    } else {
        services.commands.cancel(id, ACTOR.to_owned()).await?
    };
    let status = if kept.stored.progress.is_final() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    json(status, &shown(&kept, false, services))
}

async fn find(id: CommandId, services: &Services) -> Result<KeptCommand, Refusal> {
    let found = services.commands.find(id).await?;
    found.ok_or_else(|| Refusal::Missing(format!("command {id} here")))
}

fn shown(kept: &KeptCommand, with_history: bool, services: &Services) -> CommandView {
    view::command(services.robot, kept, with_history, services.clock.stamp())
}

/// What is not an id is no command's.
fn parse(id: &str) -> Result<CommandId, Refusal> {
    id.parse().map_err(|_| Refusal::NoRoute)
}

fn limit(query: Option<&str>) -> Result<usize, Refusal> {
    let Some(limit) = parameter(query, "limit")? else {
        return Ok(LIMIT);
    };
    let limit = limit.parse().ok();
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| invalid("limit", "must be a number from 1 to 200"))
}

async fn after(query: Option<&str>, services: &Services) -> Result<Option<CommandId>, Refusal> {
    const EXPECTED: &str = "must be what an earlier answer called next";
    let Some(after) = parameter(query, "after")? else {
        return Ok(None);
    };
    let after = after.parse().map_err(|_| invalid("after", EXPECTED))?;
    match services.commands.find(after).await? {
        Some(_) => Ok(Some(after)),
        None => Err(invalid("after", EXPECTED)),
    }
}

fn states(query: Option<&str>) -> Result<Option<Vec<Shown>>, Refusal> {
    let Some(names) = parameter(query, "state")? else {
        return Ok(None);
    };
    let states: Option<Vec<_>> = names.split(',').map(Shown::parse).collect();
    let expected = "must be states of commands, with commas between them";
    states.map(Some).ok_or_else(|| invalid("state", expected))
}

fn timeout(query: Option<&str>) -> Result<Duration, Refusal> {
    let Some(seconds) = parameter(query, "timeout")? else {
        return Ok(WAIT);
    };
    let seconds = seconds.parse().ok();
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let timeout = timeout.filter(|timeout| *timeout <= MAX_WAIT);
    timeout.ok_or_else(|| invalid("timeout", "must be a number of seconds from 0 to 60"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => "",
    };
    let is_printable = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !is_printable {
        let expected = "must be one text of at most 128 printable ASCII characters";
        return Err(invalid("Idempotency-Key", expected));
    }
    Ok(Some(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brrbrr_proto::id::RobotId;

    use super::*;
    use crate::status::StatusBoard;

    #[tokio::test]
    async fn records_about_other_things_do_not_wake_who_waits_for_a_command() {
        let stands = (Epoch(1), Seq::FIRST, Seq::FIRST);
        let robot = RobotId::new(7).unwrap();
        let board = StatusBoard::new(robot, "guide-7", stands, Arc::default());
        let (id, other) = (CommandId(1), CommandId(2));
        board.set_commands(None, [id].into_iter());
        let mut changes = Changes {
            id,
            records: board.records(),
            unfinished: board.unfinished(),
        };
        changes.mark();
        for next in 2..10 {
            board.set_next(Seq(next));
            board.set_commands(None, [id, other].into_iter());
            let woken = tokio::time::timeout(LOOK_AGAIN * 2, changes.end());
            assert!(woken.await.is_err(), "at {next}");
        }
        // Once it is let go of, every record may be its end.
        board.set_commands(None, [other].into_iter());
        changes.end().await;
        changes.mark();
        board.set_next(Seq(10));
        changes.end().await;
    }
}
