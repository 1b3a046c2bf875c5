//! What the broker counts, for the metrics page. Nothing here is ever reset.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a newcomer was turned away before it was connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// There are as many connections as the broker takes.
    TotalLimit,
    /// There are as many connections from this address as the broker takes.
    AddressLimit,
    /// The TLS handshake failed or took too long.
    Tls,
    /// No whole CONNECT came in time.
    Silent,
    /// The first bytes were not a CONNECT.
    Protocol,
    /// The CONNECT was not of MQTT 3.1.1.
    Level,
    /// The client id is not `brrbrr-` and a robot id, or the user name is not that robot id.
    ClientId,
    /// The password is wrong, or there is no such robot.
    Credentials,
    /// The last will is not a small payload on the robot's own presence topic.
    Will,
    /// Whoever knows the passwords could not be asked.
    Unavailable,
}

impl Refusal {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 10] = [
        Self::TotalLimit,
        Self::AddressLimit,
        Self::Tls,
        Self::Silent,
        Self::Protocol,
        Self::Level,
        Self::ClientId,
        Self::Credentials,
        Self::Will,
        Self::Unavailable,
    ];

    /// The value of the metric's `reason` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TotalLimit => "total_limit",
            Self::AddressLimit => "address_limit",
            Self::Tls => "tls",
            Self::Silent => "silent",
            Self::Protocol => "protocol",
            Self::Level => "level",
            Self::ClientId => "client_id",
            Self::Credentials => "credentials",
            Self::Will => "will",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a connected robot is connected no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It said DISCONNECT. The only end that discards the last will.
    Goodbye,
    /// The connection broke or was closed.
    Lost,
    /// Nothing came for one and a half times the keep-alive.
    Silent,
    /// It did not read what was sent to it.
    SlowReader,
    /// It sent something that is not MQTT 3.1.1 as this broker speaks it.
    Protocol,
    /// It published to a topic that is not its own.
    Denied,
    /// The relay took nothing for too long, so the robot is sent away to come again.
    Congested,
    /// The same robot connected again.
    TakenOver,
    /// The relay asked for it.
    Removed,
}

impl End {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::Goodbye,
        Self::Lost,
        Self::Silent,
        Self::SlowReader,
        Self::Protocol,
        Self::Denied,
        Self::Congested,
        Self::TakenOver,
        Self::Removed,
    ];

    /// The value of the metric's `reason` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::SlowReader => "slow_reader",
            Self::Protocol => "protocol",
            Self::Denied => "denied",
            Self::Congested => "congested",
            Self::TakenOver => "taken_over",
            Self::Removed => "removed",
        }
    }
}

/// A reading of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// TCP connections that were taken from the listener.
    pub accepted: u64,
    /// Robots that were connected.
    pub connected: u64,
    /// Times the operating system gave no connection, for example for want of file descriptors.
    pub accept_errors: u64,
    /// Frames that came from robots and went to the relay.
    pub frames_in: u64,
    /// Frames that were written to robots.
    pub frames_out: u64,
    /// Frames for robots that had gone when they came through the router.
    pub frames_lost: u64,
    /// A robot's publishes to a relay that is not this one; acknowledged and thrown away.
    pub stray_publishes: u64,
    /// Publishes to a topic that is not the robot's own.
    pub denied_publishes: u64,
    /// Topic filters that were answered with a failure.
    pub denied_subscriptions: u64,
    /// By [`Refusal`], in the order of [`Refusal::ALL`].
    refused: [u64; 10],
    /// By [`End`], in the order of [`End::ALL`].
    ended: [u64; 9],
}

impl Counters {
    /// How many newcomers were turned away for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        pick(&Refusal::ALL, &self.refused, reason)
    }

    /// How many connected robots went for this reason.
    #[must_use]
    pub fn ended(&self, reason: End) -> u64 {
        pick(&End::ALL, &self.ended, reason)
    }
}

fn pick<R: PartialEq>(all: &[R], counts: &[u64], reason: R) -> u64 {
    all.iter()
        .zip(counts)
        .find_map(|(each, count)| (*each == reason).then_some(*count))
        .unwrap_or(0)
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) accepted: AtomicU64,
    pub(super) connected: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
    pub(super) frames_lost: AtomicU64,
    pub(super) stray_publishes: AtomicU64,
    pub(super) denied_publishes: AtomicU64,
    pub(super) denied_subscriptions: AtomicU64,
    refused: [AtomicU64; 10],
    ended: [AtomicU64; 9],
}

impl Tally {
    pub(super) fn refused(&self, reason: Refusal) {
        bump(&Refusal::ALL, &self.refused, reason);
    }

    pub(super) fn ended(&self, reason: End) {
        bump(&End::ALL, &self.ended, reason);
    }

    pub(super) fn read(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            accepted: load(&self.accepted),
            connected: load(&self.connected),
            accept_errors: load(&self.accept_errors),
            frames_in: load(&self.frames_in),
            frames_out: load(&self.frames_out),
            frames_lost: load(&self.frames_lost),
            stray_publishes: load(&self.stray_publishes),
            denied_publishes: load(&self.denied_publishes),
            denied_subscriptions: load(&self.denied_subscriptions),
            refused: self.refused.each_ref().map(load),
            ended: self.ended.each_ref().map(load),
        }
    }
}

fn bump<R: PartialEq>(all: &[R], counts: &[AtomicU64], reason: R) {
    for (each, count) in all.iter().zip(counts) {
        if *each == reason {
            add(count);
        }
    }
}

/// Counts one.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
