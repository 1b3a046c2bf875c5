//! `brrbrr-relay robot …`: the fleet, and the enrolment files that gateways start from.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use brrbrr_proto::enrolment::{Enrolment, FORMAT};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use clap::{Args, Subcommand};
use serde::Serialize;
use thiserror::Error;

use super::{DataArgs, open_catalog, remark, say};
use crate::catalog::{Catalog, Robot, stored_name};
use crate::config::{self, DEFAULT_MQTT_URL, Lookup};
use crate::data_dir::{DataDir, create_private, write_all_synced};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a robot, print its id, and write the enrolment file for its gateway
    #[command(after_help = "\
Whoever holds the enrolment file can speak for the robot: carry it to the robot's board by a safe
way, run `brrbrr-gateway enroll` there, and delete it.

Examples:
  brrbrr-relay robot add guide-7 --floor 7 --data ./data --out guide-7.json
  brrbrr-relay robot add guide-7 --floor 7 --home 20.0,446.0,1.57 --data ./data \\
      --out guide-7.json --mqtt-url mqtts://relay.example:8883 --mqtt-ca ca.pem")]
    Add(AddArgs),
    /// List the robots
    List(ListArgs),
    /// Remove a robot and its commands; its gateway is not let in any more
    #[command(after_help = "\
Example:
  brrbrr-relay robot remove guide-7 --data ./data")]
    Remove(RemoveArgs),
    /// Give a robot a new secret and write the enrolment file; the old secret is void
    #[command(after_help = "\
Example:
  brrbrr-relay robot enrol guide-7 --data ./data --out guide-7.json")]
    Enrol(EnrolArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What people call it; no other robot may have the name
    name: String,
    /// The floor it serves; basements are negative
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    floor: i32,
    /// Where it goes when a guest is done: metres on the floor's map, and a heading in radians
    #[arg(long, value_name = "X,Y[,THETA]", allow_hyphen_values = true)]
    home: Option<Home>,
    #[command(flatten)]
    enrolment: EnrolmentArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Its name, or its id where no robot has that name
    #[arg(value_name = "NAME_OR_ID")]
    robot: String,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
pub(super) struct EnrolArgs {
    /// Its name, or its id where no robot has that name
    #[arg(value_name = "NAME_OR_ID")]
    robot: String,
    #[command(flatten)]
    enrolment: EnrolmentArgs,
}

#[derive(Debug, Args)]
struct EnrolmentArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The enrolment file to write; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What the gateway connects to; by default, where `serve` last listened
    #[arg(long, value_name = "URL")]
    mqtt_url: Option<String>,
    /// The certificates in PEM that sign the broker's; the system's by default
    #[arg(long, value_name = "FILE")]
    mqtt_ca: Option<PathBuf>,
}

/// A pose on the command line.
#[derive(Debug, Clone, Copy)]
struct Home(Pose);

/// A text is not a pose.
#[derive(Debug, Error)]
#[error("a home pose is X,Y or X,Y,THETA in metres and radians, for example 20.0,446.0,1.57")]
struct NotAPose;

impl FromStr for Home {
    type Err = NotAPose;

    fn from_str(text: &str) -> Result<Self, NotAPose> {
        let number = |part: &str| {
            part.trim()
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite())
        };
        let numbers: Option<Vec<f64>> = text.split(',').map(number).collect();
        match numbers.as_deref() {
            Some(&[x, y]) => Ok(Self(Pose { x, y, theta: None })),
            Some(&[x, y, theta]) => Ok(Self(Pose {
                x,
                y,
                theta: Some(theta),
            })),
            Some(_) | None => Err(NotAPose),
        }
    }
}

impl Command {
    pub(super) async fn run(self, environment: Lookup<'_>) -> anyhow::Result<()> {
        match self {
            Self::Add(args) => add(args, environment).await,
            Self::List(args) => list(args, environment).await,
            Self::Remove(args) => remove(args, environment).await,
            Self::Enrol(args) => enrol(args, environment).await,
        }
    }
}

async fn add(args: AddArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    if stored_name(&args.name).trim().is_empty() {
        bail!("a robot needs a name");
    }
    let data = config::data_dir(args.enrolment.data.data.clone(), environment)?;
    data.create()?;
    let contact = Contact::find(&args.enrolment, &data)?;
    let catalog = open_catalog(&data)?;
    // The file comes first: if it cannot be made, there is no robot whose secret nobody has.
    let file = Reserved::create(&args.enrolment.out)?;
    let secret = fresh_secret()?;
    let home = args.home.map(|Home(pose)| pose);
    let robot = catalog
        .add_robot(&args.name, args.floor, home, &secret)
        .await?;
    match file.fill(&contact.enrolment(&robot, &secret)) {
        Ok(filled) => filled.keep(),
        Err(error) => {
            catalog
                .remove_robot(robot.id)
                .await
                .with_context(|| format!("{error:#}; robot {} is still there", robot.id))?;
            return Err(error);
        }
    }
    contact.explain()?;
    say(&format!("{}\n", robot.id))
}

async fn enrol(args: EnrolArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let data = config::data_dir(args.enrolment.data.data.clone(), environment)?;
    data.expect_catalog()?;
    let contact = Contact::find(&args.enrolment, &data)?;
    let catalog = open_catalog(&data)?;
    let robot = find(&catalog, &args.robot).await?;
    let file = Reserved::create(&args.enrolment.out)?;
    let secret = fresh_secret()?;
    // Whole on the disk before the old secret is void; without the change it is worth nothing.
    let filled = file.fill(&contact.enrolment(&robot, &secret))?;
    catalog.renew_secret(robot.id, &secret).await?;
    filled.keep();
    contact.explain()?;
    say(&format!("{}\n", robot.id))
}

async fn list(args: ListArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let data = config::data_dir(args.data.data, environment)?;
    data.expect_catalog()?;
    let robots = open_catalog(&data)?.robots().await?;
    if args.json {
        let listed: Vec<Listed<'_>> = robots.iter().map(Listed::from).collect();
        return say(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    }
    let mut text = String::new();
    for robot in robots {
        let home = match robot.home {
            Some(Pose { x, y, theta: None }) => format!("{x},{y}"),
            Some(Pose {
                x,
                y,
                theta: Some(theta),
            }) => format!("{x},{y},{theta}"),
            None => "-".to_owned(),
        };
        text += &format!("{}\t{}\t{}\t{home}\n", robot.id, robot.name, robot.floor);
    }
    say(&text)
}

async fn remove(args: RemoveArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let data = config::data_dir(args.data.data, environment)?;
    data.expect_catalog()?;
    let catalog = open_catalog(&data)?;
    let robot = find(&catalog, &args.robot).await?;
    catalog.remove_robot(robot.id).await?;
    say(&format!("{}\n", robot.id))
}

pub(super) async fn find(catalog: &dyn Catalog, name_or_id: &str) -> anyhow::Result<Robot> {
    let robots = catalog.robots().await?;
    let name = stored_name(name_or_id);
    let id = name_or_id.parse().ok();
    let named = robots.iter().find(|robot| robot.name == name);
    let found = named.or_else(|| robots.iter().find(|robot| Some(robot.id) == id));
    found
        .cloned()
        .with_context(|| format!("there is no robot {name_or_id:?}; `robot list` shows them"))
}

/// A robot as `list --json` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    id: u32,
    name: &'a str,
    floor: i32,
    home: Option<Pose>,
}

impl<'a> From<&'a Robot> for Listed<'a> {
    fn from(robot: &'a Robot) -> Self {
        Self {
            id: robot.id.number(),
            name: &robot.name,
            floor: robot.floor,
            home: robot.home,
        }
    }
}

/// How a gateway reaches the relay.
struct Contact {
    mqtt: String,
    ca: Option<String>,
    remark: Option<String>,
}

impl Contact {
    fn find(args: &EnrolmentArgs, data: &DataDir) -> anyhow::Result<Self> {
        let ca = args.mqtt_ca.as_deref().map(read_certificates).transpose()?;
        let (mqtt, remark) = match &args.mqtt_url {
            Some(url) => (config::mqtt_url("--mqtt-url", url)?, None),
            None => match data.listening()? {
                Some(listening) => (listening.mqtt, None),
                None => {
                    let remark = format!(
                        "note: `serve` has not run in {} yet, so the gateway is told to connect to \
                         {DEFAULT_MQTT_URL}; --mqtt-url says otherwise",
                        data.path().display()
                    );
                    (DEFAULT_MQTT_URL.to_owned(), Some(remark))
                }
            },
        };
        Ok(Self { mqtt, ca, remark })
    }

    fn enrolment(&self, robot: &Robot, secret: &Secret) -> Enrolment {
        Enrolment {
            format: FORMAT,
            robot: robot.id.number(),
            name: robot.name.clone(),
            floor: robot.floor,
            secret: secret.reveal().to_string(),
            mqtt: self.mqtt.clone(),
            ca: self.ca.clone(),
        }
    }

    fn explain(&self) -> anyhow::Result<()> {
        self.remark.as_deref().map_or(Ok(()), remark)
    }
}

fn read_certificates(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let pem = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        bail!("{shown} holds no certificate in PEM");
    }
    Ok(pem)
}

/// A new enrolment file, which goes away again unless it is kept.
struct Reserved {
    path: PathBuf,
    file: Option<File>,
    is_kept: bool,
}

impl Reserved {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = match create_private(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "{} is there already, and it may be another robot's only enrolment; \
                 give another --out or move it away",
                path.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            is_kept: false,
        })
    }

    fn fill(mut self, enrolment: &Enrolment) -> anyhow::Result<Self> {
        let mut json = serde_json::to_vec_pretty(enrolment)?;
        json.push(b'\n');
        let file = self.file.take().context("the file is written already")?;
        write_all_synced(file, &json)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(self)
    }

    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the unused file");
        }
    }
}

fn fresh_secret() -> anyhow::Result<Secret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no randomness")?;
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrolment_file_that_cannot_be_filled_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guide.json");
        let mut reserved = Reserved::create(&path).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        reserved.file = Some(full);
        let contact = Contact {
            mqtt: DEFAULT_MQTT_URL.to_owned(),
            ca: None,
            remark: None,
        };
        let robot = Robot {
            id: "1".parse().unwrap(),
            name: "guide".to_owned(),
            floor: 7,
            home: None,
        };
        let filled = reserved.fill(&contact.enrolment(&robot, &fresh_secret().unwrap()));
        let error = format!("{:#}", filled.err().unwrap());
        assert!(error.contains("guide.json"), "{error}");
        assert!(!path.exists());
    }
}
