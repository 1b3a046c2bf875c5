//! One direction of a shaped link as a model: when a packet that is sent now arrives. Pure; the
//! time is passed in.
//!
//! TCP hides loss behind delay: a packet that was lost comes a retransmission timeout later, and
//! everything behind it waits. So that is what a lost packet does here.

use std::time::Duration;

use super::profile::Shape;
use super::random::Random;

/// What a packet carries at most: Ethernet's 1500 bytes less the headers of IP and TCP.
pub const PACKET_BYTES: usize = 1448;
/// The shortest retransmission timeout (Linux, `TCP_RTO_MIN`); the round trip comes on top.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(200);
/// How often in a row one packet is lost at most.
const LOSSES_IN_A_ROW: u32 = 5;

/// One direction of one connection.
#[derive(Debug)]
pub struct Line {
    shape: Shape,
    random: Random,
    /// When the bottleneck has sent everything that was given to it.
    free: Duration,
    /// When the last packet arrives.
    last: Duration,
}

impl Line {
    /// A line on which nothing has been sent.
    #[must_use]
    pub const fn new(shape: Shape, random: Random) -> Self {
        Self {
            shape,
            random,
            free: Duration::ZERO,
            last: Duration::ZERO,
        }
    }

    /// When the queue before the bottleneck takes another packet, unless it does so now.
    #[must_use]
    pub fn room_at(&self, now: Duration) -> Option<Duration> {
        let at = self.free.saturating_sub(self.shape.queue);
        (at > now).then_some(at)
    }

    /// Sends a packet. Returns when it arrives, which is never before an earlier one.
    pub fn send(&mut self, bytes: usize, now: Duration) -> Duration {
        let bits = f64::from(u32::try_from(bytes.saturating_mul(8)).unwrap_or(u32::MAX));
        let takes = Duration::from_secs_f64(bits / f64::from(self.shape.bits_per_second.max(1)));
        self.free = self.free.max(now) + takes;
        let jitter = self.shape.jitter.mul_f64(self.random.fraction());
        let arrives = self.free + self.shape.latency + jitter + self.retransmissions();
        self.last = self.last.max(arrives);
        self.last
    }

    fn retransmissions(&mut self) -> Duration {
        let mut timeout = SHORTEST_TIMEOUT + self.shape.latency * 2;
        let mut waited = Duration::ZERO;
        for _ in 0..LOSSES_IN_A_ROW {
            if self.random.fraction() >= self.shape.loss {
                break;
            }
            waited += timeout;
            timeout *= 2;
        }
        waited
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape() -> impl Strategy<Value = Shape> {
        let millis = |most: u64| (0..most).prop_map(Duration::from_millis);
        let loss = prop_oneof![Just(0.0), 0.0..0.5];
        (
            8_000_u32..50_000_000,
            millis(2_000),
            millis(200),
            loss,
            millis(500),
        )
            .prop_map(|(bits_per_second, latency, jitter, loss, queue)| Shape {
                bits_per_second,
                latency,
                jitter,
                loss,
                queue,
            })
    }

    proptest! {
        #[test]
        fn packets_arrive_in_order_never_early_and_never_faster_than_the_bandwidth(
            shape in shape(),
            seed: u64,
            packets in prop::collection::vec((1..=PACKET_BYTES, 0_u64..50), 1..200),
        ) {
            let mut line = Line::new(shape, Random::new(seed, 1));
            let (mut now, mut last, mut bits) = (Duration::ZERO, Duration::ZERO, 0.0);
            for (bytes, pause) in packets {
                now += Duration::from_millis(pause);
                // As the proxy does: nothing is sent before there is room.
                now = line.room_at(now).unwrap_or(now);
                prop_assert_eq!(line.room_at(now), None);
                let arrives = line.send(bytes, now);
                bits += f64::from(u32::try_from(bytes * 8).unwrap());
                prop_assert!(arrives >= last && arrives >= now + shape.latency);
                let carried = arrives.saturating_sub(shape.latency).as_secs_f64();
                let most = carried * f64::from(shape.bits_per_second) * 1.000_001 + 1.0;
                prop_assert!(bits <= most, "{} bits in {} s", bits, carried);
                last = arrives;
            }
            // What waits is never more than the queue and the packet that was let in last.
            let packet = f64::from(u32::try_from(PACKET_BYTES * 8).unwrap());
            let packet = packet / f64::from(shape.bits_per_second);
            let waits = line.free.saturating_sub(now).as_secs_f64();
            prop_assert!(waits <= shape.queue.as_secs_f64() + packet + 1e-6);
        }
    }

    #[test]
    fn a_lost_packet_holds_up_everything_behind_it() {
        let lossy = Shape {
            bits_per_second: 10_000_000,
            latency: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.2,
            queue: Duration::from_millis(100),
        };
        let mut line = Line::new(lossy, Random::new(7, 1));
        let delays = (0..1000).map(|number| {
            let now = Duration::from_millis(number * 1000);
            line.send(100, now) - now
        });
        let late = delays.filter(|delay| *delay > SHORTEST_TIMEOUT).count();
        // 200 on the average; the seed makes it always the same.
        assert!((150..300).contains(&late), "{late}");
    }
}
