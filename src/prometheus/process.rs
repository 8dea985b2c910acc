//! What Prometheus asks of every process, from proc(5), getrusage(2) and getrlimit(2). What cannot be read is left out.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use super::Page;

/// `started` is since the Unix epoch.
pub fn write(page: &mut Page, started: Duration) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        let seconds = micros as f64 / 1e6;
        page.counter("process_cpu_seconds_total", "Time on a CPU, user and system.").is(seconds);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let kilobytes = status.lines().find_map(|line| line.strip_prefix(name))?.strip_suffix(" kB")?;
        Some(kilobytes.trim().parse::<u64>().ok()? * 1024)
    };
    if let Some(bytes) = of("VmRSS:") {
        page.gauge("process_resident_memory_bytes", "Memory that is in RAM.").is(bytes);
    }
    if let Some(bytes) = of("VmSize:") {
        page.gauge("process_virtual_memory_bytes", "Memory that is mapped.").is(bytes);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // One of them reads the folder.
        let open = descriptors.count().saturating_sub(1);
        page.gauge("process_open_fds", "File descriptors that are open.").is(open);
    }
    if let Ok((soft, _hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        page.gauge("process_max_fds", "File descriptors that may be open.").is(soft);
    }
    page.gauge("process_start_time_seconds", "When it started, since the Unix epoch.")
        .is(started.as_secs_f64());
}
