//! Questions before something is removed for good.

use std::io::{self, BufRead, Write};

/// Asks, and takes anything but a yes for a no.
pub(crate) fn confirm(warning: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{warning}\nAre you sure you want to continue? [y/N] ")?;
    stdout.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
