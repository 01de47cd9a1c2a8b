//! Names in layers: split, normalised, refused.

use super::LayerProblem;
use crate::limits::Limits;

/// The longest name in a folder, as Linux's NAME_MAX and `EROFS_NAME_LEN`.
const MAX_NAME: usize = 255;

/// Splits a path into its components. `./`, doubled slashes and a leading slash mean nothing, as in Docker; `..`
/// is refused wherever it stands. No components at all is the root.
pub(super) fn components<'p>(path: &'p [u8], limits: &Limits) -> Result<Vec<&'p [u8]>, LayerProblem> {
    if path.is_empty() {
        return Err(LayerProblem::EmptyName);
    }
    if path.len() > limits.max_path {
        return Err(LayerProblem::PathTooLong { length: path.len(), limit: limits.max_path });
    }
    if path.contains(&0) {
        return Err(LayerProblem::Nul);
    }
    let mut components = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(LayerProblem::ParentComponent),
            _ if component.len() > MAX_NAME => return Err(LayerProblem::NameTooLong(component.len())),
            _ => components.push(component),
        }
    }
    if components.len() > limits.max_depth {
        return Err(LayerProblem::TooDeep { depth: components.len(), limit: limits.max_depth });
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &[u8]) -> Result<Vec<&[u8]>, LayerProblem> {
        components(path, &Limits::default())
    }

    #[test]
    fn empty_parts_mean_nothing() {
        let expected: Vec<&[u8]> = vec![b"a", b"b"];
        for path in [&b"a/b"[..], b"/a/b", b"./a//b/", b"//a/./b/."] {
            assert_eq!(split(path).unwrap(), expected);
        }
        for path in [&b"/"[..], b".", b"./"] {
            assert!(split(path).unwrap().is_empty());
        }
        assert_eq!(split(b"..a/b..").unwrap().len(), 2);
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for path in [&b".."[..], b"a/../b", b"a/..", b"/..", b"../a"] {
            assert_eq!(split(path), Err(LayerProblem::ParentComponent));
        }
        assert_eq!(split(b"a\0b"), Err(LayerProblem::Nul));
        assert_eq!(split(b""), Err(LayerProblem::EmptyName));
        assert_eq!(split(&[b'a'; 256]), Err(LayerProblem::NameTooLong(256)));
        assert!(split(&[b'a'; 255]).is_ok());
        assert!(matches!(split(&b"a/".repeat(2048)), Err(LayerProblem::PathTooLong { .. })));
        assert!(matches!(split(&b"a/".repeat(1025)), Err(LayerProblem::TooDeep { .. })));
    }
}
