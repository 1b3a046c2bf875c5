//! The configuration of `brrbrr-relay serve`: a TOML file, the environment over it, flags over both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::data_dir::DataDir;

const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const DEFAULT_MQTT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);
/// Where gateways are sent when nothing else is known.
pub const DEFAULT_MQTT_URL: &str = "mqtt://127.0.0.1:1883";
/// What a person can guess is no protection.
const MIN_TOKEN_BYTES: usize = 16;
/// Historical names whose stores and brokers this build has not got. To go on without them would be
/// to serve an empty building from the wrong place.
const NOT_YET: [&str; 4] = ["DATABASE_URL", "REDIS_URL", "MONGO_URL", "BROKER_HOST"];

/// Why there is no usable configuration. The process ends with exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is no TOML, or has a key that is unknown or of the wrong type. The source of the error
    /// names the key and the line.
    #[error("the configuration in {path} is wrong", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong where.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be used.
    #[error("{name} is {value:?}, which is not {expected}")]
    Value {
        /// The flag, variable or key.
        name: String,
        /// What was given.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A variable that is not Unicode text.
    #[error("the environment variable {0} is not Unicode text")]
    NotText(String),
    /// A variable that asks for something this build has not got.
    #[error(
        "the environment variable {0} is set, and this build does not support it yet: it keeps \
         everything in the --data folder and runs its own MQTT broker; unset it"
    )]
    NotYet(&'static str),
    /// Something has to be given.
    #[error("{what} is not given: {how}")]
    Absent {
        /// What.
        what: &'static str,
        /// How to give it.
        how: &'static str,
    },
    /// One half of a pair.
    #[error("mqtt_tls_cert and mqtt_tls_key belong together; give both or neither")]
    HalfTls,
    /// The token is too short to be one.
    #[error(
        "the admin token in {path} has fewer than {MIN_TOKEN_BYTES} bytes; make one with `openssl rand -hex 32`",
        path = .path.display()
    )]
    WeakToken {
        /// The file that holds it.
        path: PathBuf,
    },
}

/// Everything `serve` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where everything is kept.
    pub data: DataDir,
    /// Where HTTP listens; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where MQTT listens; port 0 takes a free one.
    pub mqtt: SocketAddr,
    /// Whether writes need no admin token, as the relay's predecessor had it.
    pub legacy_open: bool,
    /// Which web pages may call the relay.
    pub cors_origins: CorsOrigins,
    /// What admins show; without one, nobody is an admin.
    pub admin_token: Option<AdminToken>,
    /// The MQTT listener's certificate and key; plain MQTT without them.
    pub mqtt_tls: Option<TlsFiles>,
    /// What gateways are told to connect to, where it is not the address that MQTT listens on.
    pub mqtt_public_url: Option<String>,
}

/// Which web pages may call the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// All.
    Any,
    /// Those of these origins, such as `https://portal.example`.
    Only(Vec<String>),
}

/// The certificate chain and the private key of a listener, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the listener's own certificate first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What admins show as a bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// Whether `offered` is the token, in time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, offered: &str) -> bool {
        self.0.as_bytes().ct_eq(offered.as_bytes()).into()
    }

    /// Reads the token from a file of its own.
    ///
    /// # Errors
    /// Where it cannot be read or is too short to be a token.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let token = read(path)?.trim().to_owned();
        if token.len() < MIN_TOKEN_BYTES {
            return Err(ConfigError::WeakToken {
                path: path.to_owned(),
            });
        }
        Ok(Self(token))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// The flags of `serve`. A flag that is not given leaves the value to the environment and the file.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// The folder that holds everything; made if it is not there [env: BRRBRR_DATA]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where HTTP listens, default 127.0.0.1:8080 [env: BRRBRR_HTTP, PORT for the port alone]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Where MQTT listens, default 127.0.0.1:1883 [env: BRRBRR_MQTT]
    #[arg(long, value_name = "ADDR")]
    pub mqtt: Option<SocketAddr>,
    /// Let anybody who reaches the relay change places, events and robots [env: BRRBRR_LEGACY_OPEN]
    #[arg(long)]
    pub legacy_open: bool,
    /// A TOML file with the same keys, in snake case [env: BRRBRR_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The MQTT listener's certificate chain in PEM [env: BRRBRR_MQTT_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub mqtt_tls_cert: Option<PathBuf>,
    /// The MQTT listener's private key in PEM [env: BRRBRR_MQTT_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub mqtt_tls_key: Option<PathBuf>,
    /// What gateways connect to, where it is not the MQTT address [env: BRRBRR_MQTT_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub mqtt_public_url: Option<String>,
}

/// Looks up an environment variable, so that tests need not change the process's own.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;

/// Puts the configuration together.
///
/// # Errors
/// Says which flag, variable or key is wrong and what would be right.
pub fn load(flags: Flags, environment: Lookup<'_>) -> Result<Config, ConfigError> {
    refuse_not_yet(environment)?;
    let env = Environment(environment);
    let path = flags.config.or(env.path("BRRBRR_CONFIG")?);
    let file = path.as_deref().map(File::read).transpose()?;
    let file = file.unwrap_or_default();

    let mut http = file.http.unwrap_or(DEFAULT_HTTP);
    if let Some(port) = env.parsed("PORT", "a port number")? {
        http.set_port(port);
    }
    let http = env.parsed("BRRBRR_HTTP", ADDRESS)?.unwrap_or(http);
    let mqtt = env.parsed("BRRBRR_MQTT", ADDRESS)?.or(file.mqtt);
    let data = flags.data.or(env.path("BRRBRR_DATA")?).or(file.data);
    let legacy_open = env
        .parsed("BRRBRR_LEGACY_OPEN", "true or false")?
        .or(file.legacy_open);
    let token_file = env
        .path("BRRBRR_ADMIN_TOKEN_FILE")?
        .or(file.admin_token_file);
    let cert = flags.mqtt_tls_cert.or(env.path("BRRBRR_MQTT_TLS_CERT")?);
    let key = flags.mqtt_tls_key.or(env.path("BRRBRR_MQTT_TLS_KEY")?);
    let public = flags
        .mqtt_public_url
        .or(env.text("BRRBRR_MQTT_PUBLIC_URL")?)
        .or(file.mqtt_public_url);
    let historical = env.text("SOCKET_CLIENT_HOST")?;
    let listed = historical.map(|hosts| {
        hosts
            .split(',')
            .map(|host| host.trim().to_owned())
            .collect()
    });

    Ok(Config {
        data: data.map(DataDir::new).ok_or(ConfigError::Absent {
            what: "the data folder",
            how: "use --data DIR, the variable BRRBRR_DATA or the key `data`",
        })?,
        http: flags.http.unwrap_or(http),
        mqtt: flags.mqtt.or(mqtt).unwrap_or(DEFAULT_MQTT),
        legacy_open: flags.legacy_open || legacy_open.unwrap_or(false),
        cors_origins: cors_origins(listed.or(file.cors_origins))?,
        admin_token: token_file.as_deref().map(AdminToken::read).transpose()?,
        mqtt_tls: match (cert.or(file.mqtt_tls_cert), key.or(file.mqtt_tls_key)) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(ConfigError::HalfTls),
        },
        mqtt_public_url: public
            .map(|url| mqtt_url("mqtt_public_url", &url))
            .transpose()?,
    })
}

/// The data folder of the commands other than `serve`.
///
/// # Errors
/// Says that none is given, or which variable asks for stores that this build has not got.
pub fn data_dir(flag: Option<PathBuf>, environment: Lookup<'_>) -> Result<DataDir, ConfigError> {
    refuse_not_yet(environment)?;
    let data = flag.or(Environment(environment).path("BRRBRR_DATA")?);
    data.map(DataDir::new).ok_or(ConfigError::Absent {
        what: "the data folder",
        how: "use --data DIR or the variable BRRBRR_DATA",
    })
}

/// Makes sure that a text is something a gateway can connect to.
///
/// # Errors
/// [`ConfigError::Value`].
pub fn mqtt_url(name: &str, url: &str) -> Result<String, ConfigError> {
    let rest = url.strip_prefix("mqtt://").or(url.strip_prefix("mqtts://"));
    let host_and_port = rest.and_then(|rest| rest.rsplit_once(':'));
    let is_fine = host_and_port.is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', '@', ' '])
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if is_fine {
        return Ok(url.to_owned());
    }
    Err(ConfigError::Value {
        name: name.to_owned(),
        value: url.to_owned(),
        expected: "mqtt://HOST:PORT or mqtts://HOST:PORT",
    })
}

const ADDRESS: &str = "an address such as 127.0.0.1:8080 or [::1]:8080";

fn refuse_not_yet(environment: Lookup<'_>) -> Result<(), ConfigError> {
    let given = |name: &&&str| environment(name).is_some_and(|value| !value.is_empty());
    match NOT_YET.iter().find(given) {
        Some(name) => Err(ConfigError::NotYet(name)),
        None => Ok(()),
    }
}

fn cors_origins(listed: Option<Vec<String>>) -> Result<CorsOrigins, ConfigError> {
    let Some(origins) = listed else {
        return Ok(CorsOrigins::Any);
    };
    if origins.iter().any(|origin| origin == "*") {
        return Ok(CorsOrigins::Any);
    }
    for origin in &origins {
        let host = origin
            .strip_prefix("http://")
            .or(origin.strip_prefix("https://"));
        let is_fine = host.is_some_and(|host| !host.is_empty() && !host.contains('/'))
            && http::HeaderValue::from_str(origin).is_ok();
        if !is_fine {
            return Err(ConfigError::Value {
                name: "an origin in cors_origins or SOCKET_CLIENT_HOST".to_owned(),
                value: origin.clone(),
                expected: "http://HOST[:PORT] or https://HOST[:PORT] without a path, or *",
            });
        }
    }
    Ok(CorsOrigins::Only(origins))
}

/// The keys of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    http: Option<SocketAddr>,
    mqtt: Option<SocketAddr>,
    legacy_open: Option<bool>,
    cors_origins: Option<Vec<String>>,
    admin_token_file: Option<PathBuf>,
    mqtt_tls_cert: Option<PathBuf>,
    mqtt_tls_key: Option<PathBuf>,
    mqtt_public_url: Option<String>,
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(&read(path)?).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// An empty variable counts as none.
struct Environment<'a>(Lookup<'a>);

impl Environment<'_> {
    fn path(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        let value = (self.0)(name).filter(|value| !value.is_empty());
        Ok(value.map(PathBuf::from))
    }

    fn text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let value = (self.0)(name).filter(|value| !value.is_empty());
        let text = value.map(std::ffi::OsString::into_string).transpose();
        text.map_err(|_| ConfigError::NotText(name.to_owned()))
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => Err(ConfigError::Value {
                name: name.to_owned(),
                value,
                expected,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;

    fn load_with(flags: Flags, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment: BTreeMap<_, _> = environment.iter().copied().collect();
        load(flags, &|name| environment.get(name).map(OsString::from))
    }

    fn flags() -> Flags {
        Flags {
            data: Some("d".into()),
            ..Flags::default()
        }
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, Flags) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags {
            config: Some(file.path().to_owned()),
            ..Flags::default()
        };
        (file, flags)
    }

    #[test]
    fn without_anything_but_a_folder_the_relay_listens_on_loopback_and_is_closed() {
        let config = load_with(flags(), &[]).unwrap();
        assert!(config.http.ip().is_loopback() && config.mqtt.ip().is_loopback());
        assert!(!config.legacy_open);
        assert_eq!(config.cors_origins, CorsOrigins::Any);
        assert_eq!(config.admin_token, None);
    }

    #[test]
    fn the_environment_is_over_the_file_and_flags_are_over_both() {
        let (_file, file_flags) =
            file("data = \"f\"\nhttp = \"127.0.0.1:1\"\nmqtt = \"127.0.0.1:2\"\n");
        let config = load_with(file_flags.clone(), &[]).unwrap();
        assert_eq!(config.data, DataDir::new("f"));
        assert_eq!((config.http.port(), config.mqtt.port()), (1, 2));

        let environment = [("BRRBRR_HTTP", "127.0.0.1:11"), ("BRRBRR_DATA", "e")];
        let config = load_with(file_flags.clone(), &environment).unwrap();
        assert_eq!(config.data, DataDir::new("e"));
        assert_eq!((config.http.port(), config.mqtt.port()), (11, 2));

        let all = Flags {
            http: Some("127.0.0.1:111".parse().unwrap()),
            ..file_flags
        };
        let config = load_with(all, &environment).unwrap();
        assert_eq!((config.http.port(), config.mqtt.port()), (111, 2));
    }

    #[test]
    fn the_historical_port_and_origin_still_work() {
        let environment = [
            ("PORT", "8001"),
            (
                "SOCKET_CLIENT_HOST",
                "http://a.example, https://b.example:8",
            ),
        ];
        let config = load_with(flags(), &environment).unwrap();
        assert_eq!(config.http, "127.0.0.1:8001".parse().unwrap());
        let both = vec![
            "http://a.example".to_owned(),
            "https://b.example:8".to_owned(),
        ];
        assert_eq!(config.cors_origins, CorsOrigins::Only(both));
    }

    #[test]
    fn stores_that_this_build_has_not_got_are_refused_and_not_ignored() {
        for name in NOT_YET {
            let error = load_with(flags(), &[(name, "x")]).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("does not support it yet"),
                "{error}"
            );
            load_with(flags(), &[(name, "")]).unwrap();
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let (file, flags) = file("data = \"d\"\nhtpp = \"127.0.0.1:1\"\n");
        let error = anyhow::Error::from(load_with(flags, &[]).unwrap_err());
        let error = format!("{error:#}");
        let path = file.path().display().to_string();
        assert!(
            error.contains("htpp") && error.contains("line 2") && error.contains(&path),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_what_would_be_right() {
        for environment in [
            ("PORT", "http"),
            ("BRRBRR_MQTT", "1883"),
            ("BRRBRR_LEGACY_OPEN", "yes"),
            ("BRRBRR_MQTT_PUBLIC_URL", "http://a:1"),
            ("SOCKET_CLIENT_HOST", "a.example"),
        ] {
            let error = load_with(flags(), &[environment]).unwrap_err().to_string();
            assert!(error.contains("which is not"), "{error}");
        }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let half = Flags {
            mqtt_tls_cert: Some("cert.pem".into()),
            ..flags()
        };
        assert!(matches!(load_with(half, &[]), Err(ConfigError::HalfTls)));
    }

    #[test]
    fn the_admin_token_comes_from_a_file_and_is_never_printed() {
        let token = tempfile::NamedTempFile::new().unwrap();
        let path = token.path().to_str().unwrap();
        std::fs::write(token.path(), "0123456789abcdef\n").unwrap();
        let config = load_with(flags(), &[("BRRBRR_ADMIN_TOKEN_FILE", path)]).unwrap();
        let admin = config.admin_token.clone().unwrap();
        assert!(admin.matches("0123456789abcdef") && !admin.matches("0123456789abcdee"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));

        std::fs::write(token.path(), "short\n").unwrap();
        let error = load_with(flags(), &[("BRRBRR_ADMIN_TOKEN_FILE", path)]).unwrap_err();
        assert!(matches!(error, ConfigError::WeakToken { .. }));
    }
}
