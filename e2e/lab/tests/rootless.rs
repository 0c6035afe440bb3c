//! A lab without any rights on the host, whoever runs this test: in a user
//! namespace that has one user, and may not set groups.

use std::process::Command;

#[test]
fn a_scenario_with_a_capture_passes_without_rights_on_the_host() {
    let logs = env!("CARGO_TARGET_TMPDIR");
    let lab = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            env!("CARGO_BIN_EXE_herald-lab"),
        ])
        .args(["scenario", "expose", "--proxy-mode", "nftables", "--logs"])
        .arg(logs)
        .output()
        .expect("unshare runs");
    assert!(
        lab.status.success(),
        "{}{}",
        String::from_utf8_lossy(&lab.stderr),
        String::from_utf8_lossy(&lab.stdout),
    );
}
