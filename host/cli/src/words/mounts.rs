//! `--mount`, `--tmpfs` and `--volume`.

use std::collections::HashMap;

use capsid_api::models::{Mount, MountTmpfsOptions, MountType};

use super::limits;

/// `type=tmpfs,target=/run,tmpfs-size=64m`.
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    let wrong = |problem: String| format!("invalid argument {text:?} for \"--mount\" flag: {problem}");
    let mut mount = Mount { typ: Some(MountType::VOLUME), ..Mount::default() };
    let mut tmpfs = MountTmpfsOptions::default();
    for field in text.split(',') {
        let (name, value) = field.split_once('=').map_or((field, None), |(name, value)| (name, Some(value)));
        let needed =
            || value.ok_or_else(|| wrong(format!("invalid field '{field}' must be a key=value pair")));
        match name.trim().to_lowercase().as_str() {
            "type" => {
                mount.typ = Some(kind(needed()?).ok_or_else(|| wrong(format!("unknown type '{field}'")))?)
            }
            "source" | "src" => mount.source = Some(needed()?.to_owned()),
            "target" | "dst" | "destination" => mount.target = Some(needed()?.to_owned()),
            "readonly" | "ro" => mount.read_only = Some(truth(value).map_err(wrong)?),
            "tmpfs-size" => tmpfs.size_bytes = Some(limits::bytes(needed()?).map_err(wrong)?),
            "tmpfs-mode" => {
                let mode = i64::from_str_radix(needed()?, 8);
                tmpfs.mode = Some(mode.map_err(|_| wrong(format!("invalid value for {name}: {field}")))?);
            }
            "consistency" => mount.consistency = Some(needed()?.to_owned()),
            _ => return Err(wrong(format!("unexpected key '{name}' in '{field}'"))),
        }
    }
    if mount.target.is_none() {
        return Err(wrong("target is required".to_owned()));
    }
    if tmpfs != MountTmpfsOptions::default() {
        if mount.typ != Some(MountType::TMPFS) {
            return Err(wrong("cannot mix 'tmpfs-*' options with another mount type".to_owned()));
        }
        mount.tmpfs_options = Some(tmpfs);
    }
    Ok(mount)
}

fn kind(text: &str) -> Option<MountType> {
    Some(match text.to_lowercase().as_str() {
        "bind" => MountType::BIND,
        "volume" => MountType::VOLUME,
        "tmpfs" => MountType::TMPFS,
        "npipe" => MountType::NPIPE,
        "cluster" => MountType::CLUSTER,
        "image" => MountType::IMAGE,
        _ => return None,
    })
}

fn truth(value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "false" | "False" | "FALSE") => Ok(false),
        Some(other) => Err(format!("invalid value for readonly: {other}")),
    }
}

/// `/run` and `/run:size=64m,mode=755`.
pub(crate) fn tmpfs(texts: &[String]) -> HashMap<String, String> {
    let split = |text: &String| {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        (path.to_owned(), options.to_owned())
    };
    texts.iter().map(split).collect()
}

/// Those that are bound to something, and those that are new.
pub(crate) fn volumes(texts: &[String]) -> (Vec<String>, Vec<String>) {
    texts.iter().cloned().partition(|text| text.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_lists_of_settings() {
        let read = mount("type=tmpfs,dst=/run,tmpfs-size=1k,tmpfs-mode=700,ro").unwrap();
        assert_eq!(
            (read.typ, read.target.as_deref(), read.read_only),
            (Some(MountType::TMPFS), Some("/run"), Some(true))
        );
        let options = read.tmpfs_options.unwrap();
        assert_eq!((options.size_bytes, options.mode), (Some(1024), Some(0o700)));
        for bad in [
            "",
            "type=tmpfs",
            "type=x,dst=/a",
            "dst=/a,tmpfs-size=1",
            "dst",
            "dst=/a,wings=2",
            "dst=/a,ro=maybe",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_are_bound_or_new() {
        let (bound, new) = volumes(&["/a:/b:ro".to_owned(), "/c".to_owned()]);
        assert_eq!((bound, new), (vec!["/a:/b:ro".to_owned()], vec!["/c".to_owned()]));
    }
}
