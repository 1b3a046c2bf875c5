-- The journal's first layout. Times are microseconds since 1970, ids and epochs hexadecimal text.

-- One row for each incarnation of a robot's spool; `due` is the received cursor.
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    robot INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    due INTEGER NOT NULL,
    UNIQUE (robot, epoch)
) STRICT;

-- `record` is as it came. A row covers the positions from `seq` on that `covers` says, and the rows
-- of a stream leave no hole. `clock_offset` is what the relay knew when it received the run.
CREATE TABLE records (
    stream INTEGER NOT NULL REFERENCES streams (id),
    seq INTEGER NOT NULL,
    covers INTEGER NOT NULL,
    received INTEGER NOT NULL,
    clock_offset INTEGER,
    record BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE trips (
    number INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    step TEXT NOT NULL,
    robot_name TEXT NOT NULL,
    destination TEXT NOT NULL,
    ordered_at INTEGER NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (command, step)
) STRICT;
CREATE INDEX trips_by_robot ON trips (robot_name, number);
