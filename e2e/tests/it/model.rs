//! Commands at both sides together, in a world driven by a seed: the gateway's state machine, both
//! halves of the link and the relay's ledger are the real ones; the board, its disk, the robot, the
//! network and all clocks are simulated, and fail.
//!
//! `BRRBRR_MODEL_SEED=n` replays one seed with a trace; `BRRBRR_MODEL_SEEDS=n` runs that many, from
//! `BRRBRR_MODEL_FIRST` on where that is given.

mod board;
mod disk;
mod driver;
mod judge;
mod ledger;
mod net;
mod random;
mod relay;
mod robot;
mod workers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use ledger::Store;
use world::{Mischief, World};

/// How many seeds every test run covers.
const SEEDS: u64 = 200;
/// How many actions the world takes before it heals.
const ACTIONS: u32 = 300;

/// Seeds that once found a defect. Only added to.
const REGRESSIONS: &[u64] = &[102_173, 3_001_346, 1_010_854, 7_024_531];

fn run(store: &Rc<Store>, seed: u64, trace: bool) -> Mischief {
    let mut world = World::new(store, seed, trace);
    for _ in 0..ACTIONS {
        world.act();
    }
    world.heal();
    world.check_end();
    world.mischief()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn every_command_ends_once_and_alike_at_both_sides_and_none_starts_late_or_twice() {
    let store = Store::open();
    if let Some(seed) = number("BRRBRR_MODEL_SEED") {
        run(&store, seed, true);
        return;
    }
    let first = number("BRRBRR_MODEL_FIRST").unwrap_or(0);
    let count = number("BRRBRR_MODEL_SEEDS").unwrap_or(SEEDS);
    let mut totals = Mischief::default();
    for seed in REGRESSIONS.iter().copied().chain(first..first + count) {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&store, seed, false)));
        let Ok(mischief) = outcome else {
            let trace = || run(&Store::open(), seed, true);
            drop(catch_unwind(AssertUnwindSafe(trace)));
            panic!("seed {seed} failed; replay it with BRRBRR_MODEL_SEED={seed}");
        };
        totals += mischief;
    }
    println!("{count} seeds: {totals:?}");
    // A world in which nothing goes wrong shows nothing.
    for met in [
        totals.commands / 8,
        totals.lost,
        totals.doubled,
        totals.daemon_crashes,
        totals.reboots,
        totals.relay_crashes,
        totals.refused_writes,
        totals.broker_away,
        totals.suspended,
        totals.robot_restarts,
        totals.expired_by_relay,
    ] {
        assert!(met >= count / 20, "{totals:?}");
    }
}
