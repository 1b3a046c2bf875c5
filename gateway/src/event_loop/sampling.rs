//! Telemetry on its way to the spool.

use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::Record;

use super::{Done, EventLoop};
use crate::spool::{self, Appended};

impl EventLoop {
    pub(super) fn next_sampling(&self) -> Option<Uptime> {
        let sampler = self.sampler.as_ref().filter(|_| !self.sampling);
        sampler.and_then(|sampler| sampler.poll_timeout())
    }

    pub(super) fn handle_sampling(&mut self, now: Stamp) {
        if let Some(sampler) = self.sampler.as_mut().filter(|_| !self.sampling) {
            let samples = sampler.handle_timeout(now);
            self.write(samples);
        }
    }

    /// Writes the samples that wait, due or not.
    pub(super) fn write_samples(&mut self) {
        if let Some(sampler) = &mut self.sampler {
            let samples = sampler.take();
            self.write(samples);
        }
    }

    fn write(&mut self, samples: Vec<Record>) {
        if samples.is_empty() {
            return;
        }
        self.sampling = true;
        let spool = self.spool.clone();
        self.push(async move {
            let written = spool.append(samples.clone()).await;
            Done::Sampled(samples, written)
        });
    }

    pub(super) fn handle_sampled(
        &mut self,
        samples: Vec<Record>,
        written: spool::Result<Appended>,
        now: Uptime,
    ) {
        self.sampling = false;
        match written {
            Ok(appended) => self.appended(&appended, now),
            Err(error) => {
                self.refused(&error);
                if let Some(sampler) = &mut self.sampler {
                    sampler.handle_refused(samples, now);
                }
            }
        }
    }
}
