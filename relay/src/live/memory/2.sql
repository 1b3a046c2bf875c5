-- Whether each robot was in contact when that last changed, and when the relay was last known to be
-- alive. Times are microseconds since 1970.

CREATE TABLE contacts (
    robot INTEGER PRIMARY KEY,
    contact TEXT NOT NULL,
    since INTEGER,
    last_contact INTEGER,
    cause TEXT
) STRICT;

CREATE TABLE alive (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    at INTEGER NOT NULL
) STRICT;
