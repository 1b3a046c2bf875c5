-- The catalog's first layout. Times are microseconds since 1970, ids and epochs hexadecimal text.

CREATE TABLE places (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    description TEXT,
    floor INTEGER NOT NULL,
    xaxis REAL NOT NULL,
    yaxis REAL NOT NULL,
    thumburl TEXT,
    mapurl TEXT,
    UNIQUE (name, floor)
) STRICT;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    description TEXT,
    starttime INTEGER NOT NULL,
    endtime INTEGER NOT NULL,
    place_name TEXT NOT NULL,
    place_floor INTEGER NOT NULL,
    thumburl TEXT,
    FOREIGN KEY (place_name, place_floor) REFERENCES places (name, floor)
        ON UPDATE CASCADE ON DELETE RESTRICT
) STRICT;
CREATE INDEX events_by_place ON events (place_name, place_floor);

-- AUTOINCREMENT, so that the number of a removed robot is never given to another.
CREATE TABLE robots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    floor INTEGER NOT NULL,
    home_x REAL,
    home_y REAL,
    home_theta REAL,
    secret TEXT NOT NULL,
    down_epoch TEXT NOT NULL,
    down_acked INTEGER NOT NULL,
    down_next INTEGER NOT NULL
) STRICT;

-- `number` is the order of submission. `seq` counts within `epoch`; what was delivered before the
-- down stream was renewed keeps the epoch in which it was.
CREATE TABLE commands (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    robot INTEGER NOT NULL REFERENCES robots (id) ON DELETE CASCADE,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    job BLOB NOT NULL,
    deadline INTEGER NOT NULL,
    actor TEXT NOT NULL,
    idempotency_key TEXT,
    submitted INTEGER NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    UNIQUE (robot, epoch, seq),
    UNIQUE (robot, idempotency_key)
) STRICT;
CREATE INDEX commands_by_submission ON commands (robot, number);

CREATE TABLE transitions (
    number INTEGER PRIMARY KEY,
    command INTEGER NOT NULL REFERENCES commands (number) ON DELETE CASCADE,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX transitions_by_command ON transitions (command);

CREATE TABLE applied (
    robot INTEGER NOT NULL REFERENCES robots (id) ON DELETE CASCADE,
    epoch TEXT NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (robot, epoch)
) STRICT, WITHOUT ROWID;

-- Tells readers with a cache, in every process, that a list has changed.
CREATE TABLE lists (revision INTEGER NOT NULL) STRICT;
INSERT INTO lists VALUES (1);
CREATE TRIGGER place_added AFTER INSERT ON places
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER place_changed AFTER UPDATE ON places
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER place_removed AFTER DELETE ON places
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER event_added AFTER INSERT ON events
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER event_changed AFTER UPDATE ON events
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER event_removed AFTER DELETE ON events
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER robot_added AFTER INSERT ON robots
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER robot_changed AFTER UPDATE OF name, floor, home_x, home_y, home_theta ON robots
    BEGIN UPDATE lists SET revision = revision + 1; END;
CREATE TRIGGER robot_removed AFTER DELETE ON robots
    BEGIN UPDATE lists SET revision = revision + 1; END;
