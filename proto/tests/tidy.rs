//! Rules about the source that no lint can check. Where a rule has exceptions they are in a list
//! here, each with its reason.

#![allow(clippy::expect_used, clippy::panic, reason = "a broken rule panics")]

use std::fs;
use std::path::{Path, PathBuf};

/// What the shared crate may depend on: nothing that does I/O, has a runtime or reads a clock.
const PROTO_DEPENDENCIES: &[&str] = &[
    "chacha20poly1305",
    "hkdf",
    "postcard",
    "serde",
    "serde_json",
    "sha2",
    "subtle",
    "thiserror",
    // Tables and pure functions: names are compared in one Unicode form.
    "unicode-normalization",
    "zeroize",
];

/// What the shared crate must not even name.
const IMPURE: &[&str] = &[
    "std::time::Instant",
    "SystemTime",
    "std::net",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "tokio",
    "getrandom",
];

/// Who may read a calendar. Decisions about commands never rest on one.
const READS_CALENDAR: &[(&str, &str)] = &[
    ("gateway/src/clock.rs", "the gateway's clock"),
    ("relay/src/clock.rs", "the relay's clock"),
    (
        "relay/src/http/guidance.rs",
        "driver: when a trip was ordered and ended",
    ),
    (
        "relay/src/http/status.rs",
        "driver: how old what a robot said is",
    ),
    (
        "relay/src/session/worker.rs",
        "driver: when the stores heard of something",
    ),
];

/// Who else may read the clock that only counts on. Cores get the time passed in.
const READS_INSTANTS: &[(&str, &str)] = &[
    (
        "gateway/src/building.rs",
        "tells people how long ago a relay confirmed the building",
    ),
    (
        "gateway/src/drill.rs",
        "driver: how long a drill takes, and whether it stalls",
    ),
    (
        "gateway/src/drill/producer.rs",
        "driver: when the next event is due",
    ),
    (
        "gateway/src/drill/proxy.rs",
        "driver of a line's model: when packets arrive",
    ),
    (
        "gateway/src/drill/relay.rs",
        "driver: time limit of the start",
    ),
    (
        "gateway/src/local/commands.rs",
        "driver: how long a caller waits for a command's end",
    ),
    (
        "gateway/src/robot/amqp.rs",
        "driver: how often a failure is logged",
    ),
    (
        "gateway/src/robot/sim.rs",
        "driver of the simulated robot's model",
    ),
    (
        "gateway/src/status.rs",
        "tells people for how long the disk has been as it is",
    ),
    (
        "gateway/src/spool/repair.rs",
        "driver: how often a failing disk is tried",
    ),
    (
        "gateway/src/spool/writer/mending.rs",
        "driver: how often a failing disk is tried",
    ),
    (
        "gateway/src/spool/writer.rs",
        "driver: how long a commit lingers",
    ),
    (
        "relay/src/http/commands.rs",
        "driver: how long a caller waits for a command's end",
    ),
    (
        "relay/src/broker/fabric.rs",
        "driver: time limit of the start",
    ),
    ("relay/src/clock.rs", "the relay's clock"),
    (
        "relay/src/http/front.rs",
        "driver: time limit and duration of a request",
    ),
    (
        "relay/src/live/memory.rs",
        "driver: passes the time to the limits on guesses",
    ),
    ("relay/src/push/absences.rs", "driver: grace times of faces"),
    ("relay/src/push/socketio.rs", "driver: grace times of faces"),
    (
        "relay/src/session/worker.rs",
        "driver: when what was sent is noted",
    ),
];

/// Who may read the environment.
const READS_ENVIRONMENT: &[&str] = &[
    "gateway/src/config.rs",
    "gateway/src/main.rs",
    "relay/src/config.rs",
    "relay/src/main.rs",
];

/// The longest file. About 500 lines is where to look for a split.
const MAX_LINES: usize = 700;

/// Files that are longer, and why.
const LONG_FILES: &[(&str, &str)] = &[
    ("gateway/src/command.rs", "one state machine with its tests"),
    (
        "relay/src/catalog/conformance.rs",
        "one suite that every store passes",
    ),
];

fn root() -> PathBuf {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"));
    proto.parent().expect("in a workspace").to_owned()
}

/// A source file: its path from the root of the workspace, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text before the unit tests, which may do as they like.
    fn product(&self) -> &str {
        let end = self.text.find("#[cfg(test)]\nmod ");
        &self.text[..end.unwrap_or(self.text.len())]
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn is_listed(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(listed, _)| *listed == path)
}

/// Every `.rs` file of the workspace.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for member in ["proto", "gateway", "relay", "e2e"] {
        collect(&root().join(member), &mut sources);
    }
    assert!(sources.len() > 50, "where is the source?");
    sources
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" && name != "node_modules" {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a text");
            let path = path.strip_prefix(root()).expect("in the workspace");
            let path = path.to_str().expect("a plain name").to_owned();
            sources.push(Source { path, text });
        }
    }
}

/// The names in the tables of a manifest with this title, those of single targets included.
fn dependencies(member: &str, title: &str) -> Vec<String> {
    let manifest = root().join(member).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).expect("a manifest");
    let mut is_in_table = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            is_in_table = table == title || table.ends_with(&format!(".{title}"));
            let single = table
                .split_once(title)
                .filter(|(before, _)| before.is_empty() || before.ends_with('.'));
            names.extend(
                single
                    .and_then(|(_, rest)| rest.strip_prefix('.'))
                    .map(str::to_owned),
            );
        } else if is_in_table && let Some((name, _)) = line.split_once('=') {
            let name = name.trim().split('.').next().unwrap_or_default();
            names.push(name.to_owned());
        }
    }
    names
}

#[track_caller]
fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// Lines of the product that name one of the words, outside comments.
fn lines_with(source: &Source, words: &[&str]) -> Vec<String> {
    let lines = source.product().lines().zip(1..);
    lines
        .filter(|(line, _)| !line.trim_start().starts_with("//"))
        .filter(|(line, _)| words.iter().any(|word| line.contains(word)))
        .map(|(line, number)| format!("{}:{number}: {}", source.path, line.trim()))
        .collect()
}

#[test]
fn the_shared_crate_depends_on_little() {
    let mut found = dependencies("proto", "dependencies");
    assert!(!found.is_empty(), "no dependencies were found at all");
    found.extend(dependencies("proto", "build-dependencies"));
    found.retain(|name| !PROTO_DEPENDENCIES.contains(&name.as_str()));
    assert_none(&found, "proto must not depend on");
}

#[test]
fn gateway_and_relay_do_not_depend_on_each_other_nor_on_the_tests() {
    for (member, strangers) in [
        ("proto", ["brrbrr-gateway", "brrbrr-relay", "brrbrr-e2e"]),
        ("gateway", ["brrbrr-relay", "brrbrr-e2e", "brrbrr-gateway"]),
        ("relay", ["brrbrr-gateway", "brrbrr-e2e", "brrbrr-relay"]),
    ] {
        let names = dependencies(member, "dependencies");
        for stranger in strangers {
            assert!(
                !names.iter().any(|name| name == stranger),
                "{member} must not depend on {stranger}"
            );
        }
    }
}

#[test]
fn the_shared_crate_is_pure() {
    let sources = sources();
    let proto = sources.iter().filter(|s| s.is_in(&["proto/src/"]));
    let broken: Vec<String> = proto.flat_map(|s| lines_with(s, IMPURE)).collect();
    assert_none(&broken, "proto does no I/O and reads no clock");
}

#[test]
fn only_the_listed_files_read_clocks() {
    let mut broken = Vec::new();
    for source in sources() {
        if !source.is_in(&["gateway/src/", "relay/src/"]) {
            continue;
        }
        let path = source.path.as_str();
        if !is_listed(READS_CALENDAR, path) {
            let calendar = [
                "SystemTime::now",
                "clock_gettime",
                "Timestamp::now",
                "Zoned::now",
            ];
            broken.extend(lines_with(&source, &calendar));
        }
        if !is_listed(READS_INSTANTS, path) {
            broken.extend(lines_with(&source, &["Instant::now"]));
        }
    }
    assert_none(
        &broken,
        "time is passed in; drivers that read it are listed in tests/tidy.rs",
    );
}

#[test]
fn only_configuration_and_main_read_the_environment() {
    let mut broken = Vec::new();
    for source in sources() {
        let is_product = source.is_in(&["gateway/src/", "relay/src/"]);
        if is_product && !READS_ENVIRONMENT.contains(&source.path.as_str()) {
            broken.extend(lines_with(&source, &["env::var", "env::args"]));
        }
    }
    assert_none(&broken, "the environment is read in config.rs and main.rs");
}

#[test]
fn every_module_says_what_it_is() {
    let broken: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert_none(&broken, "a file begins with //! and what it is");
}

#[test]
fn no_module_is_called_mod() {
    let broken: Vec<String> = sources()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path.ends_with("/mod.rs"))
        .collect();
    assert_none(&broken, "foo.rs beside foo/ instead of foo/mod.rs");
}

#[test]
fn no_file_is_too_long() {
    let broken: Vec<String> = sources()
        .into_iter()
        .filter(|source| !is_listed(LONG_FILES, &source.path))
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert_none(
        &broken,
        "a long file is split, or listed in tests/tidy.rs with a reason",
    );
}

#[test]
fn the_lists_of_exceptions_name_files_that_exist() {
    let lists = [READS_CALENDAR, READS_INSTANTS, LONG_FILES].concat();
    let listed = lists.iter().map(|(path, _)| *path);
    let listed = listed.chain(READS_ENVIRONMENT.iter().copied());
    let broken: Vec<String> = listed
        .filter(|path| !root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    assert_none(&broken, "listed in tests/tidy.rs but not there");
}
