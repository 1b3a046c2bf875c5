//! Both halves of the link over a simulated network and simulated disks, driven by a seed. Synced data
//! is kept by the disks; the rest is lost or torn when its side crashes.
//!
//! `BRRBRR_SIM_SEED=n` replays one seed with a trace; `BRRBRR_SIM_SEEDS=n` runs that many.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a failing simulation panics"
)]

mod disk;
mod judge;
mod net;
mod platter;
mod random;
mod world;

use world::World;

/// How many seeds every test run covers.
const SEEDS: u64 = 10_000;
/// How many actions the world takes before it heals.
const ACTIONS: u32 = 250;

/// Seeds that once found a defect. Only added to.
const REGRESSIONS: &[u64] = &[243_194];

fn run(seed: u64, trace: bool) {
    let mut world = World::new(seed, trace);
    for _ in 0..ACTIONS {
        world.act();
        world.check_journal();
    }
    world.heal();
    world.check_complete();
}

#[test]
fn every_accepted_record_and_command_arrives_exactly_once_and_in_order() {
    if let Ok(seed) = std::env::var("BRRBRR_SIM_SEED") {
        run(seed.parse().expect("BRRBRR_SIM_SEED is a number"), true);
        return;
    }
    let seeds = std::env::var("BRRBRR_SIM_SEEDS").map_or(SEEDS, |text| {
        text.parse().expect("BRRBRR_SIM_SEEDS is a number")
    });
    for seed in REGRESSIONS.iter().copied().chain(0..seeds) {
        let outcome = std::panic::catch_unwind(|| run(seed, false));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed; replay it with BRRBRR_SIM_SEED={seed}"
        );
    }
}

#[test]
fn the_simulated_world_really_misbehaves() {
    let mut totals = world::Mischief::default();
    for seed in 0..200 {
        let mut world = World::new(seed, false);
        for _ in 0..ACTIONS {
            world.act();
        }
        totals += world.mischief();
    }
    println!("{totals:?}");
    assert!(totals.lost > 200, "{totals:?}");
    assert!(totals.doubled > 200, "{totals:?}");
    assert!(totals.gateway_crashes > 200, "{totals:?}");
    assert!(totals.relay_crashes > 200, "{totals:?}");
    assert!(totals.stores_failed > 50, "{totals:?}");
    assert!(totals.writes_refused > 50, "{totals:?}");
    assert!(totals.shed > 200, "{totals:?}");
    assert!(totals.rotten > 50, "{totals:?}");
    assert!(totals.torn > 50, "{totals:?}");
    assert!(totals.unsynced_lost > 50, "{totals:?}");
}
