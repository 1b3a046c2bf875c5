-- The live store's first layout: what has to outlive a restart of the relay.

CREATE TABLE codes (
    robot INTEGER PRIMARY KEY,
    code INTEGER NOT NULL UNIQUE
) STRICT;

CREATE TABLE faces (
    robot INTEGER PRIMARY KEY,
    socket TEXT NOT NULL
) STRICT;

CREATE TABLE guidance (
    robot INTEGER PRIMARY KEY,
    phase TEXT NOT NULL,
    destination TEXT,
    trip TEXT
) STRICT;
