//! What a thread that must not be late needs of the system.

#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

/// In the middle of 1..=99: before all that is not real-time, behind the
/// kernel's own threads that deliver packets.
const PRIORITY: libc::c_int = 50;

/// Waits until one of these can be read, for `timeout` at the most, which is
/// kept to the nanosecond. Gives how many can be read; 0 also after a signal.
pub fn wait_readable(
    descriptors: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let mut polled: Vec<PollFd<'_>> = descriptors
        .iter()
        .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN))
        .collect();
    match ppoll(&mut polled, timeout.map(Into::into), None) {
        Ok(ready) => usize::try_from(ready).map_err(io::Error::other),
        Err(Errno::EINTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Has the calling thread run before all threads that are not real-time
/// (`SCHED_FIFO`). Threads that it starts don't inherit this. Needs the
/// capability `SYS_NICE` and, in a cgroup v1, a share of real time. The kernel
/// keeps 5 % of each second for others.
pub fn real_time() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: 0 is the calling thread, and the kernel only reads `parameters`,
    // which lives for the length of the call.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
