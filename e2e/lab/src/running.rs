//! Labs that `herald-lab up` left running, seen from outside: a directory each,
//! with the process to enter and the log.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::isolate;

/// Set in processes that are inside a lab already.
const INSIDE: &str = "HERALD_LAB_INSIDE";

/// Whether this process is inside a lab's namespaces.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A lab by name.
pub(crate) struct Running {
    name: String,
    directory: PathBuf,
}

impl Running {
    /// The lab of that name, whether it runs or not.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(valid) {
            bail!("{name:?} is no name for a lab; use letters, digits and dashes");
        }
        Ok(Self {
            name: name.to_owned(),
            directory: base().join(name),
        })
    }

    /// Names of the labs that run.
    pub(crate) fn all() -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(base()) else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string()
                && Self::named(&name)?.pid().is_ok()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where the lab's own logs go.
    pub(crate) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Starts `herald-lab ARGS` as a lab and shows its log until it says that
    /// it is ready.
    pub(crate) fn start(&self, args: &[String]) -> Result<()> {
        if self.pid().is_ok() {
            bail!(
                "lab {0} runs already; end it with: herald-lab down --name {0}",
                self.name
            );
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(base())?;
        if fs::metadata(base())?.uid() != nix::unistd::geteuid().as_raw() {
            bail!(
                "{} belongs to somebody else; remove it first",
                base().display()
            );
        }
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir_all(self.logs())?;
        let log = self.directory.join("log");
        let output = File::create(&log)?;
        let mut outer = isolate::command(args, false)?
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0)
            .spawn()
            .context("start the lab")?;
        let mut shown = File::open(&log)?;
        loop {
            let ended = outer.try_wait()?;
            let mut text = String::new();
            shown.read_to_string(&mut text)?;
            eprint!("{text}");
            std::io::stderr().flush()?;
            if let Some(status) = ended {
                bail!(
                    "the lab ended before it was ready ({status}); its logs: {}",
                    self.logs().display()
                );
            }
            if self.directory.join("ready").exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let first = only_child(outer.id())?;
        fs::write(self.directory.join("pid"), first.to_string())?;
        Ok(())
    }

    /// Ends the lab.
    pub(crate) fn stop(&self) -> Result<()> {
        let pid = self.pid()?;
        kill(pid, Signal::SIGKILL).with_context(|| format!("end lab {}", self.name))?;
        // The kernel ends the rest; it is gone when the first process is.
        while Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir_all(&self.directory)?;
        Ok(())
    }

    /// Runs this same command line inside the lab, in place of this process.
    pub(crate) fn enter(&self) -> Result<ExitCode> {
        let pid = self.pid()?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={pid}"));
        if !isolate::is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        let status = command
            .args(["--mount", "--net", "--pid", "--ipc"])
            .arg(format!("--wd={}", std::env::current_dir()?.display()))
            .arg("--")
            .arg(isolate::own_path()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .stdin(Stdio::inherit())
            .status()
            .context("enter the lab with nsenter (package util-linux)")?;
        Ok(ExitCode::from(
            u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
        ))
    }

    /// The lab's first process, on the host.
    fn pid(&self) -> Result<Pid> {
        let none = || {
            format!(
                "no lab named {} runs; start one with: herald-lab up",
                self.name
            )
        };
        let text = fs::read_to_string(self.directory.join("pid")).with_context(none)?;
        let pid: i32 = text.trim().parse()?;
        // A pid may have been given to another since.
        let command = fs::read(format!("/proc/{pid}/cmdline")).with_context(none)?;
        if !command
            .split(|byte| *byte == 0)
            .any(|word| word == b"__init")
        {
            bail!("{}", none());
        }
        Ok(Pid::from_raw(pid))
    }
}

/// Says, from inside, that the lab whose logs go to `logs` is ready. Its
/// directory can't be told from the user here, who may be root inside only.
pub(crate) fn announce_ready(logs: &Path) -> Result<()> {
    let directory = logs.parent().context("logs are in the lab's directory")?;
    File::create(directory.join("ready"))
        .map(drop)
        .context("say that the lab is ready")
}

/// One directory for each user; not below `/run`, which a lab covers with its
/// own.
fn base() -> PathBuf {
    std::env::temp_dir().join(format!("herald-lab-{}", nix::unistd::geteuid()))
}

fn only_child(pid: u32) -> Result<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?
        .split_whitespace()
        .next()
        .and_then(|child| child.parse().ok())
        .context("the lab's first process is gone")
}
