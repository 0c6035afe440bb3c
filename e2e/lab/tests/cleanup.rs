//! However a lab ends, nothing of it is left on the host: no process, no
//! interface, no mount, no rule, no namespace.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// In the environment of everything that a lab of this test starts.
const MARK: &str = "HERALD_CLEANUP_TEST";

/// What the lab says when it is up.
const UP: &str = "all nodes Ready";

/// How soon everything must be gone. The kernel takes a moment to end a
/// hundred processes on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(30);

/// How a lab may end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Ctrl-C: the terminal's signal to the whole process group.
    Interrupted,
    /// SIGTERM to the command.
    Terminated,
    /// SIGKILL to the command: it can clean up nothing.
    Killed,
    /// The process that built the lab dies as in a panic that aborts.
    Aborted,
}

#[test]
fn nothing_is_left_however_a_lab_ends() {
    if let Err(error) = herald_lab::isolate::command(&[], false) {
        eprintln!("skipped: {error:#}");
        return;
    }
    for end in [End::Interrupted, End::Terminated, End::Killed, End::Aborted] {
        let mark = format!("{end:?}-{}", std::process::id());
        let before = Host::look();
        let mut lab = start(&mark);
        let lively = marked(&mark).len();
        assert!(lively > 10, "{end:?}: the lab has only {lively} processes");
        let outer = Pid::from_raw(i32::try_from(lab.id()).unwrap());
        match end {
            End::Interrupted => kill(Pid::from_raw(-outer.as_raw()), Signal::SIGINT),
            End::Terminated => kill(outer, Signal::SIGTERM),
            End::Killed => kill(outer, Signal::SIGKILL),
            End::Aborted => kill(builder(&mark), Signal::SIGABRT),
        }
        .unwrap();
        let status = lab.wait().unwrap();
        assert!(!status.success(), "{end:?}: the command says {status}");
        assert_gone(&mark);
        assert_eq!(Host::look(), before, "{end:?}: the host has changed");
    }
}

#[test]
fn nothing_is_left_after_down() {
    if let Err(error) = herald_lab::isolate::command(&[], false) {
        eprintln!("skipped: {error:#}");
        return;
    }
    let mark = format!("down-{}", std::process::id());
    let before = Host::look();
    let run = |args: &[&str]| {
        let status = Command::new(env!("CARGO_BIN_EXE_herald-lab"))
            .args(args)
            .args(["--name", &mark])
            .env(MARK, &mark)
            .status()
            .unwrap();
        assert!(status.success(), "{args:?}: {status}");
    };
    run(&["up", "--bare", "--nodes=1"]);
    assert!(!marked(&mark).is_empty(), "the lab has no process");
    run(&["down"]);
    assert_gone(&mark);
    assert_eq!(Host::look(), before, "the host has changed");
}

#[test]
fn a_virtual_machine_ends_with_its_command() {
    if let Some(reason) = herald_lab::vm::unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mark = format!("vm-{}", std::process::id());
    let logs = std::env::temp_dir().join(&mark);
    let mut runner = Command::new(env!("CARGO_BIN_EXE_herald-lab"))
        .args(["scenario", "--kernel=vm", "--proxy-mode=ipvs", "expose"])
        .arg(format!("--logs={}", logs.display()))
        .env(MARK, &mark)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let runs_qemu = || {
        let all = marked(&mark);
        all.iter()
            .any(|(_, command)| command.starts_with("qemu-system"))
    };
    while !runs_qemu() {
        let ended = runner.try_wait().unwrap();
        assert!(ended.is_none(), "the command ended: {ended:?}");
        sleep(Duration::from_millis(20));
    }
    // It can clean up nothing.
    kill(
        Pid::from_raw(i32::try_from(runner.id()).unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    runner.wait().unwrap();
    assert_gone(&mark);
    fs::remove_dir_all(logs).unwrap();
}

/// Waits until no process has this mark any more.
fn assert_gone(mark: &str) {
    let begin = Instant::now();
    // Nothing on the host tells when the last of them is gone.
    while !marked(mark).is_empty() {
        assert!(
            begin.elapsed() < LIMIT,
            "{mark}: still there: {:?}",
            marked(mark)
        );
        sleep(Duration::from_millis(20));
    }
}

/// Starts a lab that ends with its command; returns when it is up.
fn start(mark: &str) -> Child {
    // What runs in the background was started with SIGINT ignored, perhaps this
    // test too.
    let mut lab = Command::new("env")
        .args([
            "--default-signal=INT",
            env!("CARGO_BIN_EXE_herald-lab"),
            "demo",
        ])
        .env(MARK, mark)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(lab.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    loop {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("{}", said.join("\n")))
            .unwrap();
        if line.contains(UP) {
            break;
        }
        said.push(line);
    }
    // Whoever writes to a pipe that nobody reads ends too early.
    std::thread::spawn(move || lines.for_each(drop));
    lab
}

/// Processes with this mark, and what they run.
fn marked(mark: &str) -> Vec<(i32, String)> {
    let wanted = format!("{MARK}={mark}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == wanted.as_bytes())
            })
        })
        .map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&command).replace('\0', " "))
        })
        .collect()
}

/// The process that builds the lab, not those that hold it.
fn builder(mark: &str) -> Pid {
    let all = marked(mark);
    let found = all
        .iter()
        .find(|(_, command)| command.contains("__demo") && !command.contains("__init"));
    Pid::from_raw(found.expect("the lab has a process that builds it").0)
}

/// What of the host a lab could have changed.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    rules: String,
}

impl Host {
    fn look() -> Self {
        let names = |folder: &str| {
            fs::read_dir(folder)
                .map(|entries| {
                    entries
                        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                        .collect()
                })
                .unwrap_or_default()
        };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        // Empty where this account may not see them; then it may not set them.
        let rules = Command::new("nft").args(["list", "ruleset"]).output();
        Self {
            interfaces: names("/sys/class/net"),
            mounts: mounts.lines().map(str::to_owned).collect(),
            namespaces: names("/run/netns"),
            rules: rules
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default(),
        }
    }
}
