//! `capsid completion` and `capsid manual`: what shells and man(1) know of the verbs, out of the verbs themselves.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::options::Arguments;

/// Words of `completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Words of `manual`.
#[derive(Debug, Args)]
pub(crate) struct ManualArguments {
    /// Folder that the pages go to, which must be there
    folder: PathBuf,
}

/// Prints a script for a shell.
pub(crate) fn completion(arguments: &CompletionArguments) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "capsid", &mut script);
    io::stdout().write_all(&script)?;
    Ok(0)
}

/// Writes a page for each verb.
pub(crate) fn manual(arguments: &ManualArguments) -> Result<u8, Failure> {
    clap_mangen::generate_to(Arguments::command(), &arguments.folder)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_is_shown_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        manual(&ManualArguments { folder: folder.path().to_owned() }).unwrap();
        for page in ["capsid.1", "capsid-run.1", "capsid-container.1", "capsid-container-run.1"] {
            let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(!folder.path().join("capsid-become-daemon.1").exists());
    }

    #[test]
    fn a_shell_is_told_of_the_verbs() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Arguments::command(), "capsid", &mut script);
        assert!(String::from_utf8(script).unwrap().contains("--detach-keys"));
    }
}
