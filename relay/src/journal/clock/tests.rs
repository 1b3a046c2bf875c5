//! A simulated robot whose calendar is wrong, whose boots may never have a session, and whose
//! records arrive late.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
const YEAR: i64 = 365 * DAY;
/// 2026-09-21, when the robot is switched on for the first time.
const START: i64 = 1_790_000_000 * SECOND;

/// What the board's calendar shows, from some record on.
#[derive(Debug, Clone, Copy)]
enum Calendar {
    Right,
    OffBy(i64),
    /// As boards without a battery do.
    From1970,
}

#[derive(Debug, Clone)]
struct BootPlan {
    off_before: i64,
    /// In parts of a million.
    drift: i64,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Record {
        after: i64,
        calendar: Calendar,
        delay: i64,
    },
    /// How much before and after the boot's moment the session leaves open.
    Session {
        after: i64,
        before_it: i64,
        after_it: i64,
    },
}

struct Made {
    seq: Seq,
    stamp: Stamp,
    received: Timestamp,
    truth: i64,
}

#[derive(Default)]
struct Simulated {
    records: Vec<Made>,
    segments: Vec<Segment>,
    known: BTreeMap<BootId, BootClock>,
    /// How often a boot's bounds were written down, and how often a session was heard.
    writes: usize,
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

fn uptime(micros: i64) -> Uptime {
    Uptime::new(Duration::from_micros(micros.unsigned_abs()))
}

fn simulate(boots: &[BootPlan]) -> Simulated {
    let mut simulated = Simulated::default();
    let (mut now, mut seq) = (START, Seq::FIRST);
    let mut received = START;
    for (number, plan) in (1..).zip(boots) {
        now += plan.off_before;
        let (booted, boot) = (now, BootId(number));
        let board = |now: i64| now - booted + (now - booted) * plan.drift / 1_000_000;
        for step in &plan.steps {
            match *step {
                Step::Record {
                    after,
                    calendar,
                    delay,
                } => {
                    now += after;
                    let wall = match calendar {
                        Calendar::Right => now,
                        Calendar::OffBy(error) => now + error,
                        Calendar::From1970 => now - booted,
                    };
                    let stamp = Stamp {
                        boot,
                        uptime: uptime(board(now)),
                        wall: WallClock(wall),
                    };
                    received = received.max(now + delay);
                    let segment = simulated.segments.last_mut();
                    match segment.filter(|segment| segment.boot == boot) {
                        Some(segment) => segment.extend(stamp, at(received)),
                        None => simulated
                            .segments
                            .push(Segment::new(seq, stamp, at(received))),
                    }
                    simulated.records.push(Made {
                        seq,
                        stamp,
                        received: at(received),
                        truth: now,
                    });
                    seq = seq.plus(1);
                }
                Step::Session {
                    after,
                    before_it,
                    after_it,
                } => {
                    now += after;
                    let moment = now - board(now);
                    let clock = BoardClock {
                        boot,
                        earliest: moment - before_it,
                        latest: moment + after_it,
                    };
                    let heard = BootClock::heard(&clock, at(now));
                    let known = simulated.known.get(&boot).copied();
                    if let Some(better) = BootClock::narrowed(known, heard) {
                        simulated.known.insert(boot, better);
                        simulated.writes += 1;
                    }
                }
            }
        }
    }
    simulated
}

fn calendars() -> impl Strategy<Value = Calendar> {
    prop_oneof![
        Just(Calendar::Right),
        Just(Calendar::From1970),
        (-30 * YEAR..30 * YEAR).prop_map(Calendar::OffBy),
        (-DAY..DAY).prop_map(Calendar::OffBy),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let delay = prop_oneof![Just(0), 0..SECOND, 0..3 * DAY];
    let record = (0..DAY, calendars(), delay).prop_map(|(after, calendar, delay)| Step::Record {
        after,
        calendar,
        delay,
    });
    let open = prop_oneof![0..10_000_i64, 0..30 * SECOND];
    let session =
        (0..DAY, open.clone(), open).prop_map(|(after, before_it, after_it)| Step::Session {
            after,
            before_it,
            after_it,
        });
    prop_oneof![4 => record, 1 => session]
}

fn boots() -> impl Strategy<Value = Vec<BootPlan>> {
    let off = prop_oneof![0..100 * SECOND, 0..30 * DAY];
    let boot =
        (off, -50..50_i64, vec(steps(), 0..12)).prop_map(|(off_before, drift, steps)| BootPlan {
            off_before,
            drift,
            steps,
        });
    vec(boot, 1..8)
}

proptest! {
    #[test]
    fn the_true_time_lies_within_the_uncertainty_and_time_does_not_run_back(plan in boots()) {
        let simulated = simulate(&plan);
        let timeline = Timeline::new(&simulated.segments, simulated.known.clone());
        let mut before: Option<Repaired> = None;
        for made in &simulated.records {
            let repaired = timeline.repair(made.seq, made.stamp, made.received);
            let off = repaired.corrected.as_microsecond().abs_diff(made.truth);
            let uncertainty = repaired.uncertainty.as_micros();
            prop_assert!(u128::from(off) <= uncertainty, "off by {off} us: {repaired:?}");
            prop_assert!(repaired.corrected <= made.received);
            let has_session = simulated.known.contains_key(&made.stamp.boot);
            prop_assert_eq!(repaired.basis == Basis::Session, has_session);
            if let Some(before) = before {
                let back = before.corrected.duration_since(repaired.corrected);
                let allowed = before.uncertainty + repaired.uncertainty;
                prop_assert!(back.as_micros() <= allowed.as_micros().cast_signed());
            }
            before = Some(repaired);
        }
    }

    #[test]
    fn whatever_a_robot_claims_is_survived(
        stamps in vec((any::<u64>(), 0..3_u64, any::<u64>(), any::<i64>(), any::<u64>()), 0..20),
        clocks in vec((0..3_u64, any::<i64>(), any::<i64>(), any::<u64>()), 0..6),
        received in -YEAR..100 * YEAR,
    ) {
        let received = at(received);
        let mut known = BTreeMap::new();
        for (boot, earliest, latest, _) in clocks {
            let clock = BoardClock { boot: BootId(boot), earliest, latest };
            let heard = BootClock::heard(&clock, received);
            let before = known.get(&BootId(boot)).copied();
            if let Some(better) = BootClock::narrowed(before, heard) {
                known.insert(BootId(boot), better);
            }
        }
        let stamps: Vec<_> = stamps.into_iter().map(|(seq, boot, uptime, wall, _)| {
            let uptime = Uptime::new(Duration::from_micros(uptime));
            (Seq(seq), Stamp { boot: BootId(boot), uptime, wall: WallClock(wall) })
        }).collect();
        let segments: Vec<_> = stamps
            .iter()
            .map(|(seq, stamp)| Segment::new(*seq, *stamp, received))
            .collect();
        for segments in [&segments[..], &[]] {
            let timeline = Timeline::new(segments, known.clone());
            for (seq, stamp) in &stamps {
                let repaired = timeline.repair(*seq, *stamp, received);
                prop_assert!(repaired.corrected <= received.max(Timestamp::MIN));
            }
        }
    }
}

/// When it was and how far that may be off, in seconds. Drift takes a few milliseconds.
fn about(repaired: &Repaired) -> (i64, u64) {
    let since_start = repaired.corrected.as_microsecond() - START;
    let off = repaired.uncertainty + Duration::from_millis(500);
    ((since_start + SECOND / 2) / SECOND, off.as_secs())
}

#[test]
fn a_boot_without_a_session_is_held_between_its_neighbours() {
    let known = |boot, moment| {
        let clock = BootClock {
            earliest: moment,
            latest: moment + 1_000,
            at: Uptime::default(),
        };
        (BootId(boot), clock)
    };
    let late = at(START + 90 * DAY);
    let stamp = |boot, second: i64, wall| Stamp {
        boot: BootId(boot),
        uptime: uptime(second * SECOND),
        wall: WallClock(wall),
    };
    let (first, lost, next) = (stamp(1, 100, 0), stamp(2, 40, 0), stamp(3, 5, 0));
    let segments = [
        Segment::new(Seq(1), first, late),
        Segment::new(Seq(2), lost, late),
        Segment::new(Seq(3), next, late),
    ];
    let clocks = [known(1, START), known(3, START + 1_000 * SECOND)];
    let timeline = Timeline::new(&segments, clocks.into());
    // Between 100 s, when the first boot was last heard of, and 1000 s, when the next one began;
    // its own 40 s lie in between.
    let repaired = timeline.repair(Seq(2), lost, late);
    assert_eq!(about(&repaired), (570, 430));
    assert_eq!(repaired.basis, Basis::Bounds);
    // A calendar that may be right is believed, with the distance to the farther bound.
    let claimed = stamp(2, 40, START + 200 * SECOND);
    let repaired = timeline.repair(Seq(2), claimed, late);
    assert_eq!(about(&repaired), (200, 800));
    assert_eq!(repaired.basis, Basis::Claim);
    assert_eq!(timeline.repair(Seq(1), first, late).basis, Basis::Session);
}

#[test]
fn a_boot_is_written_down_again_only_when_much_more_is_known() {
    let heard = |earliest, latest| BootClock {
        earliest,
        latest,
        at: Uptime::default(),
    };
    let known = heard(0, 100_000);
    assert_eq!(BootClock::narrowed(None, known), Some(known));
    assert_eq!(
        BootClock::narrowed(Some(known), heard(5_000, 100_000)),
        None
    );
    let narrow = heard(50_000, 200_000);
    let both = heard(50_000, 100_000);
    assert_eq!(BootClock::narrowed(Some(known), narrow), Some(both));
    // Milliseconds are not gone after when less than one is open.
    assert_eq!(BootClock::narrowed(Some(heard(0, 900)), heard(0, 10)), None);
    let jumped = heard(DAY, DAY + 100_000);
    assert_eq!(BootClock::narrowed(Some(known), jumped), Some(jumped));
}
