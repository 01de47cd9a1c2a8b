//! `--timings`: the steps of a start, as a table or as JSON, on stderr.

use capsid_api::extensions::{EndNotes, TimelineStep};
use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// How the steps are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns.
    Table,
    /// One JSON object.
    Json,
}

/// Microseconds of the host's `CLOCK_MONOTONIC`, which the daemon shares.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// What this process saw of a run.
#[derive(Debug)]
pub(crate) struct Timings {
    start_us: u64,
    steps: Vec<TimelineStep>,
}

#[derive(Serialize)]
struct Report<'a> {
    engine: &'a str,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    observer: &'a str,
    /// Microseconds since this process started.
    at_us: u64,
}

impl Timings {
    /// Steps that count from this moment.
    pub(crate) fn from(start_us: u64) -> Timings {
        Timings { start_us, steps: Vec::new() }
    }

    /// `name` has happened now.
    pub(crate) fn reached(&mut self, name: &str) {
        self.reached_at(name, now_us());
    }

    /// `name` happened then.
    pub(crate) fn reached_at(&mut self, name: &str, at_us: u64) {
        self.steps.push(TimelineStep { name: name.to_owned(), observer: "client".to_owned(), at_us });
    }

    /// Prints these steps and the daemon's to stderr: stdout is the container's.
    pub(crate) fn print(&self, notes: &EndNotes, format: Format) {
        let report = self.report(notes);
        match format {
            Format::Json => eprintln!("{}", serde_json::to_string(&report).unwrap_or_default()),
            Format::Table => print_table(&report),
        }
    }

    fn report<'a>(&'a self, notes: &'a EndNotes) -> Report<'a> {
        let mut steps: Vec<Step<'a>> = self
            .steps
            .iter()
            .chain(&notes.timeline)
            .map(|step| Step {
                name: &step.name,
                observer: &step.observer,
                at_us: step.at_us.saturating_sub(self.start_us),
            })
            .collect();
        steps.sort_by_key(|step| step.at_us);
        Report { engine: &notes.engine, steps }
    }
}

fn print_table(report: &Report<'_>) {
    eprintln!(
        "{:<20} {:<8} {:>10} {:>10}   engine {}",
        "STEP",
        "SEEN BY",
        "AT ms",
        "TOOK ms",
        printable(report.engine)
    );
    let mut before = 0;
    for step in &report.steps {
        let (at, took) = (milliseconds(step.at_us), milliseconds(step.at_us.saturating_sub(before)));
        eprintln!("{:<20} {:<8} {at:>10} {took:>10}", printable(step.name), printable(step.observer));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_both_sides_come_in_their_order() {
        let mut timings = Timings::from(1000);
        timings.reached_at("ended", 9000);
        timings.reached_at("created", 1500);
        let step = |name: &str, at_us| TimelineStep { name: name.into(), observer: "guest".into(), at_us };
        let notes =
            EndNotes { timeline: vec![step("agent-start", 4000), step("early", 10)], ..EndNotes::default() };
        let report = timings.report(&notes);
        let steps: Vec<_> = report.steps.iter().map(|step| (step.name, step.at_us)).collect();
        assert_eq!(steps, [("early", 0), ("created", 500), ("agent-start", 3000), ("ended", 8000)]);
        assert_eq!(printable("a\x1b[2Jb"), "a[2Jb");
    }
}
