-- The journal's first layout. Times are microseconds since 1970, ids and epochs hexadecimal text.

-- One row for each incarnation of a robot's spool; `due` is the received cursor. The columns `boot…`
-- hold the segment that its newest record belongs to; see `segments`.
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    robot INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    due INTEGER NOT NULL,
    boot TEXT,
    boot_first INTEGER,
    boot_last INTEGER,
    boot_latest INTEGER,
    UNIQUE (robot, epoch)
) STRICT;

-- `record` is as it came. A row covers the positions from `seq` on that `covers` says, and the rows
-- of a stream leave no hole.
CREATE TABLE records (
    stream INTEGER NOT NULL REFERENCES streams (id),
    seq INTEGER NOT NULL,
    covers INTEGER NOT NULL,
    received INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

-- Which records stand for others that are not there: tombstones, and samples that were thinned
-- (`kept` is 1). `count` says for how many, 0 where nobody can know.
CREATE TABLE gaps (
    stream INTEGER NOT NULL REFERENCES streams (id),
    seq INTEGER NOT NULL,
    covers INTEGER NOT NULL,
    count INTEGER NOT NULL,
    kept INTEGER NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

-- Runs of records of one boot that are over: the first position, the highest uptime in them, and the
-- latest moment at which the boot can have been by when they were received.
CREATE TABLE segments (
    number INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL REFERENCES streams (id),
    boot TEXT NOT NULL,
    boot_first INTEGER NOT NULL,
    boot_last INTEGER NOT NULL,
    boot_latest INTEGER NOT NULL
) STRICT;
CREATE INDEX segments_by_stream ON segments (stream, number);

-- The bounds of a boot's moment that sessions have shown, good for what was made at `uptime`
-- (microseconds since the boot), and less so before and after.
CREATE TABLE boots (
    robot INTEGER NOT NULL,
    boot TEXT NOT NULL,
    earliest INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    uptime INTEGER NOT NULL,
    PRIMARY KEY (robot, boot)
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
