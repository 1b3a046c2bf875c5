//! The way through rumqttd's router: two local links, and a budget for what may be between them.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use brrbrr_proto::topic::Topic;
use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Packet, Publish};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::registry::lock;

/// What may be inside the router in each direction, in the unit of [`weight`]. At loopback speed it
/// is a few milliseconds of traffic, so a larger one would only hold more memory.
const BUDGET: u32 = 2 * 1024 * 1024;

/// Added to a frame's length, so that many small frames are not taken for little. It is about what
/// the router keeps beside the payload.
const FRAME_OVERHEAD: usize = 512;

/// The router keeps the newest `SEGMENTS - 1` full segments of every filter at least, so with
/// [`BUDGET`] it never skips what has not been read; it skips silently past that. It keeps them after
/// they were read too, so in time it holds two such logs, 6 MiB of payloads, whatever goes on.
const SEGMENT_BYTES: usize = 512 * 1024;
const SEGMENTS: usize = 6;

/// How many frames the router hands over at once. It stops at 200 anyhow.
const SWEEP: u64 = 200;

/// How long a robot's frame waits for the relay to take others. Longer than any pause that a
/// working relay makes, and shorter than a gateway's patience.
const BUDGET_WAIT: Duration = Duration::from_secs(10);

/// Inside the router a topic has its side before it. One filter covers a whole side, because the
/// router keeps the order of one filter's frames but not that between filters.
const FROM_ROBOTS: &str = "from-robots";
const TO_ROBOTS: &str = "to-robots";

/// How long the router may take to start. It takes well under a millisecond.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a frame counts for: its bytes and a little for the frame itself.
pub(super) fn weight(length: usize) -> u32 {
    u32::try_from(length.saturating_add(FRAME_OVERHEAD)).unwrap_or(u32::MAX)
}

/// The router's thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RouterGone;

/// Why a frame did not get into the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The budget is spent.
    Full,
    /// See [`RouterGone`].
    RouterGone,
}

/// Both sides of the router.
pub(super) struct Fabric {
    /// From the robots' connections to the relay.
    pub(super) up: Trunk,
    pub(super) from_robots: Tap,
    /// From the relay to the robots' connections.
    pub(super) down: Trunk,
    pub(super) to_robots: Tap,
}

/// Starts a router and links both sides to it. Its thread stays until the process ends, because
/// nothing in its interface stops it.
pub(super) fn start() -> Result<Fabric, Box<LinkError>> {
    let router = Router::new(
        0,
        RouterConfig {
            max_connections: 2,
            max_outgoing_packet_count: SWEEP,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
    );
    let events = router.spawn();
    let (mut front_tx, mut front_rx, _) = LinkBuilder::new("front", events.clone()).build()?;
    let (mut relay_tx, mut relay_rx, _) = LinkBuilder::new("relay", events).build()?;
    subscribe(&mut front_tx, &mut front_rx, TO_ROBOTS)?;
    subscribe(&mut relay_tx, &mut relay_rx, FROM_ROBOTS)?;
    Ok(Fabric {
        up: Trunk::new(front_tx, FROM_ROBOTS),
        from_robots: Tap(relay_rx),
        down: Trunk::new(relay_tx, TO_ROBOTS),
        to_robots: Tap(front_rx),
    })
}

/// Subscribes to a whole side, and waits until that is in force: the router forgets at once what
/// nobody has subscribed to.
fn subscribe(tx: &mut LinkTx, rx: &mut LinkRx, side: &str) -> Result<(), Box<LinkError>> {
    tx.subscribe(format!("{side}/#"))?;
    let deadline = Instant::now() + START_LIMIT;
    while !matches!(
        rx.recv_deadline(deadline)?,
        Some(Notification::DeviceAck(_))
    ) {}
    Ok(())
}

/// A way into the router, shared by everything that publishes in one direction.
pub(super) struct Trunk {
    side: &'static str,
    link: Mutex<LinkTx>,
    budget: Semaphore,
}

impl fmt::Debug for Trunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trunk")
            .field("side", &self.side)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl Trunk {
    fn new(link: LinkTx, side: &'static str) -> Self {
        Self {
            side,
            link: Mutex::new(link),
            budget: Semaphore::new(usize::try_from(BUDGET).unwrap_or(0)),
        }
    }

    /// Puts a frame into the router, waiting for room for a limited time.
    pub(super) async fn publish(&self, topic: Topic, payload: Bytes) -> Result<(), NotSent> {
        let room = self.budget.acquire_many(weight(payload.len()));
        match timeout(BUDGET_WAIT, room).await {
            Ok(Ok(room)) => room.forget(),
            Ok(Err(_)) | Err(_) => return Err(NotSent::Full),
        }
        self.put(topic, payload).map_err(|_| NotSent::RouterGone)
    }

    /// Puts a frame into the router, or says at once that there is no room.
    pub(super) fn try_publish(&self, topic: Topic, payload: Bytes) -> Result<(), NotSent> {
        match self.budget.try_acquire_many(weight(payload.len())) {
            Ok(room) => room.forget(),
            Err(_) => return Err(NotSent::Full),
        }
        self.put(topic, payload).map_err(|_| NotSent::RouterGone)
    }

    /// Says that a frame of this length has left the router.
    pub(super) fn has_left(&self, length: usize) {
        let weight = usize::try_from(weight(length)).unwrap_or(0);
        self.budget.add_permits(weight);
    }

    fn put(&self, topic: Topic, payload: Bytes) -> Result<(), RouterGone> {
        let topic = Bytes::from(format!("{}/{topic}", self.side));
        let mut link = lock(&self.link);
        {
            let mut waiting = link.buffer();
            if !waiting.is_empty() {
                // The router has been woken for what waits here and takes all of it at once.
                let publish = Publish::new(topic, payload, false);
                waiting.push_back(Packet::Publish(publish, None));
                return Ok(());
            }
        }
        // One wake-up of each link is under way at most, so this never waits for the router.
        link.publish(topic, payload)
            .map(|_| ())
            .map_err(|_| RouterGone)
    }
}

/// A way out of the router.
#[derive(Debug)]
pub(super) struct Tap(LinkRx);

impl Tap {
    /// The next frame. Not to be cancelled in the middle.
    pub(super) async fn next(&mut self) -> Result<(Topic, Bytes), RouterGone> {
        loop {
            match self.0.next().await.map_err(|_| RouterGone)? {
                Some(Notification::Forward(forward)) => {
                    let topic = without_side(&forward.publish.topic);
                    debug_assert!(topic.is_some(), "only topics of the link are put in");
                    if let Some(topic) = topic {
                        return Ok((topic, forward.publish.payload));
                    }
                }
                // The router has stopped handing over until it hears that there is room again.
                Some(Notification::Unschedule) => self.0.wake().await.map_err(|_| RouterGone)?,
                Some(
                    Notification::DeviceAck(_)
                    | Notification::ReplicaData { .. }
                    | Notification::ReplicaAcks { .. }
                    | Notification::Shadow(_)
                    | Notification::Disconnect(..),
                )
                | None => {}
            }
        }
    }
}

fn without_side(topic: &[u8]) -> Option<Topic> {
    let (_, topic) = std::str::from_utf8(topic).ok()?.split_once('/')?;
    topic.parse().ok()
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::frame::MAX_FRAME_BYTES;

    use super::*;

    #[test]
    fn the_router_remembers_more_than_the_budget_lets_in() {
        let kept = SEGMENT_BYTES * (SEGMENTS - 1);
        assert!(usize::try_from(BUDGET).unwrap() <= kept);
        assert!(weight(MAX_FRAME_BYTES) <= BUDGET / 4);
    }

    #[cfg(debug_assertions)] // only then does the router mind what is done to it here
    #[tokio::test]
    async fn the_end_of_the_router_is_noticed_on_all_sides() {
        let mut fabric = start().unwrap();
        // A wake-up that the router has not asked for.
        while fabric.from_robots.0.wake().await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fabric.from_robots.next().await, Err(RouterGone));
        assert_eq!(fabric.to_robots.next().await, Err(RouterGone));
        let hello = Topic::Hello(brrbrr_proto::id::RobotId::new(1).unwrap());
        let sent = fabric.up.publish(hello, Bytes::new()).await;
        assert_eq!(sent, Err(NotSent::RouterGone));
    }

    #[tokio::test]
    async fn what_is_put_in_right_after_the_start_comes_out_in_order() {
        let robot = brrbrr_proto::id::RobotId::new(1).unwrap();
        let topics = [
            Topic::Presence(robot),
            Topic::Hello(robot),
            Topic::Up(brrbrr_proto::id::RelayId(1), robot),
        ];
        for _ in 0..50 {
            let mut fabric = start().unwrap();
            for topic in topics {
                fabric.up.publish(topic, Bytes::new()).await.unwrap();
                fabric.down.try_publish(topic, Bytes::new()).unwrap();
            }
            for topic in topics {
                for tap in [&mut fabric.from_robots, &mut fabric.to_robots] {
                    let (heard, _) = timeout(START_LIMIT, tap.next()).await.unwrap().unwrap();
                    assert_eq!(heard, topic);
                }
            }
        }
    }
}
