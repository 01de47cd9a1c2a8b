//! A process's environment, and the search for its program. Pure but for one call-back.

use std::ffi::CString;
use std::io;

use capsid_protocol::{ErrorCode, Refusal};

use crate::error::{describe, refusal};

/// `NAME=value`, each name once with its last value, `HOME` added if it is missing or empty (as runc does).
pub(crate) fn merge(given: &[String], home: &str) -> Vec<String> {
    let mut places = std::collections::HashMap::new();
    let mut merged: Vec<String> = Vec::with_capacity(given.len() + 1);
    for entry in given {
        let Some((name, _)) = entry.split_once('=') else { continue };
        if name.is_empty() {
            continue;
        }
        match places.get(name) {
            Some(&place) => merged[place] = entry.clone(),
            None => {
                places.insert(name, merged.len());
                merged.push(entry.clone());
            }
        }
    }
    if places.get("HOME").is_none_or(|&place| merged[place] == "HOME=") {
        merged.retain(|entry| entry != "HOME=");
        merged.push(format!("HOME={home}"));
    }
    merged
}

/// The value of a name in a merged environment.
pub(crate) fn value<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// Strings as the kernel takes them.
///
/// # Errors
///
/// A zero byte inside one.
pub(crate) fn c_strings(strings: &[String]) -> Result<Vec<CString>, Refusal> {
    let convert = |string: &String| {
        CString::new(string.as_str())
            .map_err(|_| refusal(ErrorCode::InvalidArgument, "an argument or variable holds a zero byte"))
    };
    strings.iter().map(convert).collect()
}

/// Finds the program that `name` means: a path if it holds a slash, else the first executable of that name in the
/// folders of `path`. `check` says whether a file can be executed.
///
/// # Errors
///
/// In the words of Go's `os/exec`, which Docker's users know: not found, or there and not executable.
pub(crate) fn find_program(
    name: &str,
    path: &str,
    check: impl Fn(&str) -> io::Result<()>,
) -> Result<String, Refusal> {
    if name.contains('/') {
        return check(name).map(|()| name.to_owned()).map_err(|error| unusable(name, &error));
    }
    let in_folder = |folder: &str| match folder {
        "" => format!("./{name}"),
        _ => format!("{}/{name}", folder.trim_end_matches('/')),
    };
    let candidates = path.split(':').filter(|_| !path.is_empty() && !name.is_empty()).map(in_folder);
    let found = candidates.into_iter().find(|candidate| check(candidate).is_ok());
    found.ok_or_else(|| {
        let message = format!("exec: \"{name}\": executable file not found in $PATH");
        refusal(ErrorCode::CommandNotFound, message)
    })
}

fn unusable(name: &str, error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            let message = format!("exec: \"{name}\": stat {name}: {}", describe(error));
            refusal(ErrorCode::CommandNotFound, message)
        }
        // The words of those who look a program up by its permissions alone.
        Some(libc::EISDIR) => {
            refusal(ErrorCode::CommandNotExecutable, format!("exec: \"{name}\": permission denied"))
        }
        _ => refusal(ErrorCode::CommandNotExecutable, format!("exec: \"{name}\": {}", describe(error))),
    }
}

/// What execve's own refusal means.
pub(crate) fn execute_refused(program: &str, error: &io::Error) -> Refusal {
    let words = match error.raw_os_error() {
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => describe(error),
    };
    let code = match error.raw_os_error() {
        Some(libc::ENOENT) => ErrorCode::CommandNotFound,
        Some(libc::E2BIG) => ErrorCode::InvalidArgument,
        _ => ErrorCode::CommandNotExecutable,
    };
    refusal(code, format!("exec {program}: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn errno(number: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[test]
    fn the_last_of_a_name_wins_in_the_place_of_the_first() {
        let merged = merge(&strings(&["A=1", "HOME=/h", "B=2", "A=3", "nonsense", "=x"]), "/root");
        assert_eq!(merged, ["A=3", "HOME=/h", "B=2"]);
    }

    #[test]
    fn home_is_added_when_it_is_missing_or_empty() {
        assert_eq!(merge(&strings(&["A=1"]), "/root"), ["A=1", "HOME=/root"]);
        assert_eq!(merge(&strings(&["HOME=", "A=1"]), "/root"), ["A=1", "HOME=/root"]);
    }

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let environment = strings(&["PATHS=no", "PATH=/bin"]);
        assert_eq!(value(&environment, "PATH"), Some("/bin"));
        assert_eq!(value(&environment, "PAT"), None);
    }

    #[test]
    fn a_bare_name_is_searched_in_order() {
        let check = |path: &str| if path == "/b/tool" { Ok(()) } else { errno(libc::ENOENT) };
        assert_eq!(find_program("tool", "/a:/b/:/c", check).unwrap(), "/b/tool");
    }

    #[test]
    fn a_bare_name_that_is_nowhere_is_not_found() {
        for path in ["", "/a:/b"] {
            let refused = find_program("foo", path, |_| errno(libc::EACCES)).unwrap_err();
            assert_eq!(refused.code, ErrorCode::CommandNotFound);
            assert_eq!(refused.message, "exec: \"foo\": executable file not found in $PATH");
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(find_program("./x", "/a", |_| Ok(())).unwrap(), "./x");
        let missing = find_program("/x", "/a", |_| errno(libc::ENOENT)).unwrap_err();
        assert_eq!(missing.message, "exec: \"/x\": stat /x: no such file or directory");
        assert_eq!(missing.code, ErrorCode::CommandNotFound);
        let forbidden = find_program("/x", "/a", |_| errno(libc::EACCES)).unwrap_err();
        assert_eq!(forbidden.message, "exec: \"/x\": permission denied");
        assert_eq!(forbidden.code, ErrorCode::CommandNotExecutable);
        let folder = find_program("/x", "/a", |_| errno(libc::EISDIR)).unwrap_err();
        assert_eq!(folder.message, "exec: \"/x\": permission denied");
    }

    #[test]
    fn a_file_that_is_no_program_is_not_executable() {
        let refused = execute_refused("/x", &io::Error::from_raw_os_error(libc::ENOEXEC));
        assert_eq!(refused, refusal(ErrorCode::CommandNotExecutable, "exec /x: exec format error"));
    }
}
