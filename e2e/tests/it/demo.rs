//! The demo that the README begins with.

use std::process::{Command, Stdio};

use brrbrr_e2e::{programs, root};

#[test]
fn the_demo_checks_itself_from_end_to_end() {
    let mut demo = Command::new(root().join("scripts/demo"));
    demo.arg("--check")
        .env("BRRBRR_BIN", programs())
        .stdin(Stdio::null());
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(!said.contains('✗'), "{said}");
    assert!(said.matches('✓').count() >= 10, "{said}");
}
