//! PID 1 of a lab or of a node: starts one program, reaps every orphan, and
//! ends with that program. The kernel then ends all that is left.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::isolate;

/// Runs `herald-lab ARGS` as the only child and returns its exit code. With a
/// lifeline, ends as soon as standard input does.
pub fn run(args: &[String], lifeline: bool) -> Result<ExitCode> {
    let mut command = Command::new(isolate::own_path()?);
    command.args(args).stdin(Stdio::null());
    let child = command
        .spawn()
        .context("start the namespace's main program")?;
    let main = Pid::from_raw(i32::try_from(child.id()).context("a pid fits pid_t")?);
    if lifeline {
        std::thread::spawn(|| {
            // Whatever is read is not ours; only the end counts.
            let mut byte = [0; 64];
            while matches!(std::io::stdin().read(&mut byte), Ok(n) if n > 0) {}
            std::process::exit(1);
        });
    }
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid == main => return Ok(ExitCode::FAILURE),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for the namespace's processes"),
        }
    }
}
