//! The composition root: opens the spool, starts the adapter, the uplink and the control socket, and
//! runs the event loop. The only file that puts concrete parts together.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use crate::board_commands;
use crate::building::BuildingCache;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::event_loop::{self, Parts};
use crate::identity::Identity;
use crate::local;
use crate::notify::Notifier;
use crate::robot;
use crate::sampler::Sampler;
use crate::spool::{Limits, Spool, SpoolState};
use crate::status::StatusBoard;
use crate::uplink::{self, UplinkConfig};

/// The spool's name in the data folder.
const SPOOL: &str = "spool.db";

/// Runs the gateway until `shutdown` resolves.
///
/// # Errors
/// Says what keeps it from running.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let identity = Identity::load(&config.data)?;
    let clock = Clock::of_this_boot()?;
    let listener = local::bind(&config.data).await?;
    let extra = listen_for_others(&config.local).await?;
    let (spool, state) = open_spool(&config.data, config.spool, clock).await?;
    if let Some(salvaged) = &state.salvaged {
        error!(
            moved_to = %salvaged.moved_to.display(),
            records = salvaged.records,
            holes = salvaged.holes,
            same_epoch = salvaged.same_epoch,
            "the spool was damaged, what could be read of it was saved"
        );
    }
    info!(
        robot = %identity.robot,
        epoch = %state.epoch,
        backlog = state.next.since(state.first),
        "gateway starts"
    );

    let building = open_building(&config.data, clock);
    let random = || getrandom::u64().context("the operating system gives no random numbers");
    let (stop, stopped) = watch::channel(false);
    let (stop_robot, robot_stopped) = watch::channel(false);
    let (stop_uplink, uplink_stopped) = watch::channel(false);
    let adapter = config.robot.adapter(&identity.enrolment);
    let robot = robot::spawn(adapter, random()?, robot_stopped);
    let board = StatusBoard::new(
        identity.robot,
        &identity.enrolment.name,
        (state.epoch, state.first, state.next),
        Arc::clone(&robot.counters),
    );
    let (posting, posts) = mpsc::channel(local::POSTS_MAX);
    let (commands, requests) = board_commands::channel(spool.clone());
    let services = local::Services {
        robot: identity.robot,
        enrolled: (identity.enrolment.name.clone(), identity.enrolment.floor),
        board: board.clone(),
        posts: posting,
        commands,
        building: building.clone(),
        clock,
        waiters: local::Waiters::default(),
    };
    let control = tokio::spawn(local::serve(listener, extra, services));
    let uplink = uplink::spawn(
        UplinkConfig {
            robot: identity.robot,
            broker: config.broker(&identity.enrolment)?,
            ca: config.ca(&identity.enrolment)?,
            secret: identity.secret,
            seed: random()?,
        },
        state.epoch,
        uplink_stopped,
    )?;
    let parts = Parts {
        clock,
        spool,
        state,
        robot,
        uplink,
        board,
        posts,
        requests,
        motion_limit: config.motion_limit,
        building,
        notifier: Notifier::from_environment(),
        sampler: config.telemetry.map(Sampler::new),
        bytes_per_second: config.max_bytes_per_second(),
        seed: random()?,
        stop_robot,
        stop_uplink,
    };
    let event_loop = event_loop::run(parts, stopped);
    tokio::pin!(event_loop);
    let outcome = tokio::select! {
        outcome = &mut event_loop => outcome,
        () = shutdown => {
            stop.send_replace(true);
            event_loop.await
        }
    };
    control.abort();
    outcome?;
    info!("gateway stopped");
    Ok(())
}

/// Opens the socket that is configured besides the control socket.
async fn listen_for_others(config: &config::Local) -> anyhow::Result<Option<local::Extra>> {
    let Some(listen) = &config.listen else {
        return Ok(None);
    };
    let extra = local::listen(listen, config.token.clone()).await?;
    match extra.address() {
        Some(address) => info!(%address, "the local API listens"),
        None => info!(?listen, "the local API listens"),
    }
    Ok(Some(extra))
}

fn open_building(data: &Path, clock: Clock) -> BuildingCache {
    let (building, problem) = BuildingCache::open(data, clock.wall());
    if let Some(error) = problem {
        error!(%error, "the building has to come from a relay again");
    }
    building
}

/// Opening reads the disk, so it is done where blocking is allowed.
async fn open_spool(
    data: &Path,
    limits: Limits,
    clock: Clock,
) -> anyhow::Result<(Spool, SpoolState)> {
    let path = data.join(SPOOL);
    let opened = tokio::task::spawn_blocking(move || Spool::open(&path, limits, clock.wall()));
    Ok(opened.await.context("opening the spool failed")??)
}
