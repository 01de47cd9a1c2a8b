//! A container's state in the words that people are shown.

use capsid_runtime::driver::View;
use capsid_runtime::lifecycle::Phase;
use jiff::Timestamp;

/// `Up 5 minutes`, `Exited (0) 2 hours ago`, … (moby, `container.State.String`).
pub(crate) fn text(view: &View, now: Timestamp) -> String {
    let state = &view.record.state;
    let ago = |moment: Option<Timestamp>| human(moment.map_or(0, |moment| seconds_between(moment, now)));
    match view.shown_phase() {
        Phase::Created | Phase::Starting => "Created".to_owned(),
        Phase::Running | Phase::Ending => {
            let health =
                state.health.as_ref().map_or_else(String::new, |health| match health.status.name() {
                    "starting" => " (health: starting)".to_owned(),
                    other => format!(" ({other})"),
                });
            format!("Up {}{health}", ago(state.started_at))
        }
        Phase::Paused => format!("Up {} (Paused)", ago(state.started_at)),
        Phase::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Phase::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_second() - from.as_second()).unwrap_or(0)
}

/// A duration as people say it (docker/go-units, `HumanDuration`).
fn human(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ => match (minutes, hours) {
            (1, _) => "About a minute".to_owned(),
            (2..60, _) => format!("{minutes} minutes"),
            (_, 1) => "About an hour".to_owned(),
            (_, ..48) => format!("{hours} hours"),
            (_, 48..336) => format!("{} days", hours / 24),
            (_, 336..1440) => format!("{} weeks", hours / 24 / 7),
            (_, 1440..17520) => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", seconds / 3600 / 24 / 365),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (5_184_000, "2 months"),
            (63_072_000, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(seconds), text);
        }
    }
}
