//! `GET /containers/{id}/top`: what runs in a container, in the columns of `ps`.
//!
//! The guest's agent says what runs, so a container needs no `ps`, and nothing of its own is run. The arguments are
//! those of procps that people use with `docker top`; process numbers are the container's own.

use capsid_protocol::{ProcessInfo, Processes};
use capsid_runtime::lifecycle::Request;
use jiff::Timestamp;
use jiff::tz::Offset;
use serde_json::json;

use crate::error::{ApiError, Result};
use crate::http::{self, Reply};
use crate::routes::Call;

const DEFAULT_ARGUMENTS: &str = "-ef";
const FULL: &str = "euid,pid,ppid,c,stime,tty,time,cmd";
const USER: &str = "euser,pid,pcpu,pmem,vsz,rss,tty,stat,start,bsdtime,command";
const SHORT: &str = "pid,tty,time,comm";
/// Columns that one request may ask for: `ps` has fewer kinds.
const MAX_COLUMNS: usize = 64;
/// The major numbers of pseudo-terminals' devices (linux/major.h, `UNIX98_PTY_SLAVE_MAJOR` and seven more).
const PTY_MAJORS: std::ops::Range<u32> = 136..144;

pub(crate) async fn top(call: &Call, id: &str) -> Result<Reply> {
    let columns = columns(call.query.text("ps_args").unwrap_or(DEFAULT_ARGUMENTS))?;
    let container = call.server.containers.find(id)?;
    let live = container.running(Request::Exec).await?;
    let asked = live.sandbox.or_ended(live.sandbox.agent().processes()).await;
    let found = asked.map_err(capsid_runtime::error::ContainerError::from)?;
    let moment = Moment { now: Timestamp::now(), found: &found };
    let row = |process| columns.iter().map(|column| moment.cell(process, column)).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = found.processes.iter().map(row).collect();
    call.server.containers.tell(&container, "top", &[]);
    let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
    http::ok(&json!({ "Titles": titles, "Processes": rows }))
}

/// A column, as `ps` names it.
struct Column {
    name: String,
    title: String,
}

/// Reads arguments of `ps`. Which processes are chosen makes no difference: all are shown.
fn columns(arguments: &str) -> Result<Vec<Column>> {
    let mut words = arguments.split_whitespace().peekable();
    let mut own = Vec::new();
    let mut form = SHORT;
    while let Some(word) = words.next() {
        let (dashed, letters) = word.strip_prefix('-').map_or((false, word), |letters| (true, letters));
        if letters.starts_with('-') || !letters.chars().all(|letter| letter.is_ascii() && letter > ' ') {
            return Err(unknown(word));
        }
        // What follows an `o`, in the same word or the next, is columns.
        let (switches, list) = letters.split_once('o').map_or((letters, None), |(switches, list)| {
            (switches, Some(if list.is_empty() { words.next().unwrap_or_default() } else { list }))
        });
        for switch in switches.chars() {
            match (switch, dashed) {
                ('f', true) => form = FULL,
                ('u', false) => form = USER,
                ('e' | 'A' | 'a' | 'x' | 'w' | 'd' | 'H' | 'T', _) | ('f', false) => {}
                _ => return Err(unknown(word)),
            }
        }
        if let Some(list) = list {
            own.extend(list.split(',').map(str::to_owned));
        }
    }
    let names: Vec<String> = if own.is_empty() { form.split(',').map(str::to_owned).collect() } else { own };
    if names.len() > MAX_COLUMNS {
        return Err(ApiError::invalid(format!("ps: more than {MAX_COLUMNS} columns")));
    }
    let columns: Vec<Column> = names.into_iter().map(column).collect::<Result<_>>()?;
    if columns.iter().any(|column| column.name == "pid") {
        return Ok(columns);
    }
    Err(ApiError::internal("Couldn't find PID field in ps output"))
}

fn unknown(word: &str) -> ApiError {
    let word: String = word.chars().take(100).collect();
    ApiError::invalid(format!("ps: unsupported argument {word:?}"))
}

/// A column by its name, under its title or another that follows a `=`.
fn column(text: String) -> Result<Column> {
    let (name, own_title) =
        text.split_once('=').map_or((text.as_str(), None), |(name, title)| (name, Some(title)));
    let (name, title) = match name {
        "pid" | "tgid" => ("pid", "PID"),
        "ppid" => ("ppid", "PPID"),
        "pgid" | "pgrp" => ("pgid", "PGID"),
        "sid" | "sess" | "session" => ("sid", "SID"),
        "euid" => ("euser", "UID"),
        "uid" => ("uid", "UID"),
        "user" | "euser" | "uname" => ("euser", "USER"),
        "gid" | "egid" => ("gid", "GID"),
        "c" => ("c", "C"),
        "pcpu" | "%cpu" => ("pcpu", "%CPU"),
        "pmem" | "%mem" => ("pmem", "%MEM"),
        "vsz" | "vsize" => ("vsz", "VSZ"),
        "rss" | "rssize" | "rsz" => ("rss", "RSS"),
        "tty" | "tt" | "tname" => ("tty", if name == "tt" { "TT" } else { "TTY" }),
        "stat" => ("stat", "STAT"),
        "s" | "state" => ("s", "S"),
        "ni" | "nice" => ("ni", "NI"),
        "nlwp" | "thcount" => ("nlwp", "NLWP"),
        "stime" => ("start", "STIME"),
        "start" | "start_time" => ("start", "START"),
        "lstart" => ("lstart", "STARTED"),
        "time" | "cputime" => ("time", "TIME"),
        "bsdtime" => ("bsdtime", "TIME"),
        "etime" => ("etime", "ELAPSED"),
        "etimes" => ("etimes", "ELAPSED"),
        "comm" | "ucmd" | "ucomm" => ("comm", if name == "comm" { "COMMAND" } else { "CMD" }),
        "args" | "command" => ("args", "COMMAND"),
        "cmd" => ("args", "CMD"),
        _ => {
            let name: String = name.chars().take(100).collect();
            let message = format!("ps: error: unknown user-defined format specifier {name:?}");
            return Err(ApiError::internal(message));
        }
    };
    Ok(Column { name: name.to_owned(), title: own_title.unwrap_or(title).to_owned() })
}

/// When it was looked, by both clocks.
struct Moment<'a> {
    now: Timestamp,
    found: &'a Processes,
}

impl Moment<'_> {
    fn age_us(&self, process: &ProcessInfo) -> u64 {
        self.found.at_us.saturating_sub(process.started_us)
    }

    fn started(&self, process: &ProcessInfo) -> Timestamp {
        let age = i64::try_from(self.age_us(process)).unwrap_or(i64::MAX);
        self.now.checked_sub(jiff::SignedDuration::from_micros(age)).unwrap_or(self.now)
    }

    fn cell(&self, process: &ProcessInfo, column: &Column) -> String {
        let percent = |part: u64, whole: u64| part.saturating_mul(1000).checked_div(whole).unwrap_or(0);
        match column.name.as_str() {
            "pid" => process.pid.to_string(),
            "ppid" => process.parent.to_string(),
            "pgid" => process.group.to_string(),
            "sid" => process.session.to_string(),
            "uid" => process.uid.to_string(),
            "euser" if process.uid == 0 => "root".to_owned(),
            "euser" => process.uid.to_string(),
            "gid" => process.gid.to_string(),
            "c" => (percent(process.cpu_us, self.age_us(process)) / 10).min(99).to_string(),
            "pcpu" => tenths(percent(process.cpu_us, self.age_us(process))),
            "pmem" => tenths(percent(process.resident_bytes, self.found.memory_bytes)),
            "vsz" => (process.virtual_bytes / 1024).to_string(),
            "rss" => (process.resident_bytes / 1024).to_string(),
            "tty" => terminal(process.terminal),
            "stat" => status(process),
            "s" => process.state.to_string(),
            "ni" => process.nice.to_string(),
            "nlwp" => process.threads.to_string(),
            "start" => started(self.started(process), self.now),
            "lstart" => {
                Offset::UTC.to_datetime(self.started(process)).strftime("%a %b %e %H:%M:%S %Y").to_string()
            }
            "time" => clock(process.cpu_us / 1_000_000),
            "bsdtime" => {
                let seconds = process.cpu_us / 1_000_000;
                format!("{}:{:02}", seconds / 60, seconds % 60)
            }
            "etime" => elapsed(self.age_us(process) / 1_000_000),
            "etimes" => (self.age_us(process) / 1_000_000).to_string(),
            "comm" => printable(&process.name),
            _ if process.args.is_empty() => format!("[{}]", printable(&process.name)),
            _ => printable(&process.args.join(" ")),
        }
    }
}

fn tenths(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

/// A container's processes choose their own names: none of them moves the cursor of whoever looks.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn clock(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    if days > 0 { format!("{days}-{rest}") } else { rest }
}

fn elapsed(seconds: u64) -> String {
    if seconds < 3600 { format!("{:02}:{:02}", seconds / 60, seconds % 60) } else { clock(seconds) }
}

/// The time of day if it is today's, otherwise the day.
fn started(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (Offset::UTC.to_datetime(at), Offset::UTC.to_datetime(now));
    let form = if at.date() == now.date() { "%H:%M" } else { "%b%d" };
    at.strftime(form).to_string()
}

/// A device number as Linux packs it into 32 bits (`new_encode_dev`).
fn terminal(device: u32) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match major {
        0 => "?".to_owned(),
        major if PTY_MAJORS.contains(&major) => format!("pts/{}", minor + (major - PTY_MAJORS.start) * 256),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

/// The state, and marks behind it (ps(1), PROCESS STATE CODES).
fn status(process: &ProcessInfo) -> String {
    let mut text = process.state.to_string();
    let marks = [
        (process.nice < 0, '<'),
        (process.nice > 0, 'N'),
        (process.session == process.pid, 's'),
        (process.threads > 1, 'l'),
        (process.foreground != 0 && process.foreground == process.group, '+'),
    ];
    text.extend(marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(arguments: &str) -> Vec<String> {
        columns(arguments).unwrap().into_iter().map(|column| column.title).collect()
    }

    #[test]
    fn arguments_choose_columns_as_with_ps() {
        assert_eq!(titles("-ef"), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        let user = ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"];
        assert_eq!(titles("waux"), user);
        assert_eq!(titles("-e -o pid,comm"), ["PID", "COMMAND"]);
        assert_eq!(titles("-eo pid=P,ppid"), ["P", "PPID"]);
        assert_eq!(titles("-A"), ["PID", "TTY", "TIME", "COMMAND"]);
        for bad in ["--sort=x", "-Z", "-o", "-o comm", "-o pid,nothing", "\u{e9}"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
        assert!(columns(&format!("-o {}pid", "pid,".repeat(MAX_COLUMNS))).is_err());
    }

    #[test]
    fn cells_are_written_as_ps_writes_them() {
        let process = ProcessInfo {
            pid: 7,
            state: 'S',
            nice: 5,
            session: 7,
            group: 7,
            foreground: 7,
            terminal: 136 << 8 | 3,
            started_us: 1_000_000,
            cpu_us: 65_000_000,
            args: vec!["a\u{1b}[2J".to_owned(), "b".to_owned()],
            ..ProcessInfo::default()
        };
        let found = Processes { at_us: 131_000_000, ..Processes::default() };
        let moment = Moment { now: Timestamp::UNIX_EPOCH, found: &found };
        let row = |columns: &str| -> Vec<String> {
            let columns = columns.split(',').map(|name| column(name.to_owned()).unwrap());
            columns.map(|column| moment.cell(&process, &column)).collect()
        };
        assert_eq!(row("pcpu,tty,stat,time,etime"), ["50.0", "pts/3", "SNs+", "00:01:05", "02:10"]);
        assert_eq!(row("args,start,user"), ["a?[2J b", "Dec31", "root"]);
    }
}
