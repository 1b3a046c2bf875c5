-- What each robot last said of itself, and when, as JSON: for robots that are out of contact when the
-- relay starts again.

CREATE TABLE heard (
    robot INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    said TEXT NOT NULL
) STRICT;
