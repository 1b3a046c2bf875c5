//! Talks to systemd: ready, alive, stopping. Without systemd it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// How often to look after things where no watchdog asks for it.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// Tells the service manager how the event loop is. Called by the event loop itself, so that a loop
/// that hangs is noticed.
#[derive(Debug)]
pub struct Notifier {
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads from the environment whether a watchdog is on (`WATCHDOG_USEC`).
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
        }
    }

    /// How often to call [`Notifier::alive`]: twice in the watchdog's time.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.watchdog.map_or(IDLE_INTERVAL, |time| time / 2)
    }

    /// The daemon serves.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The event loop goes round.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// A sentence for `systemctl status`.
    pub fn status(&self, sentence: &str) {
        tell(&[NotifyState::Status(sentence)]);
    }

    /// The daemon stops.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager cannot be told");
    }
}
