//! `GET /metrics`: figures in Prometheus' text format (version 0.0.4).
//!
//! Nothing here asks a guest: what is told of a container's machine is what its monitor uses of the host.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use capsid_runtime::figures::START_BOUNDS_MS;
use capsid_runtime::lifecycle::Phase;
use hyper::StatusCode;

use crate::error::{ApiError, Result};
use crate::http::{self, Reply};
use crate::routes::Call;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers by the first digit of their status.
#[derive(Debug, Default)]
pub(crate) struct Answers([AtomicU64; 5]);

impl Answers {
    pub(crate) fn count(&self, status: StatusCode) {
        if let Some(class) = self.0.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(crate) fn metrics(call: &Call) -> Result<Reply> {
    let mut text = String::new();
    write(call, &mut Metrics(&mut text)).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(http::text(StatusCode::OK, CONTENT_TYPE, text))
}

fn write(call: &Call, metrics: &mut Metrics<'_>) -> fmt::Result {
    let (server, host) = (&call.server, call.server.containers.host());
    metrics.head("capsid_build_info", "gauge", "The daemon's version.")?;
    metrics.value("capsid_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1)?;
    let views = server.containers.list();
    metrics.head("capsid_containers", "gauge", "Containers by state.")?;
    for state in ["created", "running", "paused", "restarting", "removing", "exited", "dead"] {
        let count = views.iter().filter(|view| view.phase().status() == state).count();
        metrics.value("capsid_containers", &[("state", state)], count)?;
    }
    let images = host.images.images().map_or(0, |images| images.len());
    metrics.single("capsid_images", "gauge", "Images.", images)?;
    metrics.single(
        "capsid_event_listeners",
        "gauge",
        "Clients that hear events.",
        host.events.listeners(),
    )?;
    metrics.single(
        "capsid_connections",
        "gauge",
        "Connections, hijacked ones included.",
        server.connections(),
    )?;
    metrics.head("capsid_answers_total", "counter", "Answers by the class of their status.")?;
    for (class, count) in (1..).zip(&server.answers.0) {
        let class = format!("{class}xx");
        metrics.value("capsid_answers_total", &[("class", &class)], count.load(Ordering::Relaxed))?;
    }
    starts(call, metrics)?;
    let running: Vec<_> = views
        .iter()
        .filter(|view| matches!(view.phase(), Phase::Running | Phase::Paused))
        .filter_map(|view| {
            let pid = view.live.as_ref()?.sandbox.monitor().pid();
            Some((view.record.id.short(), view.record.name.as_str(), Process::read(&pid.to_string())?))
        })
        .collect();
    let help = "Processor time that a container's machine has taken of the host.";
    metrics.head("capsid_machine_cpu_seconds_total", "counter", help)?;
    for (id, name, process) in &running {
        let labels = [("id", *id), ("name", *name)];
        metrics.value("capsid_machine_cpu_seconds_total", &labels, process.cpu_seconds)?;
    }
    let help = "Memory of a container's machine that is resident on the host.";
    metrics.head("capsid_machine_resident_bytes", "gauge", help)?;
    for (id, name, process) in &running {
        metrics.value(
            "capsid_machine_resident_bytes",
            &[("id", *id), ("name", *name)],
            process.resident_bytes,
        )?;
    }
    if let Some(own) = Process::read("self") {
        let help = "Processor time of the daemon.";
        metrics.single("process_cpu_seconds_total", "counter", help, own.cpu_seconds)?;
        let help = "Resident memory of the daemon.";
        metrics.single("process_resident_memory_bytes", "gauge", help, own.resident_bytes)?;
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    metrics.single("process_open_fds", "gauge", "Open descriptors of the daemon.", descriptors)
}

fn starts(call: &Call, metrics: &mut Metrics<'_>) -> fmt::Result {
    let tally = call.server.containers.host().start_times.tally();
    let name = "capsid_container_start_seconds";
    metrics.head(name, "histogram", "How long starts of containers took, until their process ran.")?;
    let bucket = format!("{name}_bucket");
    for (bound, count) in START_BOUNDS_MS.iter().zip(tally.within) {
        let bound = (*bound as f64 / 1000.0).to_string();
        metrics.value(&bucket, &[("le", &bound)], count)?;
    }
    metrics.value(&bucket, &[("le", "+Inf")], tally.count)?;
    metrics.value(&format!("{name}_sum"), &[], tally.total_us as f64 / 1_000_000.0)?;
    metrics.value(&format!("{name}_count"), &[], tally.count)?;
    let name = "capsid_container_start_failures_total";
    metrics.single(name, "counter", "Starts of containers that failed.", tally.failures)
}

struct Metrics<'a>(&'a mut String);

impl Metrics<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl fmt::Display) -> fmt::Result {
        self.head(name, kind, help)?;
        self.value(name, &[], value)
    }

    /// Names and values of labels are this program's own, and containers' names, which hold nothing to be escaped.
    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) -> fmt::Result {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' })?;
        }
        self.0.push_str(if labels.is_empty() { " " } else { "} " });
        writeln!(self.0, "{value}")
    }
}

/// What a process of the host uses.
struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
}

impl Process {
    /// `None` if it is gone.
    fn read(pid: &str) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything, fields are counted from the third (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)?;
        Some(Process {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            resident_bytes: field(24)?.saturating_mul(rustix::param::page_size() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_a_line_with_its_labels() {
        let mut text = String::new();
        let mut metrics = Metrics(&mut text);
        metrics.single("a", "gauge", "An a.", 1).unwrap();
        metrics.value("b", &[("x", "1"), ("y", "z")], 0.5).unwrap();
        assert_eq!(text, "# HELP a An a.\n# TYPE a gauge\na 1\nb{x=\"1\",y=\"z\"} 0.5\n");
    }

    #[test]
    fn this_process_uses_something_and_none_uses_nothing() {
        assert!(Process::read("self").is_some_and(|own| own.resident_bytes > 0));
        assert!(Process::read("0").is_none());
    }
}
