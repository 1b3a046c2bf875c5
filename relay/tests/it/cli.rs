//! The command line, run as a process.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use brrbrr_proto::enrolment::Enrolment;
use brrbrr_relay::catalog::Catalog;
use brrbrr_relay::catalog::sqlite::SqliteCatalog;
use brrbrr_relay::data_dir::{DataDir, Listening};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A data folder and a place for other files.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn data(&self) -> DataDir {
        DataDir::new(self.folder.path().join("data"))
    }

    /// Runs the program on the data folder.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = bare(arguments);
        command.env("BRRBRR_DATA", self.path("data"));
        command.output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail and returns what it says.
    fn fail(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(output.stdout, b"");
        stderr(&output)
    }

    fn robots(&self) -> Value {
        serde_json::from_str(&self.succeed(&["robot", "list", "--json"])).unwrap()
    }

    fn enrolment(&self, name: &str) -> Enrolment {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn open(&self) -> SqliteCatalog {
        SqliteCatalog::open(&self.data().catalog()).unwrap()
    }
}

fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brrbrr-relay"));
    command.env_clear().args(arguments);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn sample() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/samples/building.json").to_owned()
}

#[test]
fn help_shows_every_command_with_examples() {
    let help = |arguments: &[&str]| {
        let output = bare(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_serve", help(&["serve", "--help"]));
    insta::assert_snapshot!("help_robot", help(&["robot", "--help"]));
    insta::assert_snapshot!("help_robot_add", help(&["robot", "add", "--help"]));
    insta::assert_snapshot!("help_robot_enrol", help(&["robot", "enrol", "--help"]));
    insta::assert_snapshot!("help_seed", help(&["seed", "--help"]));
    insta::assert_snapshot!("help_migrate", help(&["migrate", "--help"]));
}

#[tokio::test]
async fn adding_a_robot_prints_its_id_and_writes_a_private_enrolment_file() {
    let site = Site::new();
    let out = site.path("guide.json");
    let arguments = [
        "robot",
        "add",
        "guide",
        "--floor",
        "-1",
        "--home",
        "-1.5,2,0.5",
    ];
    let printed = site.succeed(&[&arguments[..], &["--out", &out]].concat());
    assert_eq!(printed, "1\n");

    let mode = std::fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = std::fs::metadata(site.data().catalog())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let enrolment = site.enrolment("guide.json");
    let (robot, secret) = enrolment.identity().unwrap();
    assert_eq!((enrolment.name.as_str(), enrolment.floor), ("guide", -1));
    assert_eq!(site.open().secret(robot).await.unwrap(), secret);
    let home = json!({"x": -1.5, "y": 2.0, "theta": 0.5});
    assert_eq!(
        site.robots(),
        json!([{"id": 1, "name": "guide", "floor": -1, "home": home}])
    );
}

#[test]
fn the_enrolment_names_where_serve_last_listened_unless_a_url_is_given() {
    let site = Site::new();
    let add = |name: &str, more: &[&str]| {
        let out = site.path(name);
        let arguments = ["robot", "add", name, "--floor", "7", "--out", &out];
        let output = site.run(&[&arguments[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (site.enrolment(name).mqtt, stderr(&output))
    };
    let (mqtt, said) = add("a", &[]);
    assert_eq!(mqtt, "mqtt://127.0.0.1:1883");
    assert!(said.contains("has not run"), "{said}");

    let http = "127.0.0.1:1".parse().unwrap();
    let listening = Listening::new(http, "127.0.0.1:2345".parse().unwrap(), false, None);
    site.data().note_listening(&listening).unwrap();
    assert_eq!(
        add("b", &[]),
        ("mqtt://127.0.0.1:2345".to_owned(), String::new())
    );
    let url = "mqtts://relay.example:8883";
    assert_eq!(
        add("c", &["--mqtt-url", url]),
        (url.to_owned(), String::new())
    );
}

#[test]
fn an_enrolment_file_is_never_overwritten_and_a_robot_never_left_without_one() {
    let site = Site::new();
    std::fs::write(site.path("there"), "precious").unwrap();
    let said = site.fail(
        &[
            "robot",
            "add",
            "a",
            "--floor",
            "7",
            "--out",
            &site.path("there"),
        ],
        1,
    );
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(std::fs::read(site.path("there")).unwrap(), b"precious");
    site.fail(
        &[
            "robot",
            "add",
            "a",
            "--floor",
            "7",
            "--out",
            &site.path("no/such"),
        ],
        1,
    );
    assert_eq!(site.robots(), json!([]));

    site.succeed(&[
        "robot",
        "add",
        "a",
        "--floor",
        "7",
        "--out",
        &site.path("a"),
    ]);
    let said = site.fail(
        &[
            "robot",
            "add",
            "a",
            "--floor",
            "8",
            "--out",
            &site.path("b"),
        ],
        1,
    );
    assert!(said.contains("there is already a robot \"a\""), "{said}");
    assert!(!Path::new(&site.path("b")).exists());
}

#[test]
fn a_robot_is_removed_by_name_or_id_and_its_id_is_not_used_again() {
    let site = Site::new();
    for (name, out) in [("a", "1"), ("b", "2"), ("c", "3")] {
        site.succeed(&[
            "robot",
            "add",
            name,
            "--floor",
            "7",
            "--out",
            &site.path(out),
        ]);
    }
    assert_eq!(site.succeed(&["robot", "remove", "c"]), "3\n");
    assert_eq!(site.succeed(&["robot", "remove", "1"]), "1\n");
    let said = site.fail(&["robot", "remove", "c"], 1);
    assert!(said.contains("there is no robot \"c\""), "{said}");
    let printed = site.succeed(&[
        "robot",
        "add",
        "d",
        "--floor",
        "7",
        "--out",
        &site.path("4"),
    ]);
    assert_eq!(printed, "4\n");
    assert_eq!(site.succeed(&["robot", "list"]), "2\tb\t7\t-\n4\td\t7\t-\n");
}

#[tokio::test]
async fn a_seed_can_be_entered_again_and_keeps_the_secrets() {
    let site = Site::new();
    let first = site.succeed(&["seed", "--file", &sample()]);
    insta::assert_snapshot!("seed_first", first);
    let robot = site.open().robots().await.unwrap()[0].clone();
    let secret = site.open().secret(robot.id).await.unwrap();
    let again = site.succeed(&["seed", "--file", &sample()]);
    insta::assert_snapshot!("seed_again", again);
    assert_eq!(site.open().secret(robot.id).await.unwrap(), secret);

    let out = site.path("guide-7.json");
    assert_eq!(
        site.succeed(&["robot", "enrol", "guide-7", "--out", &out]),
        "1\n"
    );
    let (_, renewed) = site.enrolment("guide-7.json").identity().unwrap();
    assert_ne!(renewed, secret);
    assert_eq!(site.open().secret(robot.id).await.unwrap(), renewed);
}

#[tokio::test]
async fn a_seed_with_a_mistake_enters_nothing() {
    let site = Site::new();
    let file = site.path("seed.json");
    let event = json!({
        "name": "e", "placeName": "nowhere", "placeFloor": 7,
        "starttime": "2026-12-01T01:00:00Z", "endtime": "2026-12-01T02:00:00Z"
    });
    let place = json!({"name": "p", "floor": 7, "xaxis": 1, "yaxis": 2});
    let seed = json!({"places": [place], "events": [event]});
    std::fs::write(&file, seed.to_string()).unwrap();
    let said = site.fail(&["seed", "--file", &file], 1);
    assert!(
        said.contains("there is no place \"nowhere\" on floor 7"),
        "{said}"
    );
    assert_eq!(site.open().places().await.unwrap(), []);
}

#[tokio::test]
async fn a_robot_added_by_another_process_is_there_at_once() {
    let site = Site::new();
    site.data().create().unwrap();
    let serving = site.open();
    assert_eq!(serving.robots().await.unwrap(), []);
    site.succeed(&[
        "robot",
        "add",
        "a",
        "--floor",
        "7",
        "--out",
        &site.path("a"),
    ]);
    let robots = serving.robots().await.unwrap();
    assert_eq!(robots.len(), 1);
    site.succeed(&["robot", "remove", "a"]);
    assert!(serving.robot(robots[0].id).await.is_err());
}

#[test]
fn migrate_makes_every_file_and_does_nothing_the_second_time() {
    let site = Site::new();
    for _ in 0..2 {
        assert!(site.succeed(&["migrate"]).ends_with("data is up to date\n"));
    }
    let data = site.data();
    for file in [data.catalog(), data.journal(), data.live()] {
        assert!(file.is_file(), "{file:?}");
    }
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let site = Site::new();
    site.data().create().unwrap();
    let damaged = vec![b'x'; 8192];
    std::fs::write(site.data().catalog(), &damaged).unwrap();
    for arguments in [&["robot", "list"][..], &["migrate"]] {
        let said = site.fail(arguments, 1);
        assert!(said.contains("catalog.sqlite is damaged"), "{said}");
        assert!(said.contains("backup"), "{said}");
    }
    assert_eq!(std::fs::read(site.data().catalog()).unwrap(), damaged);
}

#[test]
fn a_wrong_command_line_or_configuration_ends_with_code_2() {
    let site = Site::new();
    for arguments in [
        &["fly"][..],
        &["robot", "add", "a", "--out", "x"],
        &[
            "robot", "add", "a", "--floor", "7", "--home", "1", "--out", "x",
        ],
        &[
            "robot", "add", "a", "--floor", "7", "--home", "1,nan", "--out", "x",
        ],
        &[
            "robot",
            "add",
            "a",
            "--floor",
            "7",
            "--out",
            "x",
            "--mqtt-url",
            "http://a:1",
        ],
        &["serve", "--http", "8080"],
        &["serve", "--config", "/no/such/file"],
    ] {
        site.fail(arguments, 2);
    }
    let output = bare(&["robot", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("--data DIR"),
        "{}",
        stderr(&output)
    );
    let mut elsewhere = bare(&["robot", "list", "--data", "x"]);
    let output = elsewhere
        .env("DATABASE_URL", "postgres://x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("DATABASE_URL"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_error_is_said_once_with_the_place_of_the_mistake() {
    let site = Site::new();
    let config = site.path("relay.toml");
    std::fs::write(&config, "legacy_open = true\nhtpp = 1\n").unwrap();
    let said = site.fail(&["serve", "--config", &config], 2);
    insta::assert_snapshot!("wrong_key", said.replace(&config, "relay.toml"));
    std::fs::write(site.path("seed"), "{\n\"robots\": [{}]}").unwrap();
    let said = site.fail(&["seed", "--file", &site.path("seed")], 1);
    insta::assert_snapshot!("wrong_seed", said.replace(&site.path("seed"), "seed"));
}

#[test]
fn listing_the_robots_of_a_folder_without_data_makes_nothing() {
    let site = Site::new();
    let said = site.fail(&["robot", "list"], 1);
    assert!(said.contains("there is no relay's data in"), "{said}");
    assert!(!site.data().path().exists());
}
