//! The lab's processes: started into a host's network namespace, named by an
//! environment variable, found again by it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Names a process of the lab (`kube-apiserver`, `fakecloud`).
pub const PROCESS: &str = "HERALD_LAB_PROCESS";
/// Names the node that a process belongs to.
pub const NODE: &str = "HERALD_LAB_NODE";
/// Names the container that a process belongs to: `namespace/pod/container`.
pub const POD: &str = "HERALD_LAB_POD";

/// `program` in the network namespace of `host`; `None` is the lab's own.
pub fn in_host(host: Option<&str>, program: &Path) -> Command {
    match host {
        None => Command::new(program),
        Some(host) => {
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net=/run/netns/{host}"))
                .arg("--")
                .arg(program);
            command
        }
    }
}

/// Starts a command that outlives its parent, with its output in `log`.
pub fn start(mut command: Command, name: &str, log: &Path) -> Result<()> {
    let output = File::options().create(true).append(true).open(log)?;
    command
        .env(PROCESS, name)
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output)
        .process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    // Reaped by a thread of its own, so that none stays behind as a zombie.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// A process of the lab, as its environment tells.
#[derive(Clone, Debug)]
pub struct Found {
    /// Process id in the lab's pid namespace.
    pub pid: i32,
    environment: BTreeMap<String, String>,
}

impl Found {
    /// The value of one of the variables that name processes.
    pub fn name(&self, variable: &str) -> Option<&str> {
        self.environment.get(variable).map(String::as_str)
    }

    /// Sends a signal; a process that has gone is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// Whether it has not ended yet: all that it had open is closed when it has.
    pub fn runs(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .starts_with(" Z")
        })
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> Option<u64> {
        self.kib("status", "VmRSS:")
    }

    /// Resident memory in KiB, where what several processes share counts for each
    /// by its part.
    pub fn pss_kib(&self) -> Option<u64> {
        self.kib("smaps_rollup", "Pss:")
    }

    /// Resident memory in KiB that no file stands behind: without the program's
    /// own code.
    pub fn anonymous_kib(&self) -> Option<u64> {
        self.kib("status", "RssAnon:")
    }

    fn kib(&self, file: &str, field: &str) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }

    /// Time on a CPU since its start, in user mode and in the kernel.
    pub fn cpu_time(&self) -> Option<Duration> {
        cpu_time(&fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)
    }

    /// The same of its first thread with a name; none if there is no such thread.
    pub fn thread_cpu_time(&self, thread: &str) -> Option<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        threads.filter_map(Result::ok).find_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (name.trim_end() == thread).then(|| cpu_time(&stat))?
        })
    }
}

/// `utime` and `stime` of /proc/PID/stat, in ticks of 10 ms on every Linux.
fn cpu_time(stat: &str) -> Option<Duration> {
    // The name may have blanks and brackets; what follows has none.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}

/// Every process whose `variable` has the value `value`.
pub fn find(variable: &str, value: &str) -> Vec<Found> {
    all()
        .into_iter()
        .filter(|found| found.name(variable) == Some(value))
        .collect()
}

/// Every process of the lab that has a name.
pub fn all() -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let environment: BTreeMap<String, String> = bytes
                .split(|byte| *byte == 0)
                .filter_map(|entry| {
                    let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
                    [PROCESS, NODE, POD]
                        .contains(&name)
                        .then(|| (name.to_owned(), value.to_owned()))
                })
                .collect();
            (!environment.is_empty()).then_some(Found { pid, environment })
        })
        .collect()
}

/// Where a process of this name keeps its output.
pub fn log_path(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{}.log", name.replace('/', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 10 20 0 0 150 25 3 4 20 0 1 0 9";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1750)));
        assert_eq!(cpu_time("7 (a) S 1"), None);
    }
}
