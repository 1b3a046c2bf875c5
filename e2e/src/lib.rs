//! What the whole-system tests, fault drills and benchmarks are made of: the real programs as child
//! processes, the peers that talk to them, and readers of what the relay has stored.
//!
//! Everything here is for tests, so what goes wrong is a panic that says what was waited for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and shows its children's logs"
)]

pub mod building;
pub mod child;
pub mod control;
pub mod face;
pub mod gateway;
pub mod guest;
pub mod http;
pub mod judge;
pub mod metrics;
pub mod operator;
pub mod producer;
pub mod proxy;
pub mod random;
pub mod relay;
pub mod robot;
pub mod stores;
pub mod vhost;
pub mod wait;
pub mod wire;

use std::path::{Path, PathBuf};

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// One of the programs under test: in the folder `BRRBRR_BIN`, or where cargo has put it beside the
/// running test or benchmark.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folder = programs();
    let path = folder.join(name);
    let how = "build it with `cargo build --workspace --bins`, or set BRRBRR_BIN to its folder";
    assert!(path.is_file(), "no {name} in {}: {how}", folder.display());
    path
}

/// The folder of the programs under test.
#[must_use]
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("BRRBRR_BIN") {
        return PathBuf::from(folder);
    }
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    // Tests are one folder further down than programs.
    if folder.ends_with("deps") {
        folder.parent().unwrap().to_owned()
    } else {
        folder.to_owned()
    }
}
