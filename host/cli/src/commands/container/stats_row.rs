//! One container's figures as a row, computed as Docker's client does.

use crate::present::list::{Kind, Row};
use crate::present::sizes;
use crate::present::table::short_id;
use crate::present::value::Value;

pub(super) const KIND: Kind = Kind {
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    headings: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    quiet: "{{.ID}}",
};

/// The row of one answer of `/stats`.
pub(super) fn row(figures: &Value, whole: bool) -> Row {
    let id = figures.get("id").text();
    let id = if whole { id } else { short_id(id) };
    let memory = figures.get("memory_stats");
    let (used, limit) = (memory_used(memory), number(memory.get("limit")));
    let share = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    let (received, sent) = network(figures.get("networks"));
    let (read, written) = block(figures.at(&["blkio_stats", "io_service_bytes_recursive"]));
    Row::new([
        ("Container", id.to_owned()),
        ("ID", id.to_owned()),
        ("Name", figures.get("name").text().trim_start_matches('/').to_owned()),
        ("CPUPerc", format!("{:.2}%", processors(figures))),
        ("MemUsage", format!("{} / {}", sizes::binary(bytes(used)), sizes::binary(bytes(limit)))),
        ("MemPerc", format!("{share:.2}%")),
        ("NetIO", format!("{} / {}", sizes::human(received), sizes::human(sent))),
        ("BlockIO", format!("{} / {}", sizes::human(read), sizes::human(written))),
        ("PIDs", figures.at(&["pids_stats", "current"]).number().to_string()),
    ])
}

/// Counters are far below what a float holds exactly, or only their quotients are shown.
fn number(value: &Value) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    match value {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        _ => 0.0,
    }
}

fn bytes(number: f64) -> u64 {
    // Saturates; never negative where it comes from.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        number as u64
    }
}

/// The share of one processor since the figures before, in per cent.
fn processors(figures: &Value) -> f64 {
    let (now, before) = (figures.get("cpu_stats"), figures.get("precpu_stats"));
    let total = |of: &Value| number(of.at(&["cpu_usage", "total_usage"]));
    let system = |of: &Value| number(of.get("system_cpu_usage"));
    let (used, passed) = (total(now) - total(before), system(now) - system(before));
    let online = match number(now.get("online_cpus")) {
        0.0 => now.at(&["cpu_usage", "percpu_usage"]).list().len().max(1).to_string().parse().unwrap_or(1.0),
        online => online,
    };
    if used > 0.0 && passed > 0.0 { used / passed * online * 100.0 } else { 0.0 }
}

/// Without what the kernel keeps of files and could give back.
fn memory_used(memory: &Value) -> f64 {
    let used = number(memory.get("usage"));
    let stats = memory.get("stats");
    let inactive = match number(stats.get("total_inactive_file")) {
        0.0 => number(stats.get("inactive_file")),
        inactive => inactive,
    };
    if inactive < used { used - inactive } else { used }
}

fn network(networks: &Value) -> (i64, i64) {
    let sum = |name: &str| {
        networks
            .fields()
            .iter()
            .fold(0_i64, |sum, (_, network)| sum.saturating_add(network.get(name).number()))
    };
    (sum("rx_bytes"), sum("tx_bytes"))
}

fn block(entries: &Value) -> (i64, i64) {
    let sum = |operation: &str| {
        let wanted =
            entries.list().iter().filter(|entry| entry.get("op").text().eq_ignore_ascii_case(operation));
        wanted.fold(0_i64, |sum, entry| sum.saturating_add(entry.get("value").number()))
    };
    (sum("read"), sum("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_computed_as_docker_computes_them() {
        let figures: Value = serde_json::from_str(
            r#"{"id":"0123456789abcdef","name":"/web","pids_stats":{"current":3},
            "cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "memory_stats":{"usage":3145728,"limit":4194304,"stats":{"inactive_file":1048576}},
            "networks":{"eth0":{"rx_bytes":1000,"tx_bytes":2}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":5},{"op":"write","value":6}]}}"#,
        )
        .unwrap();
        let row = row(&figures, false);
        for (name, text) in [
            ("ID", "0123456789ab"),
            ("Name", "web"),
            ("CPUPerc", "40.00%"),
            ("MemUsage", "2MiB / 4MiB"),
            ("MemPerc", "50.00%"),
            ("NetIO", "1kB / 2B"),
            ("BlockIO", "5B / 6B"),
            ("PIDs", "3"),
        ] {
            assert_eq!(row.fields.get(name).text(), text, "{name}");
        }
    }
}
