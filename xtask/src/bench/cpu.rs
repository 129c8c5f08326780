//! Who runs on which CPU, and how much of it a process has used.
//!
//! The kernel's figure covers all threads of a process, ended ones too, in user and kernel mode; a
//! tick is 10 ms on most machines. Used by the benches.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The CPUs to measure on: the measured one's, and the others'. The same one if there is only one.
pub(super) fn cpus() -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot read this thread's CPUs")?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let others = usable.next().context("this thread may use no CPU")?;
    Ok((usable.next().unwrap_or(others), others))
}

/// Binds the calling thread, and those it starts, to a CPU.
pub(super) fn bind_this_thread(cpu: usize) -> Result<()> {
    bind(Pid::from_raw(0), cpu)
}

/// Binds all threads of a process.
pub(super) fn bind_process(pid: u32, cpu: usize) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
        let thread = task?.file_name().to_string_lossy().parse()?;
        bind(Pid::from_raw(thread), cpu)?;
    }
    Ok(())
}

fn bind(thread: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(thread, &set))
        .with_context(|| format!("cannot bind thread {thread} to CPU {cpu}"))
}

/// The CPU time that a process has used so far.
pub(super) fn used_by(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks_in(&stat).with_context(|| format!("{path} is not as expected: {stat}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has no clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// utime and stime, fields 14 and 15. The second, the command's name, may contain anything.
fn ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn user_and_kernel_time_are_found_after_any_name() {
        let stat = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(ticks_in(stat), Some(300));
        assert_eq!(ticks_in("7 (a"), None);
    }

    #[test]
    fn this_process_has_used_some() {
        let before = used_by(std::process::id()).expect("readable");
        ::tests::wait::eventually(Duration::from_secs(10), || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(10) {
                std::hint::spin_loop();
            }
            let now = used_by(std::process::id()).expect("readable");
            (now > before).then_some(()).ok_or("nothing")
        });
    }
}
