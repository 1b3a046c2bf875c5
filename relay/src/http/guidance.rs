//! Carries out what is asked of a robot: by a guest through the routes of the voice capsules, and by
//! anybody who may through `commands`.
//!
//! The ledger is the truth. An order is entered there first, and from then on the request has
//! succeeded, whatever else fails: the robot is woken at once, and what follows (guidance, the trip
//! log, the face) only tells of it. After a crash in between, the departure is written when the
//! robot reports on the order (see `projection`), and [`take_up`] brings the guidance up to date.
//!
//! The end of a session is the other way round: its code dies last, so that a caller whose request
//! failed half-way can make it again.

use std::time::Duration;

use brrbrr_proto::api::CANCEL_LIFETIME;
use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, RobotId};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::Services;
use super::error::HttpError;
use crate::catalog::{
    Cancellation, CatalogError, CommandState, LedgerEntry, NewCommand, Place, Robot, Submitted,
};
use crate::clock::calendar;
use crate::guide::{self, HOME, ORDER_LIFETIME, RECENT, VOICE};
use crate::journal::{TripEntry, TripStep};
use crate::live::{AuthCode, Contact, Guidance, Phase};
use crate::wake::Urgency;

/// How many of the newest lines of a robot's trip log are looked through for the end of its newest
/// trip. A trip has three; late arrivals of older ones may stand between them.
const LINES: usize = 32;

/// How long an order waits until it is told of. It stands without, and the next one for the robot must
/// not wait for a store that hangs.
const TELL_LIMIT: Duration = Duration::from_secs(1);

/// What a robot is asked to do.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) order: Order,
    /// How long it may still be started.
    pub(super) lifetime: Duration,
    /// Who asks.
    pub(super) actor: &'static str,
    /// The caller's own key.
    pub(super) key: Option<String>,
}

impl Wish {
    const fn of(order: Order, actor: &'static str) -> Self {
        Self {
            order,
            lifetime: ORDER_LIFETIME,
            actor,
            key: None,
        }
    }
}

/// Brings each robot's guidance up to date with its newest order, where the relay ended between
/// entering it and showing it. Without this a guest would be told that the robot has arrived, because it had on the trip
/// before. To be called before the first request.
pub(super) async fn take_up(services: &Services) -> Result<(), HttpError> {
    for robot in services.catalog.robots().await? {
        let recent = services.catalog.recent_commands(robot.id, RECENT).await?;
        if let Some(entry) = guide::newest_drive(&recent) {
            take_up_order(services, &robot, entry).await?;
        }
    }
    Ok(())
}

async fn take_up_order(
    services: &Services,
    robot: &Robot,
    entry: &LedgerEntry,
) -> Result<(), HttpError> {
    let shown = services.live.guidance(robot.id).await?;
    let trip = entry.command.id;
    if entry.state.is_final() {
        // This relay may have ended it, and ended itself before it said so.
        if shown.trip == Some(trip) {
            catch_early_end(services, robot.id, trip).await;
        }
        return Ok(());
    }
    let guidance = match &entry.command.order {
        Order::Stop if shown.phase == Phase::Moving => Guidance {
            phase: Phase::Stopped,
            ..shown
        },
        Order::GoTo(_) if shown.trip != Some(trip) => {
            let Some(guidance) = guide::guidance_of(entry) else {
                return Ok(());
            };
            let log = services.journal.trips(Some(&robot.name), LINES).await?;
            let is_ended =
                |line: &TripEntry| line.command == trip && line.status == TripStep::Ended;
            if log.iter().any(is_ended) {
                return Ok(());
            }
            guidance
        }
        Order::GoTo(_)
        | Order::Stop
        | Order::Pause
        | Order::Resume
        | Order::Dock
        | Order::Say(_)
        | Order::Custom(_)
        | Order::Cancel(_)
        | Order::Withdrawn => return Ok(()),
    };
    services.live.set_guidance(robot.id, guidance).await?;
    catch_early_end(services, robot.id, trip).await;
    Ok(())
}

/// Sends the robot to a place.
pub(super) async fn send(
    services: &Services,
    robot: &Robot,
    place: &Place,
) -> Result<(), HttpError> {
    order(services, robot, Wish::of(guide::go_to(place), VOICE)).await?;
    Ok(())
}

/// Stops the robot where it is. It keeps its destination, for the log.
pub(super) async fn stop(services: &Services, robot: &Robot) -> Result<(), HttpError> {
    order(services, robot, Wish::of(Order::Stop, VOICE)).await?;
    Ok(())
}

/// Gives the robot an order and shows what it means for its guest. Whoever calls has the robot's
/// turn. The second value is whether the order is new; else its key was known.
pub(super) async fn order(
    services: &Services,
    robot: &Robot,
    wish: Wish,
) -> Result<(LedgerEntry, bool), HttpError> {
    let (entry, is_new) = submit(services, robot.id, wish).await?;
    if !is_new {
        return Ok((entry, false));
    }
    let told = tokio::time::timeout(TELL_LIMIT, show(services, robot, &entry)).await;
    if told.is_err() {
        warn!(robot = %robot.id, "order not told of in time");
    }
    Ok((entry, true))
}

async fn show(services: &Services, robot: &Robot, entry: &LedgerEntry) {
    match &entry.command.order {
        Order::GoTo(_) => show_trip(services, robot, entry).await,
        Order::Stop => show_stop(services, robot).await,
        Order::Pause
        | Order::Resume
        | Order::Dock
        | Order::Say(_)
        | Order::Custom(_)
        | Order::Cancel(_)
        | Order::Withdrawn => {}
    }
}

async fn show_trip(services: &Services, robot: &Robot, entry: &LedgerEntry) {
    let Some(guidance) = guide::guidance_of(entry) else {
        return;
    };
    let (moved, logged) = tokio::join!(
        services.live.set_guidance(robot.id, guidance),
        log_step(services, robot, entry, TripStep::Departed)
    );
    if let Err(error) = moved {
        warn!(robot = %robot.id, %error, "guidance not set");
    }
    if let Err(error) = logged {
        warn!(robot = %robot.id, %error, "departure not logged yet");
    }
    catch_early_end(services, robot.id, entry.command.id).await;
}

/// A trip may end before its guidance is set: the robot stands at its goal already, or refuses. Then
/// the ledger says so by now, or `projection` finds the guidance when it does.
async fn catch_early_end(services: &Services, robot: RobotId, trip: CommandId) {
    let Ok((entry, _)) = services.catalog.command(trip).await else {
        return;
    };
    if let Some(phase) = guide::phase_after(&entry)
        && let Err(error) = services.live.advance(robot, trip, phase).await
    {
        warn!(%robot, %error, "end of the trip not shown");
    }
}

async fn show_stop(services: &Services, robot: &Robot) {
    if let Err(error) = services.live.stop_trip(robot.id).await {
        warn!(robot = %robot.id, %error, "guidance not set");
    }
}

/// Ends the guest's session and returns the code of the next one.
pub(super) async fn finish(services: &Services, robot: &Robot) -> Result<AuthCode, HttpError> {
    let trip = services.live.guidance(robot.id).await?.trip;
    if let Some(trip) = trip {
        match services.catalog.command(trip).await {
            Ok((entry, _)) => log_step(services, robot, &entry, TripStep::Ended).await?,
            // Nothing can be said of a trip that the ledger does not know.
            Err(CatalogError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(way_home) = guide::go_home(robot) {
        match submit(services, robot.id, Wish::of(way_home, HOME)).await {
            Ok(_) => {}
            // Whoever filled the ledger must not keep the code by that.
            Err(HttpError::Full(_)) => {
                warn!(robot = %robot.id, "not sent home: too many unfinished commands");
            }
            Err(error) => return Err(error),
        }
    }
    let idle = Guidance::default();
    services.live.set_guidance(robot.id, idle).await?;
    Ok(services.live.renew_code(robot.id).await?)
}

/// Cancels a command of the robot.
pub(super) async fn cancel(
    services: &Services,
    entry: &LedgerEntry,
    actor: &'static str,
) -> Result<Cancellation, HttpError> {
    let (robot, target) = (entry.command.robot, entry.command.id);
    if matches!(entry.command.order, Order::Cancel(_)) {
        return Err(HttpError::NotCancellable);
    }
    let wish = Wish {
        lifetime: CANCEL_LIFETIME,
        ..Wish::of(Order::Cancel(target), actor)
    };
    let offered = is_in_contact(services, robot).await;
    let cancel = new_command(robot, wish)?;
    let done = services.catalog.cancel(target, cancel, offered).await?;
    match &done {
        Cancellation::Ended(entry) => services.endings.tell(entry).await,
        Cancellation::Entered(_, cancel) => {
            services.wakeups.wake(robot, Urgency::Urgent);
            services.metrics.ordered(actor);
            services.changes.tell(target);
            services.changes.tell(*cancel);
        }
        Cancellation::Over(_) | Cancellation::UnderWay(_) => {}
    }
    Ok(done)
}

/// Enters an order into the ledger and has it sent. The second value is whether it is new.
async fn submit(
    services: &Services,
    robot: RobotId,
    wish: Wish,
) -> Result<(LedgerEntry, bool), HttpError> {
    let actor = wish.actor;
    let command = new_command(robot, wish)?;
    let id = command.id;
    let offered = is_in_contact(services, robot).await;
    let Submitted { entry, ended } = services.catalog.accept(command, offered).await?;
    let is_new = entry.command.id == id;
    // A known key too: whoever entered it may have been cut off before this.
    if entry.state == CommandState::Queued {
        let urgency = Urgency::of(&entry.command.order);
        services.wakeups.wake(robot, urgency);
        services.changes.note_entered();
    }
    if is_new {
        services.metrics.ordered(actor);
    }
    let tell = async {
        for entry in &ended {
            services.endings.tell(entry).await;
        }
    };
    if tokio::time::timeout(TELL_LIMIT, tell).await.is_err() {
        warn!(%robot, "what the order ended is not told of in time");
    }
    Ok((entry, is_new))
}

/// Whether what is entered now may be on the robot's board a moment later. Where nobody can say, it
/// may: then only the robot can end it.
async fn is_in_contact(services: &Services, robot: RobotId) -> bool {
    let presence = services.live.presence(robot).await;
    presence.map_or(true, |presence| presence.contact != Contact::Offline)
}

fn new_command(robot: RobotId, wish: Wish) -> Result<NewCommand, HttpError> {
    let submitted = calendar();
    let lifetime = SignedDuration::try_from(wish.lifetime).unwrap_or(SignedDuration::MAX);
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        warn!(%error, "the operating system gives no random numbers");
        HttpError::Internal
    })?;
    Ok(NewCommand {
        id: CommandId(u128::from_be_bytes(id)),
        robot,
        order: wish.order,
        deadline: submitted.saturating_add(lifetime).unwrap_or(submitted),
        actor: wish.actor.to_owned(),
        idempotency_key: wish.key,
        submitted,
    })
}

async fn log_step(
    services: &Services,
    robot: &Robot,
    entry: &LedgerEntry,
    step: TripStep,
) -> Result<(), crate::journal::JournalError> {
    let at = match step {
        TripStep::Departed => entry.command.submitted,
        TripStep::Arrived | TripStep::Ended => Timestamp::now(),
    };
    match guide::trip_entry(&robot.name, &entry.command, step, at) {
        Some(line) => services.journal.log_trip(line).await,
        None => Ok(()),
    }
}
