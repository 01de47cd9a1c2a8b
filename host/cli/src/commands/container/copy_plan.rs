//! Where `cp` puts what, and under which name: as cp(1) does, in Docker's words (moby, `archive.CopyInfo`).

/// The source.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) path: &'a str,
    pub(super) is_folder: bool,
}

/// The destination as it is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) path: &'a str,
    pub(super) exists: bool,
    pub(super) is_folder: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The folder that is written into.
    pub(super) folder: String,
    /// The name that the source gets there; without one, what is in the source goes there.
    pub(super) name: Option<String>,
}

/// Decides.
///
/// # Errors
///
/// Why it cannot be.
pub(super) fn plan(from: From<'_>, to: To<'_>) -> Result<Plan, String> {
    let contents = from.path.ends_with("/.") || from.path == ".";
    let into = |folder: &str, name: Option<String>| Ok(Plan { folder: folder.to_owned(), name });
    if to.exists && to.is_folder {
        let name = (!(from.is_folder && contents)).then(|| base(from.path)).flatten();
        return into(to.path, name.or_else(|| if from.is_folder { None } else { base(from.path) }));
    }
    let (parent, name) = split(to.path);
    if to.exists && from.is_folder {
        return Err("cannot copy directory".to_owned());
    }
    let wants_folder = to.path.ends_with('/') || to.path.ends_with("/.");
    if wants_folder && !from.is_folder {
        return Err(if to.exists { "not a directory" } else { "no such directory" }.to_owned());
    }
    into(&parent, Some(name))
}

/// The last component; none of a root, and of what names a folder without saying how it is called.
pub(super) fn base(path: &str) -> Option<String> {
    let last = path.split('/').rfind(|part| !part.is_empty() && *part != ".")?;
    (last != "..").then(|| last.to_owned())
}

/// The folder of a path, and its last component.
pub(super) fn split(path: &str) -> (String, String) {
    let trimmed = path.trim_end_matches("/.").trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), trimmed.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_go_where_cp_would_put_them() {
        let folder = |path| To { path, exists: true, is_folder: true };
        let file = |path| To { path, exists: true, is_folder: false };
        let nothing = |path| To { path, exists: false, is_folder: false };
        let tree = |path| From { path, is_folder: true };
        let one = |path| From { path, is_folder: false };
        let ok = |folder: &str, name: Option<&str>| {
            Ok(Plan { folder: folder.to_owned(), name: name.map(str::to_owned) })
        };
        for (from, to, expected) in [
            (one("/a/f"), folder("/d"), ok("/d", Some("f"))),
            (one("/a/f"), folder("/d/"), ok("/d/", Some("f"))),
            (one("f"), file("/d/g"), ok("/d", Some("g"))),
            (one("f"), nothing("/g"), ok("/", Some("g"))),
            (one("f"), nothing("g"), ok(".", Some("g"))),
            (one("f"), nothing("/d/"), Err("no such directory".to_owned())),
            (tree("/a/t"), folder("/d"), ok("/d", Some("t"))),
            (tree("/a/t/"), folder("/d"), ok("/d", Some("t"))),
            (tree("/a/t/."), folder("/d"), ok("/d", None)),
            (tree("."), folder("/d"), ok("/d", None)),
            (tree("/"), folder("/d"), ok("/d", None)),
            (tree("/a/t"), nothing("/d/n"), ok("/d", Some("n"))),
            (tree("/a/t/."), nothing("/d/n"), ok("/d", Some("n"))),
            (tree("/a/t"), nothing("/d/n/"), ok("/d", Some("n"))),
            (tree("/a/t"), file("/d/f"), Err("cannot copy directory".to_owned())),
        ] {
            assert_eq!(plan(from, to), expected, "{from:?} {to:?}");
        }
    }
}
