//! The links that a drill can be run over: numbers, and where they come from.

use std::time::Duration;

use clap::ValueEnum;

/// A link between robot and relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// 20 Mbit/s, a few milliseconds, half a percent lost, and a pause at each change of access point.
    OfficeWifi,
    /// Office Wi-Fi until the doors close: then nothing for 5 to 20 s, time and again.
    Lift,
    /// 5 Mbit/s up and 20 down, 35 ms, one percent lost, handovers, and connections that are reset.
    #[value(name = "4g")]
    FourG,
    /// 64 kbit/s both ways with 150 ms: a data plan that is used up.
    #[value(name = "64k")]
    SixtyFourK,
    /// A second of link, a second of none, and every connection is cut.
    Flapping,
    /// No link while all the records are made as fast as they go; then office Wi-Fi comes back.
    DeadForADay,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// What it carries.
    pub bits_per_second: u32,
    /// How long a packet is under way when nothing is before it.
    pub latency: Duration,
    /// By how much more that can be.
    pub jitter: Duration,
    /// The share of packets that are lost on the way and sent again.
    pub loss: f64,
    /// How much may wait before the bottleneck, as the time it takes to get through.
    pub queue: Duration,
}

/// When a link is there and when it is not. Each time is drawn between its two bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// How long it is there.
    pub open: (Duration, Duration),
    /// How long it is away.
    pub dark: (Duration, Duration),
    /// How often connections do not outlive a dark time, from 0 to 1.
    pub cut: f64,
}

/// A whole link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// From the robot to the relay.
    pub up: Shape,
    /// From the relay to the robot.
    pub down: Shape,
    /// Its bad times, where it has any.
    pub weather: Option<Weather>,
    /// There is no link until all the records are made.
    pub dead: bool,
}

impl Profile {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Its numbers. Times are the link's own: they are not compressed with the robots' lives.
    ///
    /// - Office Wi-Fi: throughput of a shared 802.11n cell. Changing the access point takes tens of
    ///   milliseconds to some seconds, depending on 802.1X; a robot that drives does so every minute
    ///   or so, here more often.
    /// - Lift: a steel cabin ends the link for as long as a ride takes. Half of the connections do
    ///   not outlive it, because an address or a NAT entry changed.
    /// - 4G: usual uplink and latency of an LTE cell under load. A handover interrupts for tens to
    ///   hundreds of milliseconds; carrier NAT forgets connections.
    /// - 64 kbit/s is what contracts fall back to, with the deep buffer of a modem.
    #[must_use]
    pub const fn terms(self) -> Terms {
        let wifi = shape(20_000_000, (5, 10), 0.005, 50);
        let steady = Terms {
            up: wifi,
            down: wifi,
            weather: None,
            dead: false,
        };
        match self {
            Self::OfficeWifi => Terms {
                weather: weather((10_000, 30_000), (100, 2_000), 0.2),
                ..steady
            },
            Self::Lift => Terms {
                weather: weather((5_000, 20_000), (5_000, 20_000), 0.5),
                ..steady
            },
            Self::FourG => Terms {
                up: shape(5_000_000, (35, 20), 0.01, 100),
                down: shape(20_000_000, (35, 20), 0.01, 100),
                weather: weather((5_000, 20_000), (50, 800), 0.3),
                dead: false,
            },
            Self::SixtyFourK => Terms {
                up: shape(64_000, (150, 20), 0.0, 400),
                down: shape(64_000, (150, 20), 0.0, 400),
                ..steady
            },
            Self::Flapping => Terms {
                weather: weather((1_000, 1_000), (1_000, 1_000), 1.0),
                ..steady
            },
            Self::DeadForADay => Terms {
                dead: true,
                ..steady
            },
        }
    }
}

const fn shape(
    bits_per_second: u32,
    (latency, jitter): (u64, u64),
    loss: f64,
    queue: u64,
) -> Shape {
    Shape {
        bits_per_second,
        latency: Duration::from_millis(latency),
        jitter: Duration::from_millis(jitter),
        loss,
        queue: Duration::from_millis(queue),
    }
}

const fn weather(open: (u64, u64), dark: (u64, u64), cut: f64) -> Option<Weather> {
    Some(Weather {
        open: (Duration::from_millis(open.0), Duration::from_millis(open.1)),
        dark: (Duration::from_millis(dark.0), Duration::from_millis(dark.1)),
        cut,
    })
}
