//! What runs in the container, and what it uses: read from /proc and the container's control group.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use capsid_protocol::{
    BlockStatistics, CpuStatistics, InterfaceStatistics, MemoryStatistics, ProcessInfo, Processes,
    Statistics, TrafficStatistics,
};
use rustix::time::{ClockId, clock_gettime};

use crate::cgroup::ContainerGroup;

/// Processes that are told of; one answer is to fit in one frame.
const MAX_PROCESSES: usize = 1024;
/// Arguments of one process that are told, in bytes.
const MAX_ARGUMENT_BYTES: u64 = 1 << 10;
/// The longest file of /proc that is read.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// All processes of the container: those with a number of their own in a process namespace within this one.
pub(crate) fn processes() -> Processes {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some(process) = number.and_then(|number| read_process(&entry.path(), number)) {
            found.push(process);
        }
    }
    let numbers: HashMap<u32, u32> = found.iter().map(|(outer, process)| (*outer, process.pid)).collect();
    let inner = |outer: u32| numbers.get(&outer).copied().unwrap_or(0);
    let mut processes: Vec<ProcessInfo> = found
        .into_iter()
        .map(|(_, process)| ProcessInfo {
            parent: inner(process.parent),
            session: inner(process.session),
            group: inner(process.group),
            foreground: inner(process.foreground),
            ..process
        })
        .collect();
    processes.sort_by_key(|process| process.pid);
    let left_out = u32::try_from(processes.len().saturating_sub(MAX_PROCESSES)).unwrap_or(u32::MAX);
    processes.truncate(MAX_PROCESSES);
    Processes { processes, left_out, at_us: now_us(), memory_bytes: machine_memory() }
}

/// What the container's group uses.
pub(crate) fn statistics(group: &ContainerGroup) -> Statistics {
    Statistics {
        at_us: now_us(),
        processors: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        cpu: cpu(&group.read("cpu.stat")),
        memory: memory(group),
        pids: number(&group.read("pids.current")),
        pids_limit: group.read("pids.max").trim().parse().ok(),
        block: group.read("io.stat").lines().filter_map(block).collect(),
        interfaces: read(Path::new("/proc/net/dev")).lines().filter_map(interface).collect(),
    }
}

fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000) + u64::try_from(now.tv_nsec / 1000).unwrap_or(0)
}

/// A file of the kernel's as text; empty if it is gone.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&read_bytes(path, MAX_FILE_BYTES)).into_owned()
}

fn read_bytes(path: &Path, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// A process of the container and its number out here; `None` for one of the agent's own, or one that has just ended.
fn read_process(folder: &Path, outer: u32) -> Option<(u32, ProcessInfo)> {
    let status = read(&folder.join("status"));
    let pid = inner_pid(&status)?;
    let mut process = parse_stat(&read(&folder.join("stat")))?;
    process.pid = pid;
    (process.uid, process.gid) = (effective(&status, "Uid:")?, effective(&status, "Gid:")?);
    let arguments = read_bytes(&folder.join("cmdline"), MAX_ARGUMENT_BYTES);
    let arguments = arguments.strip_suffix(&[0]).unwrap_or(&arguments);
    if !arguments.is_empty() {
        let parts = arguments.split(|byte| *byte == 0);
        process.args = parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    }
    Some((outer, process))
}

/// The innermost of a process's numbers, if it has more than one.
fn inner_pid(status: &str) -> Option<u32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let mut numbers = numbers.split_whitespace().skip(1);
    // In a namespace further within, the container's own number still is the second.
    numbers.next()?.parse().ok()
}

/// The second of a line's four numbers.
fn effective(status: &str, name: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `/proc/PID/stat` (proc_pid_stat(5)); its second field may hold anything, parentheses and spaces too.
fn parse_stat(stat: &str) -> Option<ProcessInfo> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(open + 1..close)?.to_owned();
    let fields: Vec<&str> = stat.get(close + 1..)?.split_whitespace().collect();
    // Counted as the manual does, from 1, of which the first two are before the parenthesis.
    let field = |number: usize| fields.get(number - 3).copied();
    let value = |number: usize| field(number).and_then(|text| text.parse::<i64>().ok());
    let positive = |number: usize| value(number).and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    let small = |number: usize| u32::try_from(positive(number)).unwrap_or(0);
    let ticks_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let page = rustix::param::page_size() as u64;
    Some(ProcessInfo {
        pid: 0,
        parent: small(4),
        uid: 0,
        gid: 0,
        state: field(3)?.chars().next()?,
        threads: small(20),
        nice: value(19).and_then(|nice| i32::try_from(nice).ok()).unwrap_or(0),
        session: small(6),
        group: small(5),
        terminal: small(7),
        foreground: small(8),
        started_us: positive(22).saturating_mul(ticks_us),
        cpu_us: positive(14).saturating_add(positive(15)).saturating_mul(ticks_us),
        virtual_bytes: positive(23),
        resident_bytes: positive(24).saturating_mul(page),
        name,
        args: Vec::new(),
    })
}

fn cpu(text: &str) -> CpuStatistics {
    let value = |name: &str| keyed(text, name);
    CpuStatistics {
        total_us: value("usage_usec"),
        user_us: value("user_usec"),
        system_us: value("system_usec"),
        periods: value("nr_periods"),
        throttled_periods: value("nr_throttled"),
        throttled_us: value("throttled_usec"),
    }
}

/// The number behind a name, one of which there is on each line.
fn keyed(text: &str, name: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map_or(0, number)
}

fn memory(group: &ContainerGroup) -> MemoryStatistics {
    let details = group.read("memory.stat");
    let details = details.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    let limit = group.read("memory.max").trim().parse().unwrap_or(u64::MAX);
    MemoryStatistics {
        current: number(&group.read("memory.current")),
        peak: number(&group.read("memory.peak")),
        limit: limit.min(machine_memory()),
        limit_reached: keyed(&group.read("memory.events"), "max"),
        details: details.collect(),
    }
}

fn machine_memory() -> u64 {
    let text = read(Path::new("/proc/meminfo"));
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|line| line.split_whitespace().next()).map_or(0, number);
    kibibytes.saturating_mul(1 << 10)
}

/// `MAJOR:MINOR rbytes=… wbytes=… rios=… wios=… …`
fn block(line: &str) -> Option<BlockStatistics> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut found = BlockStatistics {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..BlockStatistics::default()
    };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        match name {
            "rbytes" => found.read_bytes = number(value),
            "wbytes" => found.written_bytes = number(value),
            "rios" => found.reads = number(value),
            "wios" => found.writes = number(value),
            _ => {}
        }
    }
    Some(found)
}

/// `NAME: ` and eight numbers for each direction; without the loopback device.
fn interface(line: &str) -> Option<InterfaceStatistics> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map(number).collect();
    let direction = |first: usize| {
        let at = |index: usize| numbers.get(first + index).copied().unwrap_or(0);
        TrafficStatistics { bytes: at(0), packets: at(1), errors: at(2), dropped: at(3) }
    };
    let name = name.trim();
    (name != "lo").then(|| InterfaceStatistics {
        name: name.to_owned(),
        received: direction(0),
        sent: direction(8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_moves_no_field() {
        let stat = "42 (a) (b c) S 7 42 41 34816 43 4194560 9 0 0 0 12 34 0 0 20 -5 3 0 600 8192 2 18446744073709551615 1";
        let process = parse_stat(stat).unwrap();
        let ticks_us = 1_000_000 / rustix::param::clock_ticks_per_second();
        assert_eq!((process.name.as_str(), process.state, process.parent), ("a) (b c", 'S', 7));
        assert_eq!(
            (process.group, process.session, process.terminal, process.foreground),
            (42, 41, 34816, 43)
        );
        assert_eq!((process.nice, process.threads, process.virtual_bytes), (-5, 3, 8192));
        assert_eq!((process.cpu_us, process.started_us), (46 * ticks_us, 600 * ticks_us));
        for nonsense in ["", "1", "1 (", "1 )(", "1 (a)"] {
            assert_eq!(parse_stat(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn only_processes_within_are_the_containers() {
        assert_eq!(inner_pid("Name:\tsh\nNSpid:\t12\t1\n"), Some(1));
        assert_eq!(inner_pid("NSpid:\t12\t5\t1\n"), Some(5));
        assert_eq!(inner_pid("NSpid:\t12\n"), None);
        assert_eq!(effective("Uid:\t0\t1000\t0\t0\n", "Uid:"), Some(1000));
    }

    #[test]
    fn accounts_are_read_by_name() {
        let cpu =
            cpu("usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 1\nthrottled_usec 7\n");
        let wanted = CpuStatistics {
            total_us: 5,
            user_us: 3,
            system_us: 2,
            periods: 9,
            throttled_periods: 1,
            throttled_us: 7,
        };
        assert_eq!(cpu, wanted);
        let block = block("254:16 rbytes=4096 wbytes=10 rios=1 wios=2 dbytes=0 dios=0").unwrap();
        assert_eq!((block.major, block.minor, block.read_bytes, block.writes), (254, 16, 4096, 2));
        let eth = interface("  eth0: 100 2 0 0 0 0 0 0 300 4 1 2 0 0 0 0").unwrap();
        assert_eq!(
            (eth.name.as_str(), eth.received.bytes, eth.sent.packets, eth.sent.errors),
            ("eth0", 100, 4, 1)
        );
        assert!(interface("    lo: 1 2 3").is_none() && interface("Inter-|   Receive").is_none());
    }

    #[test]
    fn this_process_is_nobodys_container() {
        assert!(processes().processes.iter().all(|process| process.pid != std::process::id()));
    }
}
