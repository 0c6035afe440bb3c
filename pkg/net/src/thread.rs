//! What a thread that must not be late may ask of the system.

#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::io;

/// Above all that is not real-time, and below everything that is.
const REAL_TIME: libc::c_int = 1;

/// A nice value; the least is -20.
const NICE: libc::c_int = -15;

/// What a thread was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// It runs before all threads that are not real-time (`SCHED_RR`).
    RealTime,
    /// It gets more of a busy processor than others.
    Nice,
    /// The system allows neither.
    None,
}

/// Has the calling thread run before others, as far as the system allows:
/// the capability `SYS_NICE` or a limit (`RLIMIT_RTPRIO`, `RLIMIT_NICE`) is
/// needed. Threads that it starts are not preferred.
pub fn take_precedence() -> Precedence {
    if real_time().is_ok() {
        Precedence::RealTime
    } else if nice().is_ok() {
        Precedence::Nice
    } else {
        Precedence::None
    }
}

fn real_time() -> io::Result<()> {
    schedule(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, REAL_TIME)
}

fn nice() -> io::Result<()> {
    // SAFETY: no pointers; on Linux 0 is the calling thread alone.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // For this alone: so that threads started from here begin at 0 again.
    schedule(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0)
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: 0 is the calling thread, and the kernel only reads `parameters`,
    // which lives through the call.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_what_it_may_have_and_no_error() {
        // In a thread of its own: the others of the test are as they were.
        let given = std::thread::spawn(take_precedence).join().unwrap();
        // SAFETY: no pointers; 0 is the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        assert_eq!(policy, libc::SCHED_OTHER, "{given:?}");
    }
}
