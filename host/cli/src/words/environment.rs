//! `NAME=value`: environment variables, labels, options, and the files that hold them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// A setting for the environment: as it is, or the name alone with this process's value; alone when there is none,
/// which takes the variable away.
pub(crate) fn setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("invalid environment variable: {text}")),
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Err("invalid environment variable: ".to_owned()),
        None => Ok(std::env::var(text).map_or_else(|_| text.to_owned(), |value| format!("{text}={value}"))),
    }
}

/// The settings of files, and then the others, which come after them.
pub(crate) fn all(files: &[impl AsRef<Path>], settings: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for path in files {
        for line in lines_of(path.as_ref())? {
            all.push(line);
        }
    }
    all.extend(settings.iter().cloned());
    Ok(all)
}

fn lines_of(path: &Path) -> Result<Vec<String>, String> {
    let content =
        fs::read_to_string(path).map_err(|error| super::names::file_problem("open", path, &error))?;
    file(&content).map_err(|reason| format!("{}: {reason}", path.display()))
}

/// The settings of a file's content: a line each, blank lines and lines that start with `#` left out.
fn file(content: &str) -> Result<Vec<String>, String> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let lines =
        content.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let name = line.split('=').next().unwrap_or_default();
            if name.contains(char::is_whitespace) {
                return Err(format!("variable '{name}' contains whitespaces"));
            }
            setting(line)
        })
        .collect()
}

/// Labels of files and of flags: a name alone has an empty value.
pub(crate) fn labels(
    files: &[impl AsRef<Path>],
    labels: &[String],
) -> Result<HashMap<String, String>, String> {
    let mut all = Vec::new();
    for path in files {
        let path = path.as_ref();
        let content =
            fs::read_to_string(path).map_err(|error| super::names::file_problem("open", path, &error))?;
        let lines = content.lines().map(str::trim_start);
        all.extend(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned));
    }
    all.extend(labels.iter().cloned());
    Ok(map(&all))
}

/// `name=value`, each; a name alone has an empty value, and the last of one name counts.
pub(crate) fn map(settings: &[String]) -> HashMap<String, String> {
    let split = |setting: &String| {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        (name.to_owned(), value.to_owned())
    };
    settings.iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files_leave_out_blanks_and_comments() {
        let settings = file("\u{feff}# comment\n\nA=1\n  B=two words\n").unwrap();
        assert_eq!(settings, ["A=1", "B=two words"]);
        assert!(file("bad name=1").is_err());
        assert!(setting("=x").is_err() && setting("").is_err());
        assert_eq!(setting("CAPSID_SURELY_UNSET").unwrap(), "CAPSID_SURELY_UNSET");
    }

    #[test]
    fn labels_may_be_names_alone() {
        let labels = map(&["a=1".to_owned(), "b".to_owned(), "a=2=3".to_owned()]);
        assert_eq!(labels, HashMap::from([("a".into(), "2=3".into()), ("b".into(), String::new())]));
    }
}
