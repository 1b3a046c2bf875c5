//! Carries out what a guest asks of a robot.
//!
//! The ledger is the truth. An order is entered there first, and from then on the request has
//! succeeded, whatever else fails: the robot is woken at once, and what follows (guidance, the trip
//! log, the face) only tells of it. After a crash in between, the departure is written when the
//! robot reports on the order (see `projection`), and [`take_up`] brings the guidance up to date.
//!
//! The end of a session is the other way round: its code dies last, so that a caller whose request
//! failed half-way can make it again.

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, RobotId};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::Services;
use super::error::HttpError;
use crate::catalog::{CatalogError, LedgerEntry, NewCommand, Place, Robot};
use crate::guide::{self, HOME, ORDER_LIFETIME, VOICE};
use crate::journal::{TripEntry, TripStep};
use crate::live::{AuthCode, Guidance, Phase};

/// How many of the newest lines of a robot's trip log are looked through for the end of its newest
/// trip. A trip has three; late arrivals of older ones may stand between them.
const LINES: usize = 32;

/// Brings each robot's guidance up to date with its newest order, where the relay ended between
/// entering it and showing it. Without this a guest would be told that the robot has arrived, because it had on the trip
/// before. To be called before the first request.
pub(super) async fn take_up(services: &Services) -> Result<(), HttpError> {
    for robot in services.catalog.robots().await? {
        let newest = services.catalog.recent_commands(robot.id, 1).await?;
        if let Some(entry) = newest.first() {
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
    if entry.state.is_final() {
        return Ok(());
    }
    let shown = services.live.guidance(robot.id).await?;
    let trip = entry.command.id;
    let guidance = match &entry.command.order {
        Order::Stop if shown.phase == Phase::Moving => Guidance {
            phase: Phase::Stopped,
            ..shown
        },
        Order::GoTo(goal) if entry.command.actor != HOME && shown.trip != Some(trip) => {
            let log = services.journal.trips(Some(&robot.name), LINES).await?;
            let is_ended =
                |line: &TripEntry| line.command == trip && line.status == TripStep::Ended;
            if log.iter().any(is_ended) {
                return Ok(());
            }
            Guidance {
                phase: Phase::Moving,
                destination: Some(goal.place.clone()),
                trip: Some(trip),
            }
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
    let entry = submit(services, robot.id, guide::go_to(place), VOICE).await?;
    let trip = entry.command.id;
    let guidance = Guidance {
        phase: Phase::Moving,
        destination: Some(place.details.name.clone()),
        trip: Some(trip),
    };
    let (moved, logged) = tokio::join!(
        services.live.set_guidance(robot.id, guidance),
        log_step(services, robot, &entry, TripStep::Departed)
    );
    if let Err(error) = moved {
        warn!(robot = %robot.id, %error, "guidance not set");
    }
    if let Err(error) = logged {
        warn!(robot = %robot.id, %error, "departure not logged yet");
    }
    catch_early_end(services, robot.id, trip).await;
    Ok(())
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

/// Stops the robot where it is. It keeps its destination, for the log.
pub(super) async fn stop(services: &Services, robot: &Robot) -> Result<(), HttpError> {
    submit(services, robot.id, Order::Stop, VOICE).await?;
    let stopped = async {
        let guidance = services.live.guidance(robot.id).await?;
        let guidance = Guidance {
            phase: Phase::Stopped,
            ..guidance
        };
        services.live.set_guidance(robot.id, guidance).await
    };
    if let Err(error) = stopped.await {
        warn!(robot = %robot.id, %error, "guidance not set");
    }
    Ok(())
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
        submit(services, robot.id, way_home, HOME).await?;
    }
    let idle = Guidance::default();
    services.live.set_guidance(robot.id, idle).await?;
    Ok(services.live.renew_code(robot.id).await?)
}

/// Enters an order into the ledger and has it sent.
async fn submit(
    services: &Services,
    robot: RobotId,
    order: Order,
    actor: &'static str,
) -> Result<LedgerEntry, HttpError> {
    let submitted = Timestamp::now();
    let lifetime = SignedDuration::try_from(ORDER_LIFETIME).unwrap_or(SignedDuration::MAX);
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        warn!(%error, "the operating system gives no random numbers");
        HttpError::Internal
    })?;
    let entry = services
        .catalog
        .submit(NewCommand {
            id: CommandId(u128::from_be_bytes(id)),
            robot,
            order,
            deadline: submitted.saturating_add(lifetime).unwrap_or(submitted),
            actor: actor.to_owned(),
            idempotency_key: None,
            submitted,
        })
        .await?;
    services.wakeups.wake(robot);
    services.metrics.ordered(actor);
    Ok(entry)
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
    match guide::trip_entry(&robot.name, entry, step, at) {
        Some(line) => services.journal.log_trip(line).await,
        None => Ok(()),
    }
}
