//! `GET /metrics`: the text format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use crate::status::{Snapshot, SpoolStatus};

/// A number, as [`metrics`] writes it: name, kind, help, value.
type Row = (&'static str, &'static str, &'static str, u64);

fn spool_rows(spool: &SpoolStatus) -> [Row; 10] {
    [
        (
            "spool_next",
            "counter",
            "Records made in this epoch, plus one",
            spool.next,
        ),
        (
            "spool_backlog",
            "gauge",
            "Records that wait for the relay",
            spool.backlog,
        ),
        (
            "spool_errors",
            "counter",
            "What the spool could not do",
            spool.errors,
        ),
        (
            "spool_bytes",
            "gauge",
            "What the spool takes on the disk",
            spool.bytes,
        ),
        (
            "spool_budget_bytes",
            "gauge",
            "What the spool may take on the disk",
            spool.budget,
        ),
        (
            "spool_short",
            "gauge",
            "1 while room is made by thinning and shedding, else 0",
            u64::from(spool.disk == "short"),
        ),
        (
            "spool_failing",
            "gauge",
            "1 while the spool takes nothing, else 0",
            u64::from(spool.disk == "failing"),
        ),
        (
            "spool_thinned",
            "counter",
            "Samples of telemetry merged into others",
            spool.thinned,
        ),
        (
            "spool_shed",
            "counter",
            "Records shed to make room",
            spool.shed,
        ),
        (
            "spool_refused",
            "counter",
            "Writes refused to their sources",
            spool.refused,
        ),
    ]
}

/// The text format of Prometheus, version 0.0.4.
pub(super) fn metrics(snapshot: &Snapshot) -> String {
    let in_session = u64::from(snapshot.link.state == "session");
    let unfinished = u64::try_from(snapshot.unfinished_commands).unwrap_or(u64::MAX);
    let adapter = &snapshot.adapter;
    let rows = [
        (
            "session_open",
            "gauge",
            "1 with a session, else 0",
            in_session,
        ),
        (
            "sessions",
            "counter",
            "Sessions since the start",
            snapshot.link.sessions,
        ),
        (
            "commands_unfinished",
            "gauge",
            "Commands that have not ended",
            unfinished,
        ),
        (
            "robot_messages",
            "counter",
            "Messages that came from the robot",
            adapter.messages,
        ),
        (
            "robot_unreadable",
            "counter",
            "Messages that could not be kept",
            adapter.unreadable,
        ),
        (
            "robot_orders",
            "counter",
            "Orders passed to the robot",
            adapter.orders,
        ),
        (
            "robot_reconnects",
            "counter",
            "Attempts to reach the robot",
            adapter.reconnects,
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in spool_rows(&snapshot.spool).into_iter().chain(rows) {
        // Writing to a string cannot fail.
        writeln!(
            text,
            "# HELP brrbrr_gateway_{name} {help}\n# TYPE brrbrr_gateway_{name} {kind}\n\
             brrbrr_gateway_{name} {value}"
        )
        .ok();
    }
    text
}
