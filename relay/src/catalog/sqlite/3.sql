-- Commands that were given on a board have no position in the down stream. `offered` is 1 where the
-- robot's board may have the command: what was entered before this layout may have been sent.
-- `target` is the command that a cancellation is for.
CREATE TABLE new_commands (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    robot INTEGER NOT NULL REFERENCES robots (id) ON DELETE CASCADE,
    epoch TEXT,
    seq INTEGER,
    kind TEXT NOT NULL,
    job BLOB NOT NULL,
    target TEXT,
    deadline INTEGER NOT NULL,
    actor TEXT NOT NULL,
    idempotency_key TEXT,
    submitted INTEGER NOT NULL,
    offered INTEGER NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    percent INTEGER,
    progress TEXT,
    progressed INTEGER,
    UNIQUE (robot, epoch, seq),
    UNIQUE (robot, idempotency_key)
) STRICT;
INSERT INTO new_commands
    (number, id, robot, epoch, seq, kind, job, deadline, actor, idempotency_key, submitted, offered,
     state, detail)
    SELECT number, id, robot, epoch, seq, kind, job, deadline, actor, idempotency_key, submitted, 1,
           state, detail
    FROM commands;
CREATE TABLE new_transitions (
    number INTEGER PRIMARY KEY,
    command INTEGER NOT NULL REFERENCES new_commands (number) ON DELETE CASCADE,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    detail TEXT NOT NULL
) STRICT;
INSERT INTO new_transitions SELECT number, command, state, at, detail FROM transitions;
-- The children first: dropping a table deletes its rows, and that cascades.
DROP TABLE transitions;
DROP TABLE commands;
ALTER TABLE new_commands RENAME TO commands;
ALTER TABLE new_transitions RENAME TO transitions;

CREATE INDEX commands_by_submission ON commands (robot, number);
CREATE INDEX commands_unfinished ON commands (robot)
    WHERE state IN ('queued', 'sent', 'received', 'running');
CREATE INDEX commands_never_offered ON commands (deadline) WHERE offered = 0 AND state = 'queued';
CREATE INDEX cancellations ON commands (robot, target) WHERE target IS NOT NULL;
CREATE INDEX transitions_by_command ON transitions (command);

CREATE VIEW ledger AS
    SELECT c.*, EXISTS (
        SELECT 1 FROM commands k
        WHERE k.target = c.id AND k.robot = c.robot
          AND k.state IN ('queued', 'sent', 'received', 'running')
    ) AS cancelling
    FROM commands c;
