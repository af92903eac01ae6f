//! The machine: its description, the cores of a process, the processor time used.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, process::Command, time::Duration};

/// The core of the node under test.
pub const UNDER_TEST: usize = 0;
/// The core of everything else.
pub const ELSEWHERE: usize = 1;

/// Processor, cores and kernel, in one line.
pub fn description() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let build = if cfg!(debug_assertions) { ", DEBUG BUILD: no figure" } else { "" };
    format!("{model}, {cores} cores, Linux {}{build}", read("/proc/sys/kernel/osrelease").trim())
}

/// Restricts one thread, by its id (0 is the caller's), to this core. Threads that it starts inherit that. No effect on
/// a machine with one core.
pub fn pin(thread: u32, core: usize) {
    // SAFETY: the set is plain data of this function, of the size that is given; a refusal changes nothing.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(thread as libc::pid_t, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// Moves the calling thread, and what it starts from now on, into a network that has loopback alone. Needs root.
pub fn keep_to_loopback() -> io::Result<()> {
    // SAFETY: no pointers; a refusal changes nothing.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("ip cannot set up loopback")),
    }
}

/// Gives the calling thread priority over all others of its core, if permitted; its children do not inherit it. The
/// generator needs little time, but on schedule.
pub fn prefer() {
    let priority = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameter is plain data that lives across the call; a refusal changes nothing.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &priority);
    }
}

/// The threads of a process.
pub fn threads(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|t| t.file_name().to_str()?.parse().ok()).collect()
}

/// Pins every thread of a process.
pub fn pin_process(pid: u32, core: usize) {
    threads(pid).into_iter().for_each(|thread| pin(thread, core));
}

/// Processor time used so far, of a process (`/proc/PID/stat`) or a thread (`/proc/PID/task/TID/stat`).
pub fn cpu_time(stat: &str) -> Duration {
    let text = fs::read_to_string(stat).unwrap_or_default();
    // The name in brackets may contain any character; the fields after it are fixed: utime is the 12th, stime the 13th.
    let fields: Vec<&str> = text.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Processor time of a process.
pub fn cpu_of(pid: u32) -> Duration {
    cpu_time(&format!("/proc/{pid}/stat"))
}

/// Processor time of all processes on a core so far, as `/proc/stat` has it.
pub fn busy(core: usize) -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{core} ");
    let fields: Vec<u64> = (text.lines().find_map(|line| line.strip_prefix(&name)))
        .map_or(Vec::new(), |line| line.split_whitespace().filter_map(|field| field.parse().ok()).collect());
    // Fields of proc_stat(5): user, nice, system; idle and iowait, which do not count; irq, softirq.
    let ticks = fields.iter().take(3).chain(fields.iter().skip(5).take(2)).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

/// Bytes that the device of a folder has written since it started, for all processes; `None` where the folder is on none. The
/// kernel's count by process would not do: it counts a whole folio for each page of it that becomes dirty.
pub fn written(dir: &Path) -> Option<u64> {
    /// The unit of that count, whatever the device's own sectors are (Linux, Documentation/block/stat.rst).
    const SECTOR: u64 = 512;
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * SECTOR)
}
