//! The configuration: a TOML file, the environment over it, flags over both.

mod local;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brrbrr_proto::enrolment::Enrolment;
use brrbrr_proto::live::Pose;
use clap::Args;
use serde::Deserialize;
use thiserror::Error;

pub use self::local::Local;
use self::local::LocalSection;
use crate::command::watching::MOTION_LIMIT;
use crate::robot::RobotConfig;
use crate::robot::amqp::wire::Wire;
use crate::robot::amqp::{AmqpConfig, AmqpUrl};
use crate::robot::sim::SimConfig;
use crate::spool::Limits;
use crate::uplink::{BrokerAddress, UplinkError};

/// Where the data is without any configuration; what the systemd unit makes.
const DEFAULT_DATA: &str = "/var/lib/brrbrr-gateway";

/// What the configuration calls a megabyte.
const MEGABYTE: u64 = 1024 * 1024;
/// A smaller spool would hold less than an hour of a busy robot.
const SMALLEST_SPOOL: u32 = 16;

/// How far apart samples of the status are, in seconds, without any configuration.
const SAMPLE_INTERVAL: f64 = 1.0;

/// For how many seconds a running motion may be silent: none is over within one, and none takes a
/// week.
const MOTION_LIMIT_SECONDS: std::ops::RangeInclusive<f64> = 1.0..=604_800.0;

/// Why there is no usable configuration. The process ends with exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A file is no TOML, or has a key that is unknown or of the wrong type. The text names the key
    /// and the line.
    #[error("{}, line {line}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1 on.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The robot's broker is named nowhere.
    #[error("robot.amqp.url is needed, or the environment variable {AMQP_URL}")]
    NoBroker,
    /// The robot's broker has no usable address.
    #[error("robot.amqp.url: {0}")]
    Broker(String),
    /// Something has to be given.
    #[error("no robot is configured: give --config FILE with a [robot] section")]
    NoRobot,
    /// A value that cannot be used.
    #[error("{key} is {value}, which is not {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What was given; never a secret.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
}

/// What the command line and the environment say.
#[derive(Debug, Default, Clone, Args)]
pub struct Overrides {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "BRRBRR_GATEWAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// The folder that holds everything of this gateway [default: /var/lib/brrbrr-gateway].
    #[arg(long, value_name = "DIR", env = "BRRBRR_GATEWAY_DATA")]
    pub data: Option<PathBuf>,
    /// Where the relay's MQTT broker listens, in place of what the enrolment says.
    #[arg(long, value_name = "URL", env = "BRRBRR_GATEWAY_RELAY")]
    pub relay: Option<String>,
}

/// The variable that names the robot's `RabbitMQ`. It may hold a password, so there is no flag.
const AMQP_URL: &str = "BRRBRR_GATEWAY_AMQP_URL";

/// Everything `run` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds everything of this gateway.
    pub data: PathBuf,
    /// The robot's side.
    pub robot: Robot,
    /// For how long nothing may be heard of a running motion.
    pub motion_limit: Duration,
    /// How much of the disk the spool may take.
    pub spool: Limits,
    /// How far apart samples of the status are at least that are kept; `None` for no telemetry.
    pub telemetry: Option<Duration>,
    /// Where programs on the board may ask besides the control socket.
    pub local: Local,
    relay: Relay,
}

/// The robot's side.
#[derive(Debug, Clone)]
pub enum Robot {
    /// Behind `RabbitMQ`.
    Amqp(AmqpConfig),
    /// Simulated; where no floor is given it drives on the enrolment's.
    Sim(SimSection),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    robot: Option<RobotSection>,
    spool: Option<SpoolSection>,
    telemetry: Option<Telemetry>,
    relay: Option<Relay>,
    local: Option<LocalSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolSection {
    max_megabytes: Option<u32>,
    min_free_megabytes: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Telemetry {
    /// Seconds; 0 for none.
    interval: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RobotSection {
    adapter: Adapter,
    /// Seconds.
    motion_limit: Option<f64>,
    amqp: Option<AmqpSection>,
    sim: Option<SimSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AmqpSection {
    /// A password may be in it, so it is only ever parsed and never shown.
    url: Option<String>,
    wire: Option<Wire>,
    to_robot: Option<String>,
    from_robot: Option<String>,
    queue: Option<String>,
    queue_length: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Adapter {
    Amqp,
    Sim,
}

/// How the simulated robot behaves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimSection {
    floor: Option<i32>,
    x: Option<f64>,
    y: Option<f64>,
    speed: Option<f64>,
    battery: Option<f64>,
    drain: Option<f64>,
    seed: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Relay {
    mqtt: Option<String>,
    ca_file: Option<PathBuf>,
    max_bytes_per_second: Option<u32>,
}

impl Config {
    /// Reads everything.
    ///
    /// # Errors
    /// Names the key, and the line where there is one.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let file = File::read(overrides)?;
        let section = file.robot.ok_or(ConfigError::NoRobot)?;
        let mut relay = file.relay.unwrap_or_default();
        if let Some(url) = &overrides.relay {
            relay.mqtt = Some(url.clone());
        }
        let motion_limit = section.motion_limit()?;
        let robot = match section.adapter {
            Adapter::Amqp => {
                let url = std::env::var(AMQP_URL).ok();
                Robot::Amqp(section.amqp.unwrap_or_default().with_url(url)?)
            }
            Adapter::Sim => Robot::Sim(section.sim.unwrap_or_default().checked()?),
        };
        if relay.max_bytes_per_second == Some(0) {
            return Err(ConfigError::Value {
                key: "relay.max_bytes_per_second",
                value: "0".to_owned(),
                expected: "a number of bytes above 0; leave it out for no limit",
            });
        }
        Ok(Self {
            data: data(overrides, file.data),
            robot,
            motion_limit,
            spool: file.spool.unwrap_or_default().limits()?,
            telemetry: file.telemetry.unwrap_or_default().interval()?,
            local: file.local.unwrap_or_default().checked()?,
            relay,
        })
    }

    /// Only where the data is, for commands that need no more.
    ///
    /// # Errors
    /// Where the file that is named cannot be read.
    pub fn data_only(overrides: &Overrides) -> Result<PathBuf, ConfigError> {
        Ok(data(overrides, File::read(overrides)?.data))
    }

    /// How many bytes a second may go to the relay at most.
    #[must_use]
    pub const fn max_bytes_per_second(&self) -> Option<u32> {
        self.relay.max_bytes_per_second
    }

    /// Where the relay's broker listens.
    ///
    /// # Errors
    /// Where neither the configuration nor the enrolment names a usable address.
    pub fn broker(&self, enrolment: &Enrolment) -> Result<BrokerAddress, UplinkError> {
        let url = self.relay.mqtt.as_ref().unwrap_or(&enrolment.mqtt);
        let address: BrokerAddress = url.parse()?;
        let is_local = address.host == "localhost"
            || address
                .host
                .parse()
                .is_ok_and(|ip: IpAddr| ip.is_loopback());
        if !address.tls && !is_local {
            tracing::warn!(
                host = address.host,
                "MQTT without TLS: frames are sealed, but who speaks and how much is not"
            );
        }
        Ok(address)
    }

    /// The certificates that may sign the broker's.
    ///
    /// # Errors
    /// Where the file that is named cannot be read.
    pub fn ca(&self, enrolment: &Enrolment) -> Result<Option<String>, ConfigError> {
        match &self.relay.ca_file {
            Some(path) => read(path).map(Some),
            None => Ok(enrolment.ca.clone()),
        }
    }
}

impl Robot {
    /// The adapter's name in the configuration.
    #[must_use]
    pub const fn adapter_name(&self) -> &'static str {
        match self {
            Self::Amqp(_) => "amqp",
            Self::Sim(_) => "sim",
        }
    }

    /// What to start.
    #[must_use]
    pub fn adapter(&self, enrolment: &Enrolment) -> RobotConfig {
        match self {
            Self::Amqp(amqp) => RobotConfig::Amqp(amqp.clone()),
            Self::Sim(sim) => RobotConfig::Sim(sim.on_floor(enrolment.floor)),
        }
    }
}

impl RobotSection {
    fn motion_limit(&self) -> Result<Duration, ConfigError> {
        let Some(seconds) = self.motion_limit else {
            return Ok(MOTION_LIMIT);
        };
        if !MOTION_LIMIT_SECONDS.contains(&seconds) {
            return Err(ConfigError::Value {
                key: "robot.motion_limit",
                value: seconds.to_string(),
                expected: "1 to 604800 seconds",
            });
        }
        Ok(Duration::from_secs_f64(seconds))
    }
}

impl SpoolSection {
    fn limits(&self) -> Result<Limits, ConfigError> {
        let bytes = |megabytes: u32| u64::from(megabytes) * MEGABYTE;
        let usual = Limits::default();
        if let Some(megabytes) = self.max_megabytes
            && megabytes < SMALLEST_SPOOL
        {
            return Err(ConfigError::Value {
                key: "spool.max_megabytes",
                value: megabytes.to_string(),
                expected: "16 megabytes or more",
            });
        }
        Ok(Limits {
            max_bytes: self.max_megabytes.map_or(usual.max_bytes, bytes),
            min_free_bytes: self.min_free_megabytes.map_or(usual.min_free_bytes, bytes),
        })
    }
}

impl Telemetry {
    fn interval(&self) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.interval.unwrap_or(SAMPLE_INTERVAL);
        if seconds == 0.0 {
            return Ok(None);
        }
        if !(0.1..=3600.0).contains(&seconds) {
            return Err(ConfigError::Value {
                key: "telemetry.interval",
                value: seconds.to_string(),
                expected: "0 for none, or 0.1 to 3600 seconds",
            });
        }
        Ok(Some(Duration::from_secs_f64(seconds)))
    }
}

impl AmqpSection {
    fn with_url(self, from_environment: Option<String>) -> Result<AmqpConfig, ConfigError> {
        let url = from_environment.or(self.url).ok_or(ConfigError::NoBroker)?;
        let url: AmqpUrl = url.parse().map_err(ConfigError::Broker)?;
        Ok(AmqpConfig {
            url,
            wire: self.wire.unwrap_or_default(),
            to_robot: self.to_robot.unwrap_or_else(|| "serverToRobot".to_owned()),
            from_robot: self
                .from_robot
                .unwrap_or_else(|| "robotToServer".to_owned()),
            queue: self.queue.unwrap_or_else(|| "brrbrr-gateway".to_owned()),
            queue_length: self.queue_length.unwrap_or(10_000),
        })
    }
}

impl SimSection {
    /// Refuses what no robot can be like.
    fn checked(self) -> Result<Self, ConfigError> {
        let is_speed = |value: f64| value.is_finite() && value > 0.0;
        let is_share = |value: f64| (0.0..=1.0).contains(&value);
        for (key, value, is_fine, expected) in [
            (
                "robot.sim.x",
                self.x,
                &f64::is_finite as &dyn Fn(f64) -> bool,
                "a number of metres",
            ),
            ("robot.sim.y", self.y, &f64::is_finite, "a number of metres"),
            (
                "robot.sim.speed",
                self.speed,
                &is_speed,
                "a speed above 0 m/s",
            ),
            (
                "robot.sim.battery",
                self.battery,
                &is_share,
                "a share from 0 to 1",
            ),
            (
                "robot.sim.drain",
                self.drain,
                &is_share,
                "a share of the charge per metre",
            ),
        ] {
            if let Some(value) = value.filter(|value| !is_fine(*value)) {
                let value = value.to_string();
                return Err(ConfigError::Value {
                    key,
                    value,
                    expected,
                });
            }
        }
        Ok(self)
    }

    /// The simulated robot; on this floor unless the configuration names another.
    fn on_floor(&self, floor: i32) -> SimConfig {
        SimConfig {
            start: Pose {
                x: self.x.unwrap_or(0.0),
                y: self.y.unwrap_or(0.0),
                theta: Some(0.0),
            },
            floor: self.floor.unwrap_or(floor),
            speed: self.speed.unwrap_or(0.8),
            battery: self.battery.unwrap_or(1.0),
            drain: self.drain.unwrap_or(0.000_05),
            tolerance: 0.1,
            status_interval: Duration::from_secs(1),
            seed: self.seed.unwrap_or(1),
        }
    }
}

impl File {
    fn read(overrides: &Overrides) -> Result<Self, ConfigError> {
        let Some(path) = &overrides.config else {
            return Ok(Self::default());
        };
        let text = read(path)?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            ConfigError::File {
                path: path.clone(),
                line: before.matches('\n').count() + 1,
                // Not the error's own text: that quotes the line, and the line may hold a password.
                reason: error.message().to_owned(),
            }
        })
    }
}

fn data(overrides: &Overrides, file: Option<PathBuf>) -> PathBuf {
    let named = overrides.data.clone().or(file);
    named.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|reason| ConfigError::Read {
        path: path.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = Overrides {
            config: Some(path),
            ..Overrides::default()
        };
        Config::load(&overrides)
    }

    #[test]
    fn the_example_file_is_a_whole_configuration() {
        let config = load(include_str!("../brrbrr-gateway.example.toml")).unwrap();
        assert_eq!(config.robot.adapter_name(), "amqp");
        assert_eq!(config.data, PathBuf::from("/var/lib/brrbrr-gateway"));
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_without_the_line_s_text() {
        let text = "[robot]\nadapter = \"amqp\"\n[robot.amqp]\nur1 = \"amqp://u:hunter2@h\"\n";
        let message = load(text).unwrap_err().to_string();
        assert!(
            message.contains("line 4") && message.contains("ur1"),
            "{message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn what_no_robot_can_be_like_is_refused() {
        for (line, named) in [
            ("speed = 0.0", "robot.sim.speed"),
            ("speed = inf", "robot.sim.speed"),
            ("battery = 1.5", "robot.sim.battery"),
            ("x = nan", "robot.sim.x"),
            ("colour = 1", "colour"),
        ] {
            let text = format!("[robot]\nadapter = \"sim\"\n[robot.sim]\n{line}\n");
            let message = load(&text).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn a_motion_may_be_silent_for_half_an_hour_or_for_as_long_as_is_configured() {
        let with = |line| load(&format!("[robot]\nadapter = \"sim\"\n{line}\n"));
        assert_eq!(with("").unwrap().motion_limit, Duration::from_secs(1800));
        let configured = with("motion_limit = 2.5").unwrap().motion_limit;
        assert_eq!(configured, Duration::from_millis(2500));
        for line in ["motion_limit = 0", "motion_limit = nan"] {
            let message = with(line).unwrap_err().to_string();
            assert!(message.contains("robot.motion_limit"), "{message}");
        }
    }

    #[test]
    fn an_adapter_that_lacks_something_says_what() {
        let message = load("[robot]\nadapter = \"amqp\"\n")
            .unwrap_err()
            .to_string();
        assert!(message.contains("robot.amqp.url"), "{message}");
        let message = load("").unwrap_err().to_string();
        assert!(message.contains("[robot]"), "{message}");
    }
}
