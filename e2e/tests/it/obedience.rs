//! Five hundred commands from the relay and from the board, with cancellations, replacements, reboots
//! of the board, and cuts of the link and of the way to the robot's broker. Afterwards the robot's own log of what it was told agrees with
//! the ledger line by line, and the board's list of commands with the relay's. `BRRBRR_SEED` repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use brrbrr_e2e::building::{self, Building, place};
use brrbrr_e2e::gateway::{Adapter, Gateway, Site};
use brrbrr_e2e::operator::{Operator, history};
use brrbrr_e2e::proxy::Proxy;
use brrbrr_e2e::random::Random;
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::robot::Robot;
use brrbrr_e2e::stores::Stores;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::{SOON, wait_until};
use serde_json::{Value, json};

const FLOOR: i32 = 7;
const PLACES: usize = 20;
const COMMANDS: usize = 500;
const TRAVEL_TIME: Duration = Duration::from_millis(60);
/// The longest rest between two commands: about as long as a trip, so that some end and some are
/// replaced.
const REST: u64 = 100;
/// How old the news may be, on a machine that is busy, that a newer motion or a stop was accepted by the
/// relay. No motion of before it starts after that, however long the robot was out of contact.
const NEWS_WITHIN: f64 = 5.0;
/// How late a robot's process may note what its broker gave it in time, on a busy machine.
const NOTED_WITHIN: f64 = 1.0;
/// How long the last commands may take to be known everywhere.
const SETTLE: Duration = Duration::from_secs(60);

struct Drill {
    random: Random,
    relay: Relay,
    link: Proxy,
    /// For how many more commands the link stays cut.
    cut_for: usize,
    way: Proxy,
    /// For how many more commands the way to the robot's broker stays cut.
    way_cut_for: usize,
    gateway: Gateway,
    robot: Robot,
    operator: Operator,
    accepted: Vec<String>,
    /// How many of them were given on the board.
    on_board: usize,
    reboots: usize,
    cuts: usize,
    way_cuts: usize,
    cancels: usize,
    _broker: Vhost,
}

#[test]
fn what_a_robot_was_told_agrees_with_the_ledger_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut drill = Drill::start(folder.path());
    for _ in 0..COMMANDS {
        drill.step();
    }
    drill.settle();
    drill.judge();
}

impl Drill {
    fn start(folder: &Path) -> Self {
        let random = Random::of_drill("obedience", 20_261_123);
        let name = building::robot(FLOOR);
        let relay = Relay::start(folder, &Building::with_places(&[FLOOR], PLACES));
        let link = Proxy::start(relay.mqtt());
        let broker = Vhost::create();
        let robot = Robot::start(folder, &name, &broker, "json", TRAVEL_TIME);
        let way = Proxy::start(broker.address());
        let url = broker.url_by_way_of(way.address());
        let site = Site {
            mqtt: Some(link.address()),
            boot: Some(1),
            ..Site::default()
        };
        let adapter = Adapter::Amqp { url, wire: "json" };
        let gateway = Gateway::start_at(&site, folder, &relay, &name, &adapter);
        gateway.await_link();
        wait_until("the board knows its building", SOON, || {
            let status = gateway.control_status();
            status.is_some_and(|status| status["building"]["revision"].is_string())
        });
        Self {
            random,
            operator: Operator::at(&relay, &name),
            relay,
            link,
            cut_for: 0,
            way,
            way_cut_for: 0,
            gateway,
            robot,
            accepted: Vec::new(),
            on_board: 0,
            reboots: 0,
            cuts: 0,
            way_cuts: 0,
            cancels: 0,
            _broker: broker,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn step(&mut self) {
        let command = self.command();
        let is_local = self.chance(20);
        let id = if is_local {
            self.on_board += 1;
            self.board().submit(&command)
        } else {
            self.operator.submit(&command)
        };
        self.accepted.push(id);
        if self.chance(25) {
            self.cancel();
        }
        if self.cut_for > 0 {
            self.cut_for -= 1;
            if self.cut_for == 0 {
                self.link.release();
            }
        } else if self.chance(4) {
            self.cuts += 1;
            self.link.hold();
            self.cut_for = 1 + self.random.index(8);
        }
        if self.way_cut_for > 0 {
            self.way_cut_for -= 1;
            if self.way_cut_for == 0 {
                self.way.release();
            }
        } else if self.chance(3) {
            self.way_cuts += 1;
            self.way.hold();
            self.way_cut_for = 1 + self.random.index(5);
        }
        if self.chance(4) {
            self.reboots += 1;
            self.gateway.kill();
            self.gateway.reboot();
            self.await_board();
        }
        // The moment of the next command, not a wait for something.
        std::thread::sleep(Duration::from_millis(self.random.below(REST)));
    }

    fn command(&mut self) -> Value {
        let mut command = match self.random.below(100) {
            0..8 => json!({"kind": "stop"}),
            8..12 => json!({"kind": "say", "text": "잠시만요"}),
            12..16 => json!({"kind": "pause"}),
            16..22 => json!({"kind": "resume"}),
            _ => json!({"kind": "go-to", "place": place(FLOOR, self.random.index(PLACES))}),
        };
        if self.chance(40) {
            command["expiresIn"] = json!(self.random.pick(&[0.05, 2.0, 600.0]));
        }
        command
    }

    fn cancel(&mut self) {
        self.cancels += 1;
        let newest = self.accepted.len().min(3);
        let index = self.accepted.len() - 1 - self.random.index(newest);
        let id = self.accepted[index].clone();
        // Where it is not known yet, as one of the board behind a cut link, the other side knows it.
        let path = format!("/api/v1/commands/{id}");
        let cancel = brrbrr_e2e::http::Request::new("DELETE", &path);
        let answer = self.operator.try_send(&cancel).unwrap();
        if answer.status == 404 {
            self.board().cancel(&id);
        } else {
            assert!([200, 202].contains(&answer.status), "{}", answer.text());
        }
    }

    fn board(&self) -> Operator {
        self.operator.on_board(self.gateway.control())
    }

    fn await_board(&self) {
        wait_until("the gateway answers on its board", SOON, || {
            self.gateway.control_status().is_some()
        });
    }

    fn settle(&mut self) {
        self.link.release();
        self.way.release();
        self.gateway.await_link();
        wait_until("every command has ended in the ledger", SETTLE, || {
            let commands = self.operator.commands();
            let known: BTreeSet<_> = commands.iter().map(id_of).collect();
            let is_known = |id: &String| known.contains(id.as_str());
            self.accepted.iter().all(is_known) && commands.iter().all(|c| c["final"] == true)
        });
    }

    fn judge(&self) {
        let ledger: BTreeMap<String, Value> = self
            .operator
            .commands()
            .iter()
            .map(|command| {
                (
                    id_of(command).to_owned(),
                    self.operator.command(id_of(command)),
                )
            })
            .collect();
        let told = Told::read(&self.robot);
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, command) in &ledger {
            *states.entry(text(command, "state")).or_default() += 1;
            assert_one_end(command);
            judge_command(command, told.position(id), &told);
        }
        for line in &told.lines {
            assert!(ledger.contains_key(&line.id), "nobody ordered {line:?}");
        }
        judge_order(&self.relay.stores(), &told);
        judge_news(&ledger, &told);
        let here = self.judge_board(&ledger);
        eprintln!(
            "obedience: {} commands, of them {} on the board, {} cancellations, {} reboots, {} cuts of the link, \
             {} of the way to the broker; \
             the robot was told {} things; {here} commands on both sides; ends: {states:?}",
            self.accepted.len(),
            self.on_board,
            self.cancels,
            self.reboots,
            self.cuts,
            self.way_cuts,
            told.lines.len(),
        );
    }

    /// Both sides tell the same end of every command that both know.
    fn judge_board(&self, ledger: &BTreeMap<String, Value>) -> usize {
        let board: BTreeMap<String, Value> = self
            .board()
            .commands()
            .into_iter()
            .map(|command| (id_of(&command).to_owned(), command))
            .collect();
        for (id, command) in &board {
            let other = ledger
                .get(id)
                .unwrap_or_else(|| panic!("not in the ledger: {command}"));
            assert_eq!(command["state"], other["state"], "{command} and {other}");
        }
        for (id, command) in ledger {
            let was_sent = history(command).iter().any(|step| step == "received");
            assert_eq!(board.contains_key(id), was_sent, "on the board: {command}");
        }
        board.len()
    }
}

/// A line of the robot's log.
#[derive(Debug)]
struct Line {
    id: String,
    kind: String,
    /// Seconds since 1970.
    at: f64,
}

/// What the robot was told, in order.
struct Told {
    lines: Vec<Line>,
}

impl Told {
    fn read(robot: &Robot) -> Self {
        let log = robot.log();
        let lines = log.iter().filter_map(|line| {
            let body: Value = serde_json::from_str(line.get("got")?.as_str()?).ok()?;
            Some(Line {
                id: text(&body["command"], "id").to_owned(),
                kind: text(&body["command"], "kind").to_owned(),
                at: line["at"].as_f64()?,
            })
        });
        let lines: Vec<_> = lines.collect();
        let distinct: BTreeSet<_> = lines.iter().map(|line| &line.id).collect();
        assert_eq!(distinct.len(), lines.len(), "the robot was told twice");
        Self { lines }
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.lines.iter().position(|line| line.id == id)
    }
}

fn assert_one_end(command: &Value) {
    let steps = history(command);
    let ends = [
        "succeeded",
        "failed",
        "cancelled",
        "expired",
        "superseded",
        "interrupted",
    ];
    let count = steps
        .iter()
        .filter(|step| ends.contains(&step.as_str()))
        .count();
    assert_eq!(count, 1, "{command}");
    assert_eq!(steps.last().map(String::as_str), command["state"].as_str());
}

/// Compares one command with the line of the robot's log that is about it, if there is one.
fn judge_command(command: &Value, line: Option<usize>, told: &Told) {
    let (kind, state) = (text(command, "kind"), text(command, "state"));
    let has_run = history(command).iter().any(|step| step == "running");
    assert!(!has_run || line.is_some(), "never told: {command}");
    let may_be_told = match (kind, state) {
        // It was in the robot's hands, or nobody can know.
        ("go-to", "succeeded") => {
            assert!(line.is_some(), "never told: {command}");
            true
        }
        (_, "succeeded" | "superseded" | "cancelled" | "interrupted") => true,
        (_, "expired" | "failed") => false,
        _ => panic!("a state that nobody knows: {command}"),
    };
    let Some(line) = line else { return };
    assert!(may_be_told, "told: {command}");
    let noted = &told.lines[line];
    let expires: f64 = seconds(text(command, "expiresAt"));
    assert!(noted.at <= expires + NOTED_WITHIN, "told late: {command}");
    if kind == "go-to" && state == "cancelled" {
        let after = &told.lines[line + 1..];
        assert!(
            after.iter().any(|line| line.kind == "stop"),
            "driving on: {command}"
        );
    }
}

/// Trips ran in the order in which the robot was told, one at a time.
fn judge_order(stores: &Stores, told: &Told) {
    let goals: BTreeSet<String> = stores
        .commands()
        .into_iter()
        .filter(|command| command.place().is_some())
        .map(|command| command.id)
        .collect();
    let mut running: Option<String> = None;
    let mut started = Vec::new();
    for (id, state) in stores
        .steps()
        .into_iter()
        .filter(|(id, _)| goals.contains(id))
    {
        if state == "running" {
            assert_eq!(running, None, "two motions at a time, the other {id}");
            running = Some(id.clone());
            started.push(id);
        } else if running.as_ref() == Some(&id) {
            running = None;
        }
    }
    let lines: Vec<_> = told.lines.iter().map(|line| &line.id).collect();
    let told: Vec<_> = lines
        .into_iter()
        .filter(|id| started.contains(id))
        .collect();
    assert_eq!(started.iter().collect::<Vec<_>>(), told, "in this order");
}

/// No motion starts long after a newer one, or a stop, was accepted by the same ledger.
fn judge_news(ledger: &BTreeMap<String, Value>, told: &Told) {
    let given_here = |command: &&Value| text(command, "actor") != "board";
    let news: Vec<(f64, &Value)> = ledger
        .values()
        .filter(given_here)
        .filter(|command| ["go-to", "stop"].contains(&text(command, "kind")))
        .map(|command| (seconds(text(command, "submittedAt")), command))
        .collect();
    for line in told.lines.iter().filter(|line| line.kind == "go_to") {
        let command = &ledger[&line.id];
        if !given_here(&command) {
            continue;
        }
        let given = seconds(text(command, "submittedAt"));
        let newer = news.iter().find(|(at, newer)| {
            *at > given && *at + NEWS_WITHIN < line.at && id_of(newer) != line.id
        });
        assert!(
            newer.is_none(),
            "{command} was told at {} after {newer:?}",
            line.at
        );
    }
}

fn id_of(command: &Value) -> &str {
    text(command, "id")
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {of}"))
}

/// A time in ISO 8601 as seconds since 1970.
fn seconds(time: &str) -> f64 {
    let time: jiff::Timestamp = time.parse().unwrap();
    time.as_duration().as_secs_f64()
}
