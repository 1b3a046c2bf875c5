//! A timer on the clock that counts through suspend: it goes off when the board wakes, where it was
//! due while the board slept. The runtime's own timers stand still meanwhile.

use std::io;
use std::os::fd::OwnedFd;

use brrbrr_proto::time::Uptime;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Goes off at a moment since the boot.
#[derive(Debug)]
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// An alarm that is not set. Only within a runtime.
    ///
    /// # Errors
    /// Where the system gives no timer.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        #[expect(
            deprecated,
            reason = "what took its place is unsafe; an OwnedFd is as good as its promise"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits until this moment has come, and for ever where there is none. Dropping what it returns
    /// loses nothing.
    ///
    /// # Errors
    /// Where the system's timer fails.
    pub async fn until(&self, at: Option<Uptime>) -> io::Result<()> {
        let Some(at) = at else {
            return std::future::pending().await;
        };
        let at = at.since_boot();
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                // All zero would switch it off.
                tv_nsec: at.subsec_nanos().max(1).into(),
            },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &value)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
            match read {
                Ok(read) => return read.map(drop),
                // It was ready for an earlier moment.
                Err(_) => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::uptime;

    #[tokio::test]
    async fn an_alarm_goes_off_when_its_moment_has_come_and_can_be_set_again() {
        let alarm = Alarm::new().unwrap();
        alarm.until(Some(Uptime::default())).await.unwrap();
        let at = uptime().plus(Duration::from_millis(20));
        alarm.until(Some(at)).await.unwrap();
        assert!(uptime() >= at);
        let never = alarm.until(None);
        let soon = alarm.until(Some(uptime().plus(Duration::from_millis(5))));
        tokio::select! {
            _ = never => unreachable!(),
            gone = soon => gone.unwrap(),
        }
    }

    #[tokio::test]
    async fn an_alarm_that_nobody_waited_for_does_not_go_off_for_the_next_moment() {
        let alarm = Alarm::new().unwrap();
        let soon = alarm.until(Some(uptime().plus(Duration::from_millis(1))));
        drop(tokio::time::timeout(Duration::ZERO, soon).await);
        let at = uptime().plus(Duration::from_millis(30));
        alarm.until(Some(at)).await.unwrap();
        assert!(uptime() >= at);
    }
}
