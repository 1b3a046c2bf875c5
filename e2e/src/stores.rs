//! What the relay has stored, read from its files beside the running relay and without its code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use brrbrr_proto::down::Order;
use brrbrr_proto::up::{Event, Record};
use rusqlite::{Connection, OpenFlags, Row};

use crate::judge::Judge;

/// How long the relay may hold a file while it takes up its work after a kill.
const BUSY: Duration = Duration::from_secs(10);

/// States after which nothing follows.
const FINAL: [&str; 6] = [
    "succeeded",
    "failed",
    "cancelled",
    "expired",
    "superseded",
    "interrupted",
];

/// A relay's data folder.
#[derive(Debug, Clone)]
pub struct Stores(PathBuf);

/// A command in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Its id.
    pub id: String,
    /// The robot's name.
    pub robot: String,
    /// What to do.
    pub order: Order,
    /// Where it stands.
    pub state: String,
    /// The states it went through, in order.
    pub history: Vec<String>,
}

impl Command {
    /// Where it goes, by name, if anywhere.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        if let Order::GoTo(goal) = &self.order {
            Some(&goal.place)
        } else {
            None
        }
    }

    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(&self) -> bool {
        FINAL.contains(&self.state.as_str())
    }

    /// How many final states it went through.
    #[must_use]
    pub fn endings(&self) -> usize {
        let is_final = |state: &&String| FINAL.contains(&state.as_str());
        self.history.iter().filter(is_final).count()
    }
}

/// A line of the trip log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// The command.
    pub command: String,
    /// The robot's name.
    pub robot: String,
    /// Where to, by name.
    pub destination: String,
    /// `출발`, `도착` or `종료`.
    pub step: String,
}

impl Stores {
    /// Those of this data folder.
    #[must_use]
    pub const fn new(data: PathBuf) -> Self {
        Self(data)
    }

    fn open(&self, file: &str) -> Connection {
        let path = self.0.join(file);
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let connection =
            connection.unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        connection.busy_timeout(BUSY).unwrap();
        connection
    }

    /// Every command, in the order of submission.
    ///
    /// # Panics
    /// Where the file cannot be read.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        let mut catalog = self.open("catalog.sqlite");
        // One transaction, so that a command and its history belong together.
        let catalog = catalog.transaction().unwrap();
        let steps = all(
            &catalog,
            "SELECT command, state FROM transitions ORDER BY number",
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
        );
        let mut histories: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for (command, state) in steps {
            histories.entry(command).or_default().push(state);
        }
        all(
            &catalog,
            "SELECT commands.number, commands.id, robots.name, job, state
             FROM commands JOIN robots ON robots.id = commands.robot ORDER BY commands.number",
            |row| {
                let job: Vec<u8> = row.get(3)?;
                Ok(Command {
                    id: row.get(1)?,
                    robot: row.get(2)?,
                    order: postcard::from_bytes(&job).expect("the job is an order"),
                    state: row.get(4)?,
                    history: histories.remove(&row.get(0)?).unwrap_or_default(),
                })
            },
        )
    }

    /// Every step of every command, in the order in which the ledger took them: id and state.
    ///
    /// # Panics
    /// Where the file cannot be read.
    #[must_use]
    pub fn steps(&self) -> Vec<(String, String)> {
        all(
            &self.open("catalog.sqlite"),
            "SELECT commands.id, transitions.state
             FROM transitions JOIN commands ON commands.number = transitions.command
             ORDER BY transitions.number",
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The commands that send a robot somewhere, in the order of submission.
    #[must_use]
    pub fn trips_ordered(&self, robot: &str) -> Vec<Command> {
        let mut commands = self.commands();
        commands.retain(|command| command.robot == robot && command.place().is_some());
        commands
    }

    /// The trip log, oldest first.
    ///
    /// # Panics
    /// Where the file cannot be read.
    #[must_use]
    pub fn trip_log(&self) -> Vec<Trip> {
        all(
            &self.open("journal.sqlite"),
            "SELECT command, robot_name, destination, step FROM trips ORDER BY number",
            |row| {
                Ok(Trip {
                    command: row.get(0)?,
                    robot: row.get(1)?,
                    destination: row.get(2)?,
                    step: row.get(3)?,
                })
            },
        )
    }

    /// Every record that robots sent, in the order of their streams.
    ///
    /// # Panics
    /// Where the file cannot be read, or holds what is no record.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        all(
            &self.open("journal.sqlite"),
            "SELECT record FROM records ORDER BY stream, seq",
            |row| {
                let record: Vec<u8> = row.get(0)?;
                Ok(Record::decode(&record).expect("the journal holds records"))
            },
        )
    }

    /// How many positions of robots' streams are in the journal. Looks only at the streams' ends.
    ///
    /// # Panics
    /// Where the file cannot be read.
    #[must_use]
    pub fn received(&self) -> u64 {
        let journal = self.open("journal.sqlite");
        let sum = "SELECT coalesce(sum(due - 1), 0) FROM streams";
        let sum: i64 = journal.query_row(sum, [], |row| row.get(0)).unwrap();
        u64::try_from(sum).unwrap()
    }

    /// Shows every row of the journal to a judge.
    ///
    /// # Panics
    /// Where the file cannot be read, or holds what is no record.
    pub fn show(&self, judge: &mut Judge) {
        let mut journal = self.open("journal.sqlite");
        let journal = journal.transaction().unwrap();
        let streams = all(
            &journal,
            "SELECT id, robot, epoch, due FROM streams ORDER BY id",
            |row| {
                let name = format!(
                    "robot {}, epoch {}",
                    row.get::<_, i64>(1)?,
                    row.get::<_, String>(2)?
                );
                Ok((row.get::<_, i64>(0)?, name, row.get::<_, i64>(3)?))
            },
        );
        let sql = "SELECT seq, covers, record FROM records WHERE stream = ?1 ORDER BY seq";
        let mut ask = journal.prepare(sql).unwrap();
        for (stream, name, due) in streams {
            judge.begin(&name);
            let mut rows = ask.query([stream]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let (seq, covers) = pair(row).unwrap();
                let record: Vec<u8> = row.get(2).unwrap();
                let record = Record::decode(&record).expect("the journal holds records");
                judge.row(seq.try_into().unwrap(), covers.try_into().unwrap(), &record);
            }
            judge.end(due.try_into().unwrap());
        }
    }

    /// Makes sure that the records of each stream follow one another without a hole, up to the
    /// position that is due.
    ///
    /// # Panics
    /// Where they do not, or the file cannot be read.
    pub fn assert_no_holes(&self) {
        let mut journal = self.open("journal.sqlite");
        let journal = journal.transaction().unwrap();
        let streams: Vec<(i64, i64)> = all(&journal, "SELECT id, due FROM streams", pair);
        assert!(!streams.is_empty(), "no robot has sent anything");
        for (stream, due) in streams {
            let rows: Vec<(i64, i64)> = all(
                &journal,
                &format!("SELECT seq, covers FROM records WHERE stream = {stream} ORDER BY seq"),
                pair,
            );
            let mut next = 1;
            for (seq, covers) in rows {
                assert_eq!(seq, next, "a hole in stream {stream}");
                next += covers;
            }
            assert_eq!(next, due, "the end of stream {stream}");
        }
    }

    /// The ids of the commands for which an arrival is in the journal, one for each arrival.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Option<String>> {
        let arrived = |record: Record| {
            if let Event::Arrived(arrived) = record.event {
                Some(arrived.command.map(|id| id.to_string()))
            } else {
                None
            }
        };
        self.records().into_iter().filter_map(arrived).collect()
    }
}

fn pair(row: &Row<'_>) -> rusqlite::Result<(i64, i64)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn all<T>(
    connection: &Connection,
    question: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let mut ask = connection.prepare(question).unwrap();
    let rows = ask.query_map([], read).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}
