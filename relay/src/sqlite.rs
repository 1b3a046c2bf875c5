//! What the embedded stores share: opening and migrating a SQLite file, and the thread that owns a
//! connection and commits waiting calls together.
//!
//! Promises: a call that changes something has been synced to disk when it returns `Ok`, and a call
//! that fails leaves no trace, whatever shares its transaction. Relies on a file system that
//! honours `fsync`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread::JoinHandle;
use std::time::Duration;

use brrbrr_proto::id::Seq;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, TransactionBehavior};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// How long SQLite waits for another process, such as `brrbrr-relay robot add`, to finish. A request may
/// have to wait for the group before it too, and both must fit into the time that a caller is given.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls that may wait for a store's thread. One session driver and some hundred requests wait at
/// worst; more than this means that the disk has stopped.
const QUEUE: usize = 1024;
/// How long a call waits for a place in a full queue before it says that the store is away.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);
/// Calls that share a transaction and its one sync. Bounds what the first of them waits for.
const GROUP: usize = 256;
/// Prepared statements that a connection keeps; each store has fewer.
const STATEMENTS: usize = 64;
/// What the write-ahead log is cut back to after a large transaction.
const LOG_BYTES: i64 = 16 * 1024 * 1024;

/// Why a store's file cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be created, read or locked.
    #[error("cannot open {path}: {reason}", path = .path.display())]
    Unreachable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is damaged or no database at all.
    #[error(
        "{path} is damaged or not a database: {reason}; nothing was changed. Stop the relay, move \
         the file and its -wal and -shm files away, and put a backup in its place, or start with \
         a new, empty one",
        path = .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The file is a database of something else.
    #[error("{path} is not a {expected} of brrbrr-relay; give another --data folder", path = .path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What was to be opened.
        expected: &'static str,
    },
    /// The file was written by a newer build.
    #[error(
        "{path} has layout {found} and this build knows layouts up to {known}; run a newer brrbrr-relay",
        path = .path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its layout.
        found: u32,
        /// The newest layout known here.
        known: u32,
    },
}

/// Why a store could not carry out a call.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It may work later.
    Away(String),
    /// The file holds what this program did not write.
    Corrupt(String),
}

impl From<&rusqlite::Error> for Fault {
    fn from(error: &rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let text = error.to_string();
        if matches!(
            error,
            E::FromSqlConversionFailure(..)
                | E::IntegralValueOutOfRange(..)
                | E::Utf8Error(..)
                | E::InvalidColumnType(..)
        ) {
            return Self::Corrupt(text);
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(text),
            Some(_) | None => Self::Away(text),
        }
    }
}

/// The layout of a store's file.
#[derive(Debug)]
pub(crate) struct Schema {
    /// What the store is called in errors and as a thread.
    pub(crate) name: &'static str,
    /// Marks the file as this store's (`PRAGMA application_id`).
    pub(crate) application_id: i32,
    /// What leads from each layout to the next. Append only.
    pub(crate) migrations: &'static [&'static str],
}

/// Opens a file for writing, creates it readable for its owner only, and brings its layout up to
/// date.
pub(crate) fn open(path: &Path, schema: &Schema) -> Result<Connection, OpenError> {
    // The stores hold secrets. SQLite gives its -wal and -shm files the mode of this one.
    let private = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    private.map_err(|error| OpenError::Unreachable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let named = |error: rusqlite::Error| open_error(path, &error);
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(named)?;
    connection
        .pragma_update(None, "journal_mode", "wal")
        .and_then(|()| connection.pragma_update(None, "synchronous", "full"))
        .and_then(|()| connection.pragma_update(None, "journal_size_limit", LOG_BYTES))
        .map_err(named)?;
    migrate(&mut connection, path, schema)?;
    Ok(connection)
}

/// Opens a file that [`open`] has brought up to date, for reading only.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| open_error(path, &error))
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match Fault::from(error) {
        Fault::Away(reason) => OpenError::Unreachable { path, reason },
        Fault::Corrupt(reason) => OpenError::Damaged { path, reason },
    }
}

fn migrate(connection: &mut Connection, path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let named = |error: rusqlite::Error| open_error(path, &error);
    let known = u32::try_from(schema.migrations.len()).unwrap_or(u32::MAX);
    // Beside a relay that writes without a pause the write lock can be long in coming.
    if layout(connection).map_err(named)? == (known, schema.application_id) {
        return Ok(());
    }
    // Taking the write lock first lets two processes open a new file at once.
    let change = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(named)?;
    let (found, owner) = layout(&change).map_err(named)?;
    let tables: i64 = change
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(named)?;
    let is_new = tables == 0 && found == 0 && owner == 0;
    if !is_new && owner != schema.application_id {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
            expected: schema.name,
        });
    }
    if found > known {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    if found == known {
        return Ok(());
    }
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    for step in schema.migrations.iter().skip(done) {
        change.execute_batch(step).map_err(named)?;
    }
    change
        .pragma_update(None, "application_id", schema.application_id)
        .and_then(|()| change.pragma_update(None, "user_version", known))
        .and_then(|()| change.commit())
        .map_err(named)
}

/// Which layout the file has, and whose it is.
fn layout(connection: &Connection) -> rusqlite::Result<(u32, i32)> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let owner = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok((found, owner))
}

/// What a thread's transactions are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Changes: the write lock is taken at once, so that no call fails half-way for want of it.
    Write,
    /// Looking only.
    Read,
}

impl Access {
    const fn begin(self) -> &'static str {
        match self {
            Self::Write => "BEGIN IMMEDIATE",
            Self::Read => "BEGIN",
        }
    }
}

/// A thread that owns a connection. Calls that wait at the same time share one transaction, each in
/// a savepoint of its own, so that they share one sync and yet fail alone.
#[derive(Debug)]
pub(crate) struct StoreThread {
    calls: Option<mpsc::Sender<Box<dyn Work>>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    /// Starts the thread.
    pub(crate) fn spawn(
        name: &'static str,
        path: &Path,
        connection: Connection,
        access: Access,
    ) -> Result<Self, OpenError> {
        let (calls, waiting) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(&connection, waiting, access))
            .map_err(|error| OpenError::Unreachable {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            calls: Some(calls),
            thread: Some(thread),
        })
    }

    /// Runs `work` on the thread and returns its answer once it is committed.
    pub(crate) async fn call<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Fault> + Send + 'static,
    {
        self.call_then(work, |_| ()).await
    }

    /// Like [`call`](Self::call), and runs `publish` on the thread after the commit, in the order of
    /// the commits, before anybody hears of it.
    pub(crate) async fn call_then<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        publish: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call {
            work: Some(work),
            publish,
            outcome: None,
            reply,
        });
        let away = |why: &str| E::from(Fault::Away(why.to_owned()));
        let Some(calls) = &self.calls else {
            return Err(away("the store is closed"));
        };
        match calls.send_timeout(call, QUEUE_PATIENCE).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(away("too many calls wait for the disk"));
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                return Err(away("the store's thread has ended"));
            }
        }
        answer
            .await
            .unwrap_or_else(|_| Err(away("the store's thread has ended")))
    }
}

impl Drop for StoreThread {
    /// Waits for the calls that are under way, so that the file is whole and closed afterwards.
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a store's thread has panicked");
        }
    }
}

/// A call on its way through the thread.
trait Work: Send {
    /// Does it. `Err` asks for the savepoint to be rolled back.
    fn run(&mut self, connection: &Connection) -> Result<(), ()>;
    /// Answers it, after the commit or its failure.
    fn settle(self: Box<Self>, committed: Result<(), Fault>);
}

struct Call<F, P, T, E> {
    work: Option<F>,
    publish: P,
    outcome: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, P, T, E> Work for Call<F, P, T, E>
where
    F: FnOnce(&Connection) -> Result<T, E> + Send,
    P: FnOnce(&T) + Send,
    T: Send,
    E: From<Fault> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), ()> {
        let Some(work) = self.work.take() else {
            return Err(());
        };
        let outcome = work(connection);
        let wish = outcome.as_ref().map(|_| ()).map_err(|_| ());
        self.outcome = Some(outcome);
        wish
    }

    fn settle(self: Box<Self>, committed: Result<(), Fault>) {
        let outcome = match (committed, self.outcome) {
            // Whatever it said, a call that asked for nothing to be kept got that.
            (Ok(()) | Err(_), Some(Err(error))) => Err(error),
            (Ok(()), Some(Ok(value))) => {
                (self.publish)(&value);
                Ok(value)
            }
            (Ok(()), None) => Err(Fault::Away("the call was not run".to_owned()).into()),
            (Err(fault), Some(Ok(_)) | None) => Err(fault.into()),
        };
        // Nobody waits any more when the caller was cancelled; the change stands all the same.
        drop(self.reply.send(outcome));
    }
}

fn serve(connection: &Connection, mut waiting: mpsc::Receiver<Box<dyn Work>>, access: Access) {
    let mut group = Vec::with_capacity(GROUP);
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while group.len() < GROUP
            && let Ok(next) = waiting.try_recv()
        {
            group.push(next);
        }
        let committed = run_group(connection, &mut group, access);
        if let Err(error) = &committed {
            tracing::error!(%error, "a store could not commit");
            // Fails where SQLite has rolled back by itself; either way nothing is open afterwards.
            drop(connection.execute_batch("ROLLBACK"));
        }
        let committed = committed.map_err(|error| Fault::from(&error));
        for call in group.drain(..) {
            call.settle(committed.clone());
        }
    }
}

fn run_group(
    connection: &Connection,
    group: &mut [Box<dyn Work>],
    access: Access,
) -> rusqlite::Result<()> {
    let run = |sql| connection.prepare_cached(sql)?.execute([]).map(|_| ());
    run(access.begin())?;
    for call in group {
        run("SAVEPOINT call")?;
        if call.run(connection).is_err() {
            // Fails when SQLite has rolled everything back, as on a full disk. That ends the group.
            run("ROLLBACK TO call")?;
        }
        run("RELEASE call")?;
    }
    run("COMMIT")
}

/// Reads a column that holds the text form of something.
pub(crate) fn parsed<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let index = row.as_ref().column_index(column)?;
    row.get_ref(index)?
        .as_str()?
        .parse()
        .map_err(|error| unreadable(index, Type::Text, error))
}

/// Reads a column that holds microseconds since 1970.
pub(crate) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    let index = row.as_ref().column_index(column)?;
    Timestamp::from_microsecond(row.get(index)?)
        .map_err(|error| unreadable(index, Type::Integer, error))
}

/// Reads a column that holds a position in a stream.
pub(crate) fn position(row: &Row<'_>, column: &str) -> rusqlite::Result<Seq> {
    let index = row.as_ref().column_index(column)?;
    let number: i64 = row.get(index)?;
    let seq = u64::try_from(number).ok().filter(|seq| *seq > 0);
    seq.map(Seq)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(index, number))
}

/// A position as SQLite can hold it. Saturates, which no real stream can reach.
pub(crate) fn stored_position(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// A limit as SQLite takes it.
pub(crate) fn stored_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The error for a column that does not hold what it should.
pub(crate) fn unreadable<E>(column: usize, kind: Type, error: E) -> rusqlite::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

/// What the stores keep of a moment: whole microseconds.
pub(crate) fn rounded(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema {
        name: "test",
        application_id: 7,
        migrations: &["CREATE TABLE a (x INTEGER NOT NULL)", "CREATE TABLE b (x)"],
    };

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        (folder, path)
    }

    fn spawn(path: &Path) -> StoreThread {
        let connection = open(path, &SCHEMA).unwrap();
        StoreThread::spawn("test", path, connection, Access::Write).unwrap()
    }

    #[derive(Debug, PartialEq)]
    enum Answer {
        Away,
        Corrupt,
        Own,
    }

    impl From<Fault> for Answer {
        fn from(fault: Fault) -> Self {
            match fault {
                Fault::Away(_) => Self::Away,
                Fault::Corrupt(_) => Self::Corrupt,
            }
        }
    }

    impl From<rusqlite::Error> for Answer {
        fn from(error: rusqlite::Error) -> Self {
            Fault::from(&error).into()
        }
    }

    fn insert(connection: &Connection, x: Option<i64>) -> Result<(), Answer> {
        connection.execute("INSERT INTO a VALUES (?1)", [x])?;
        Ok(())
    }

    fn numbers(path: &Path) -> Vec<i64> {
        let connection = open_reader(path).unwrap();
        let mut ask = connection.prepare("SELECT x FROM a ORDER BY x").unwrap();
        let rows = ask.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn an_older_layout_is_brought_up_to_date_and_its_content_kept() {
        let (_folder, path) = file();
        let older = Schema {
            migrations: &SCHEMA.migrations[..1],
            ..SCHEMA
        };
        open(&path, &older)
            .unwrap()
            .execute("INSERT INTO a VALUES (1)", [])
            .unwrap();
        for _ in 0..2 {
            let connection = open(&path, &SCHEMA).unwrap();
            connection.execute("DELETE FROM b", []).unwrap();
            assert_eq!(numbers(&path), [1]);
        }
    }

    #[test]
    fn a_file_that_is_up_to_date_is_opened_while_another_process_writes() {
        let (_folder, path) = file();
        let mut writing = open(&path, &SCHEMA).unwrap();
        let held = writing
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .unwrap();
        open(&path, &SCHEMA).unwrap();
        drop(held);
    }

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let (_folder, path) = file();
        let connection = open(&path, &SCHEMA).unwrap();
        connection.pragma_update(None, "user_version", 9).unwrap();
        drop(connection);
        let before = std::fs::read(&path).unwrap();
        let error = open(&path, &SCHEMA).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Newer {
                    found: 9,
                    known: 2,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_of_another_store_is_refused() {
        let (_folder, path) = file();
        drop(open(&path, &SCHEMA).unwrap());
        let other = Schema {
            application_id: 8,
            ..SCHEMA
        };
        let error = open(&path, &other).unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let (_folder, path) = file();
        let broken = Schema {
            migrations: &["CREATE TABLE a (x)", "no such statement"],
            ..SCHEMA
        };
        open(&path, &broken).unwrap_err();
        open(&path, &SCHEMA).unwrap();
    }

    #[tokio::test]
    async fn calls_that_share_a_transaction_fail_alone() {
        let (_folder, path) = file();
        let store = spawn(&path);
        // The first call holds the thread until the others wait, so that they form one group.
        let (go, gate) = std::sync::mpsc::sync_channel(1);
        let first = store.call(move |connection| {
            gate.recv().unwrap();
            insert(connection, Some(1))
        });
        let open_gate = async {
            tokio::task::yield_now().await;
            go.send(()).unwrap();
        };
        let (first, second, third, fourth, fifth, ()) = tokio::join!(
            first,
            store.call(|connection| insert(connection, Some(2))),
            store.call(|connection| insert(connection, Some(3)).and(Err::<(), _>(Answer::Own))),
            store.call(|connection| insert(connection, None)),
            store.call(|connection| insert(connection, Some(5))),
            open_gate,
        );
        assert_eq!((first, second, fifth), (Ok(()), Ok(()), Ok(())));
        assert_eq!((third, fourth), (Err(Answer::Own), Err(Answer::Away)));
        assert_eq!(numbers(&path), [1, 2, 5]);
    }

    #[tokio::test]
    async fn a_group_that_cannot_commit_answers_everybody_and_the_next_one_works() {
        let (_folder, path) = file();
        let store = spawn(&path);
        let broken = store.call(|connection| {
            insert(connection, Some(1))?;
            // What a full disk does: the transaction is gone in the middle of it.
            Ok(connection.execute_batch("ROLLBACK")?)
        });
        assert_eq!(broken.await, Err(Answer::Away));
        let fine = store.call(|connection| insert(connection, Some(2)));
        assert_eq!(fine.await, Ok(()));
        assert_eq!(numbers(&path), [2]);
    }

    #[tokio::test]
    async fn a_call_whose_caller_has_gone_is_carried_out_all_the_same() {
        let (_folder, path) = file();
        let store = spawn(&path);
        let (go, gate) = std::sync::mpsc::sync_channel(1);
        let call = store.call(move |connection| {
            gate.recv().unwrap();
            insert(connection, Some(1))
        });
        tokio::select! {
            biased;
            _ = call => panic!("the gate is closed"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).unwrap();
        drop(store);
        assert_eq!(numbers(&path), [1]);
    }

    #[tokio::test]
    async fn a_thread_that_has_panicked_is_away_and_hangs_nobody() {
        let (_folder, path) = file();
        let store = spawn(&path);
        let panicked = store.call(|_| -> Result<(), Answer> { panic!("in a call") });
        assert_eq!(panicked.await, Err(Answer::Away));
        let after = store.call(|connection| insert(connection, Some(1)));
        assert_eq!(after.await, Err(Answer::Away));
    }
}
