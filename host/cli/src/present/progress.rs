//! Progress of transfers: a line for each part on a terminal, and what is worth keeping anywhere else.

use std::io::{self, IsTerminal, Write};

use super::sizes::human;
use super::value::Value;

/// Characters of a bar.
const BAR_WIDTH: usize = 50;

/// The messages of one answer, shown as they come.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    /// The parts in their order, each with a line of the screen.
    parts: Vec<String>,
}

impl Progress {
    /// Shows progress on standard output if that is a terminal.
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress { shown: !quiet && io::stdout().is_terminal(), parts: Vec::new() }
    }

    /// Shows one message (`jsonmessage.JSONMessage` of Docker). The result is the failure that it tells.
    pub(crate) fn show(&mut self, message: &Value) -> Result<(), String> {
        let error = message.at(&["errorDetail", "message"]).text();
        if !error.is_empty() {
            return Err(error.to_owned());
        }
        let error = message.get("error").text();
        if !error.is_empty() {
            return Err(error.to_owned());
        }
        let stream = message.get("stream").text();
        if !stream.is_empty() {
            write(&printable(stream));
            return Ok(());
        }
        let (id, status) = (message.get("id").text(), message.get("status").text());
        if !self.shown {
            // Without a terminal only what stays is said.
            if message.at(&["progressDetail"]).fields().is_empty() && !status.is_empty() && id.is_empty() {
                write(&format!("{}\n", printable(status)));
            }
            return Ok(());
        }
        let bar = bar(message.get("progressDetail"));
        let line =
            format!("{}{} {bar}", if id.is_empty() { String::new() } else { format!("{id}: ") }, status);
        self.put(id, printable(&line).trim_end());
        Ok(())
    }

    fn put(&mut self, id: &str, line: &str) {
        if id.is_empty() {
            write(&format!("{line}\n"));
            return;
        }
        let place = match self.parts.iter().position(|known| known == id) {
            Some(place) => place,
            None => {
                self.parts.push(id.to_owned());
                write("\n");
                self.parts.len() - 1
            }
        };
        let up = self.parts.len() - place;
        // Up to the part's line, which is cleared and written, and back down.
        write(&format!("\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B"));
    }
}

/// `[=====>    ]  1.5MB/3MB`.
fn bar(detail: &Value) -> String {
    let (current, total) = (detail.get("current").number(), detail.get("total").number());
    if current <= 0 && total <= 0 {
        return String::new();
    }
    if total <= 0 || current > total {
        return human(current);
    }
    let width = i64::try_from(BAR_WIDTH).unwrap_or(1);
    // Not current × width: sizes come from the daemon, and may be anything.
    let filled = usize::try_from(i128::from(current) * i128::from(width) / i128::from(total)).unwrap_or(0);
    let head = if filled < BAR_WIDTH { ">" } else { "" };
    let rest = BAR_WIDTH.saturating_sub(filled + head.len());
    format!("[{}{head}{}]  {}/{}", "=".repeat(filled), " ".repeat(rest), human(current), human(total))
}

/// Names come from images: they must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control() || matches!(character, '\n' | '\t')).collect()
}

fn write(text: &str) {
    // Whoever closed the terminal misses nothing.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_how_far_it_is() {
        let detail = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(bar(&detail("{}")), "");
        let half = bar(&detail(r#"{"current":500,"total":1000}"#));
        assert_eq!(half, format!("[{}>{}]  500B/1kB", "=".repeat(25), " ".repeat(24)));
        let whole = bar(&detail(r#"{"current":1000,"total":1000}"#));
        assert_eq!(whole, format!("[{}]  1kB/1kB", "=".repeat(50)));
        assert_eq!(bar(&detail(r#"{"current":1000}"#)), "1kB");
        bar(&detail(r#"{"current":9223372036854775807,"total":9223372036854775807}"#));
    }

    #[test]
    fn failures_are_told_and_names_do_not_steer_the_terminal() {
        let message: Value =
            serde_json::from_str(r#"{"errorDetail":{"message":"no"},"error":"no"}"#).unwrap();
        assert_eq!(Progress::new(true).show(&message), Err("no".to_owned()));
        assert_eq!(printable("a\x1b[2Jb\n"), "a[2Jb\n");
    }
}
