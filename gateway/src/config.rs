//! The configuration: a TOML file, the environment over it, flags over both.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use brrbrr_proto::enrolment::Enrolment;
use clap::Args;
use serde::Deserialize;
use thiserror::Error;

use crate::robot::RobotConfig;
use crate::robot::amqp::AmqpConfig;
use crate::robot::sim::SimConfig;
use crate::uplink::{BrokerAddress, UplinkError};

/// Where the data is without any configuration; what the systemd unit makes.
const DEFAULT_DATA: &str = "/var/lib/brrbrr-gateway";

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
    /// A section that the adapter needs is missing.
    #[error("robot.adapter is {adapter:?}, so the section [robot.{adapter}] is needed")]
    NoSection {
        /// The adapter.
        adapter: &'static str,
    },
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
    /// Where the robot's `RabbitMQ` listens. It may hold a password, so it is no flag.
    #[arg(skip)]
    pub amqp_url: Option<String>,
}

/// The variable that names the robot's `RabbitMQ`, password included.
const AMQP_URL: &str = "BRRBRR_GATEWAY_AMQP_URL";

/// Everything `run` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds everything of this gateway.
    pub data: PathBuf,
    /// The robot's side.
    pub robot: Robot,
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
    relay: Option<Relay>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RobotSection {
    adapter: Adapter,
    amqp: Option<AmqpConfig>,
    sim: Option<SimSection>,
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
    seed: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Relay {
    mqtt: Option<String>,
    ca_file: Option<PathBuf>,
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
        let robot = match section.adapter {
            Adapter::Amqp => {
                let mut amqp = section
                    .amqp
                    .ok_or(ConfigError::NoSection { adapter: "amqp" })?;
                let url = overrides
                    .amqp_url
                    .clone()
                    .or_else(|| std::env::var(AMQP_URL).ok());
                if let Some(url) = url {
                    amqp.url = url;
                }
                Robot::Amqp(amqp)
            }
            Adapter::Sim => Robot::Sim(section.sim.unwrap_or_default()),
        };
        Ok(Self {
            data: data(overrides, file.data),
            robot,
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
