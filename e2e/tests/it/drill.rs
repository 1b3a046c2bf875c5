//! The gateway's own drill: that it passes, that its judge is not blind, and that it cleans up.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use brrbrr_e2e::child::{self, Process};
use brrbrr_e2e::http::{Client, Request};
use brrbrr_e2e::program;
use brrbrr_e2e::wait::{SOON, wait_for};
use serde_json::{Value, json};

/// A drill that keeps its files below this folder.
fn drill(temporary: &Path, relay: &Path, options: &[&str]) -> Command {
    let mut drill = Command::new(program("brrbrr-gateway"));
    drill
        .args(["drill", "--json", "--relay-binary"])
        .arg(relay)
        .args(options)
        .env("TMPDIR", temporary)
        .env("RUST_LOG", "info")
        .stdin(Stdio::null());
    drill
}

fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {errors}"))
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn a_short_drill_with_kills_over_a_flapping_link_loses_doubles_and_reorders_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = [
        "--profile",
        "flapping",
        "--hours",
        "0.15",
        "--robots",
        "2",
        "--kills",
        "12",
        "--seed",
        "20261121",
    ];
    let relay = program("brrbrr-relay");
    let output = drill(folder.path(), &relay, &options).output().unwrap();
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    for (name, value) in [
        ("records_in", json!(2 * 540)),
        ("records_out", json!(2 * 540)),
        ("lost", json!(0)),
        ("doubled", json!(0)),
        ("reordered", json!(0)),
        ("altered", json!(0)),
        ("holes", json!(0)),
        ("gaps", json!({})),
        ("passed", json!(true)),
    ] {
        assert_eq!(report[name], value, "{name} in {report:#}");
    }
    let number = |name: &str| report[name].as_u64().unwrap();
    let kills = number("kills_of_gateways") + number("kills_of_relay");
    assert_eq!(kills, 12, "{report:#}");
    // Something was measured.
    for name in ["air_bytes_up", "air_bytes_down", "peak_memory_gateway"] {
        assert!(number(name) > 0, "{name} in {report:#}");
    }
    assert!(is_empty(folder.path()), "the drill has left files behind");
}

/// A relay whose journal is told wrongly: `edit` is a sed script that its lines go through.
fn lying_relay(folder: &Path, edit: &str) -> PathBuf {
    let path = folder.join("lying-relay");
    let relay = program("brrbrr-relay");
    let script = format!(
        "#!/bin/sh\n\
         relay='{}'\n\
         if [ \"$1\" != records ]; then exec \"$relay\" \"$@\"; fi\n\
         \"$relay\" \"$@\" | sed '{edit}'\n",
        relay.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn a_drill_fails_when_the_journal_lacks_repeats_swaps_or_alters_a_record() {
    for (edit, wrong) in [
        (r#"/"number":10,/d"#, "lost"),
        (r#"/"number":10,/p"#, "doubled"),
        (r#"/"number":10,/{h;d};/"number":11,/G"#, "reordered"),
        (r#"/"number":10,/s/"text":"./"text":"x/"#, "altered"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let relay = lying_relay(folder.path(), edit);
        let temporary = folder.path().join("temporary");
        std::fs::create_dir(&temporary).unwrap();
        let options = [
            "--profile",
            "office-wifi",
            "--hours",
            "0.01",
            "--robots",
            "1",
            "--kills",
            "0",
        ];
        let output = drill(&temporary, &relay, &options).output().unwrap();
        let report = report(&output);
        assert_eq!(output.status.code(), Some(1), "{report:#}");
        assert_eq!(report[wrong], 1, "{wrong} in {report:#}");
        assert_eq!(report["passed"], false);
        let errors = String::from_utf8_lossy(&output.stderr);
        let complaint = format!("1 {wrong}");
        assert!(errors.contains(&complaint), "{errors}");
    }
}

#[test]
fn an_interrupted_drill_ends_its_programs_and_removes_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let options = ["--profile", "4g", "--hours", "1"];
    let mut command = drill(&temporary, &program("brrbrr-relay"), &options);
    let output = child::Output::Logged;
    let mut process = Process::spawn("drill", folder.path(), &mut command, output);
    let relay = wait_for("the drill's relay serves", SOON, || {
        let drill = std::fs::read_dir(&temporary).unwrap().next()?.unwrap();
        let note = std::fs::read(drill.path().join("relay/relay.json")).ok()?;
        let note: Value = serde_json::from_slice(&note).ok()?;
        let address = note["http"].as_str()?.strip_prefix("http://")?;
        Some(Client(address.parse().unwrap()))
    });
    let status = process.terminate(SOON);
    assert_eq!(status.code(), Some(1), "{}", process.log_tail());
    assert!(relay.try_send(&Request::get("/healthz")).is_err());
    assert!(is_empty(&temporary), "the drill has left files behind");
}

#[test]
fn a_drill_without_a_relay_or_into_an_old_folder_is_a_usage_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let old = folder.path().to_str().unwrap();
    for (relay, options, told) in [
        (absent.as_path(), vec!["--profile", "64k"], "--relay-binary"),
        (
            Path::new("x"),
            vec!["--profile", "64k", "--keep", old],
            "new folder",
        ),
        (Path::new("x"), vec!["--profile", "5g"], "possible values"),
        (
            Path::new("x"),
            vec!["--profile", "4g", "--hours", "0"],
            "above 0",
        ),
    ] {
        let output = drill(folder.path(), relay, &options).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(told), "{errors}");
    }
}
