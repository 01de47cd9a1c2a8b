//! `--timings`: the steps of a start, as a table or as JSON, on stderr.

use capsid_runtime::timeline::{Observer, Step, Timeline};
use clap::ValueEnum;
use serde::Serialize;

/// How the steps are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns.
    Table,
    /// One JSON object.
    Json,
}

#[derive(Serialize)]
struct Report<'a> {
    engine: &'a str,
    steps: &'a [Step],
}

/// Prints to stderr: stdout is the container's.
pub(crate) fn print(timeline: &Timeline, engine: &str, format: Format) {
    let steps = timeline.steps();
    match format {
        Format::Json => {
            let report = serde_json::to_string(&Report { engine, steps: &steps });
            eprintln!("{}", report.unwrap_or_default());
        }
        Format::Table => print_table(&steps, engine),
    }
}

fn print_table(steps: &[Step], engine: &str) {
    eprintln!("{:<20} {:<8} {:>10} {:>10}   engine {engine}", "STEP", "SEEN BY", "AT ms", "TOOK ms");
    let mut before = 0;
    for step in steps {
        let observer = match step.observer {
            Observer::Host => "host",
            Observer::Monitor => "monitor",
            Observer::Guest => "guest",
        };
        let (at, took) = (milliseconds(step.at_us), milliseconds(step.at_us - before));
        eprintln!("{:<20} {observer:<8} {at:>10} {took:>10}", printable(&step.name));
        before = step.at_us;
    }
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:02}", us / 1000, us % 1000 / 10)
}

/// Guests choose the names of their milestones.
fn printable(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(20).collect()
}
