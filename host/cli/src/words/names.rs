//! Names of images and files, in messages.

use std::io;
use std::path::Path;

/// An image's name with the tag that is meant when none is there.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// Refuses what cannot be an image's name, before a daemon is asked for it (distribution, `reference`).
pub(crate) fn check_image(image: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    if image.is_empty() || !image.bytes().all(known) || image.starts_with(['/', ':', '@', '.', '-']) {
        return Err("invalid reference format".to_owned());
    }
    let (name, _) = image.split_once('@').unwrap_or((image, ""));
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("", name),
    };
    let path = path.rsplit_once(':').map_or(path, |(path, _)| path);
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let separator = if host.is_empty() { "" } else { "/" };
        return Err(format!(
            "invalid reference format: repository name ({host}{separator}{path}) must be lowercase"
        ));
    }
    Ok(())
}

/// Name and tag, or name and digest, of an image to be pulled.
pub(crate) fn name_and_tag(image: &str) -> (String, String) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name.to_owned(), digest.to_owned());
    }
    let full = with_tag(image);
    full.rsplit_once(':')
        .map_or_else(|| (full.clone(), String::new()), |(name, tag)| (name.to_owned(), tag.to_owned()))
}

/// `open /no/such/file: no such file or directory`, as Go writes it.
pub(crate) fn file_problem(action: &str, path: &Path, error: &io::Error) -> String {
    format!("{action} {}: {}", path.display(), reason(error))
}

/// An error of the system without Rust's number behind it.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_tags() {
        for (image, full) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("host:5000/a/b", "host:5000/a/b:latest"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(with_tag(image), full);
        }
        assert_eq!(name_and_tag("host:5000/a"), ("host:5000/a".to_owned(), "latest".to_owned()));
        assert_eq!(name_and_tag("a@sha256:0"), ("a".to_owned(), "sha256:0".to_owned()));
    }

    #[test]
    fn what_is_no_image_is_told_at_once() {
        for good in ["busybox", "a/b:Tag", "Host.example:5000/a/b@sha256:0f", "0fb04d811130", "sha256:0fb0"] {
            assert_eq!(check_image(good), Ok(()), "{good}");
        }
        for bad in ["", "No Such", "a b", "Upper", "-x", "a\nb", "host.example/Upper:tag"] {
            assert!(check_image(bad).unwrap_err().starts_with("invalid reference format"), "{bad}");
        }
    }

    #[test]
    fn problems_with_files_read_as_gos() {
        let error = std::fs::File::open("/no/such/file").unwrap_err();
        let text = file_problem("open", Path::new("/no/such/file"), &error);
        assert_eq!(text, "open /no/such/file: no such file or directory");
    }
}
