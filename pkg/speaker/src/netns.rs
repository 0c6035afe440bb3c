//! Tests in network namespaces of their own: each runs itself again inside, and
//! nothing is left when it ends.

use std::env;
use std::process::Command;
use std::time::Duration;

const INSIDE: &str = "HERALD_TEST_INSIDE_NAMESPACE";

/// Whether we are in namespaces made for the test at this path; if not, makes
/// them and runs the test there.
pub(crate) fn inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |command: &mut Command| {
        command.args([
            "--map-root-user",
            "--net",
            "--mount",
            "--fork",
            "--kill-child",
            "--",
        ]);
    };
    let mut probe = Command::new("unshare");
    unshare(&mut probe);
    match probe
        .args(["mount", "-t", "tmpfs", "none", "/run"])
        .output()
    {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("skipped: no namespaces: {said}");
            return false;
        }
        Err(error) => {
            eprintln!("skipped: no unshare(1): {error}");
            return false;
        }
    }
    let mut again = Command::new("unshare");
    unshare(&mut again);
    let status = again
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
    false
}

/// Runs a shell command; its output and whether it went well.
pub(crate) async fn shell(command: &str) -> (bool, String) {
    let output = tokio::process::Command::new("sh")
        .args(["-c", command])
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Runs a shell command that must go well.
pub(crate) async fn must(command: &str) -> String {
    let (well, text) = shell(command).await;
    assert!(well, "{command}: {text}");
    text
}

/// Waits until a command's output holds a text.
pub(crate) async fn until(command: &str, text: &str) {
    until_is(command, text, true).await;
}

/// Waits until a command's output no longer holds a text.
pub(crate) async fn until_not(command: &str, text: &str) {
    until_is(command, text, false).await;
}

async fn until_is(command: &str, text: &str, there: bool) {
    let mut output = String::new();
    for _ in 0..200 {
        output = shell(command).await.1;
        if output.contains(text) == there {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{command}: {text:?} there: {}, in: {output}", !there);
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
