//! What a relay grants while a session lasts, and what a gateway reports of its spool.

use std::time::Duration;

use brrbrr_proto::link::gateway::DiskState;
use brrbrr_proto::up::{Disk, Report};

use crate::pair::{GRANTS, Pair};

fn state(disk: Disk, detail: &str, pair: &Pair) -> DiskState {
    DiskState {
        disk,
        since: pair.now,
        detail: detail.to_owned(),
        oldest: None,
    }
}

#[test]
fn without_credit_the_backlog_waits_and_with_it_goes_on_at_once() {
    let mut pair = Pair::connected();
    let epoch = pair.spool.view.epoch;
    pair.relay.grant(0);
    pair.settle();
    for number in 0..50 {
        pair.append(&format!("record {number}"));
    }
    pair.show(0.5);
    pair.pass(Duration::from_secs(60));
    assert_eq!(pair.journal(epoch).len(), 0);
    assert_eq!(pair.statuses.len(), 1, "live frames need no credit");
    assert_eq!(pair.relay.backlog(), 50, "a beat's report tells");
    pair.relay.grant(GRANTS.credit);
    pair.settle();
    assert_eq!(pair.journal(epoch).len(), 50);
    assert_eq!(pair.relay.backlog(), 0);
}

#[test]
fn a_grant_never_exceeds_what_the_relay_can_hold() {
    let mut pair = Pair::connected();
    pair.relay.grant(0);
    pair.relay.grant(u32::MAX);
    pair.settle();
    let greatest = pair.sent_down.iter().filter_map(|(_, down)| match down {
        brrbrr_proto::down::Down::Ack(ack) => Some(ack.credit),
        _ => None,
    });
    assert_eq!(greatest.max(), Some(GRANTS.credit));
}

#[test]
fn a_report_comes_with_the_session_with_beats_and_when_the_disk_changes() {
    let mut pair = Pair::connected();
    let disks = |reports: &[Report]| reports.iter().map(|r| r.disk).collect::<Vec<_>>();
    assert_eq!(disks(&pair.reports), [Disk::Fine]);
    let failing = state(Disk::Failing, "the disk is full", &pair);
    let now = pair.now;
    pair.gateway.handle_disk(failing.clone(), now);
    pair.settle();
    assert_eq!(disks(&pair.reports), [Disk::Fine, Disk::Failing]);
    assert_eq!(pair.reports[1].detail, "the disk is full");
    assert_eq!(pair.reports[1].since, now);
    pair.gateway.handle_disk(failing, now);
    pair.settle();
    assert_eq!(pair.reports.len(), 2, "no news");
    pair.pass(GRANTS.beat_interval * 2);
    assert!(pair.reports.len() > 2, "beats bring it again");
    pair.reports.clear();
    pair.restart_relay();
    pair.pass(GRANTS.beat_interval * 5);
    assert_eq!(disks(&pair.reports).first(), Some(&Disk::Failing));
}
