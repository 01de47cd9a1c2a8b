//! `GET /images/json`, `GET /images/{name}/json` and `GET /images/{name}/history`.

use std::collections::BTreeMap;

use capsid_api::models::{ImageHistoryResponseItem, ImageSummary};
use capsid_image::{Image, Store};
use serde_json::{Value, json};

use crate::error::{Result, internal};
use crate::filters::Filters;
use crate::http::{self, Reply};
use crate::routes::Call;
use crate::server::Server;

pub(crate) fn list(call: &Call) -> Result<Reply> {
    let known = ["before", "dangling", "label", "reference", "since", "until"];
    let filters = Filters::read(&call.query, &known)?;
    http::ok(&summaries(&call.server, &filters)?)
}

/// Every image that passes.
pub(crate) fn summaries(server: &Server, filters: &Filters) -> Result<Vec<ImageSummary>> {
    let store = &server.containers.host().images;
    let images = store.images().map_err(|error| internal(&error))?;
    let views = server.containers.list();
    let mut summaries = Vec::new();
    for image in images {
        let id = image.id.to_string();
        let all: Vec<String> = image.references.iter().map(ToString::to_string).collect();
        if filters.truth("dangling")? == Some(!all.is_empty()) {
            continue;
        }
        // Only the names that are asked for are shown, and images without one not at all.
        let wanted = filters.get("reference");
        let is_wanted = |tag: &String| wanted.is_empty() || wanted.iter().any(|pattern| names(pattern, tag));
        let tags: Vec<String> = all.into_iter().filter(is_wanted).collect();
        if tags.is_empty() && !wanted.is_empty() {
            continue;
        }
        let labels = labels(store, &id);
        if !filters.labels("label", &labels) {
            continue;
        }
        let users = views.iter().filter(|view| view.record.image_id == id).count();
        let size = i64::try_from(image.size).unwrap_or(i64::MAX);
        summaries.push(ImageSummary {
            id,
            repo_digests: Vec::new(),
            created: seconds(image.created.as_deref()),
            size,
            shared_size: -1,
            labels: labels.into_iter().collect(),
            containers: i64::try_from(users).unwrap_or(-1),
            repo_tags: tags,
            ..Default::default()
        });
    }
    Ok(summaries)
}

pub(super) fn labels(store: &Store, id: &str) -> BTreeMap<String, String> {
    let image = store.resolve(id).ok();
    let config = image.and_then(|image| image.config.config().clone());
    config.and_then(|config| config.labels().clone()).unwrap_or_default().into_iter().collect()
}

/// Whether a pattern means a name: with its tag, without it, or by the last parts of its path.
fn names(pattern: &str, tag: &str) -> bool {
    let repository = tag.rsplit_once(':').map_or(tag, |(repository, _)| repository);
    let glob = |text: &str| matches_glob(pattern.as_bytes(), text.as_bytes());
    glob(tag) || glob(repository)
}

/// Go's `path.Match` without its ranges: `*` and `?` stand for anything but a slash, so each part is matched by itself.
fn matches_glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut patterns, mut parts) = (pattern.split(|byte| *byte == b'/'), text.split(|byte| *byte == b'/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if matches_part(pattern, part) => {}
            _ => return false,
        }
    }
}

/// Goes back to the newest `*` alone, so a pattern of many takes no longer than their product with the text.
fn matches_part(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Behind the newest `*`, and where what it stands for ends so far.
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, read));
            }
            Some(wanted) if *wanted == b'?' || *wanted == text[read] => (at, read) = (at + 1, read + 1),
            _ => match star {
                Some((behind, end)) => {
                    (at, read) = (behind, end + 1);
                    star = Some((behind, end + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|left| *left == b'*')
}

pub(super) fn seconds(created: Option<&str>) -> i64 {
    created.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
}

pub(crate) fn inspect(call: &Call, name: &str) -> Result<Reply> {
    let image = call.server.containers.host().image(name)?;
    let config = &image.config;
    let layers: Vec<&String> = config.rootfs().diff_ids().iter().collect();
    let settings: Value = serde_json::to_value(config.config()).unwrap_or_default();
    http::ok(&json!({
        "Id": image.id.to_string(),
        "RepoTags": image.references.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "RepoDigests": [],
        "Parent": "",
        "Comment": "",
        "Created": config.created(),
        "DockerVersion": "",
        "Author": config.author().clone().unwrap_or_default(),
        "Config": settings,
        "Architecture": config.architecture(),
        "Os": config.os(),
        "Size": image.size,
        "GraphDriver": { "Data": null, "Name": "erofs" },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
    }))
}

/// The newest step first. Only the image itself has an identifier, as of every image that was pulled or loaded.
pub(crate) fn history(call: &Call, name: &str) -> Result<Reply> {
    http::ok(&history_of(&call.server.containers.host().image(name)?))
}

fn history_of(image: &Image) -> Vec<ImageHistoryResponseItem> {
    let mut sizes = image.layer_sizes.iter();
    let mut steps: Vec<ImageHistoryResponseItem> = Vec::new();
    for step in image.config.history().iter().flatten() {
        let size = if step.empty_layer() == Some(true) { 0 } else { sizes.next().copied().unwrap_or(0) };
        steps.push(ImageHistoryResponseItem {
            id: "<missing>".to_owned(),
            created: seconds(step.created().as_deref()),
            created_by: step.created_by().clone().unwrap_or_default(),
            tags: Vec::new(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            comment: step.comment().clone().unwrap_or_default(),
        });
    }
    // A configuration need not have a history of all its layers, or any.
    for size in sizes {
        let size = i64::try_from(*size).unwrap_or(i64::MAX);
        steps.push(ImageHistoryResponseItem { id: "<missing>".to_owned(), size, ..Default::default() });
    }
    if let Some(last) = steps.last_mut() {
        last.id = image.id.to_string();
        last.tags = image.references.iter().map(ToString::to_string).collect();
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_names_with_and_without_their_tag() {
        let means = |pattern: &str| {
            let tags = ["alpine:latest", "alpine:3.10", "example.org:5000/a/b:c"];
            tags.into_iter().filter(|tag| names(pattern, tag)).collect::<Vec<_>>()
        };
        assert_eq!(means("alp*"), ["alpine:latest", "alpine:3.10"]);
        assert_eq!(means("alpine"), ["alpine:latest", "alpine:3.10"]);
        assert_eq!(means("*:3.?0"), ["alpine:3.10"]);
        assert_eq!(means("example.org:5000/*/b"), ["example.org:5000/a/b:c"]);
        assert_eq!((means("*pin"), means("b"), means("")), (vec![], vec![], vec![]));
        assert_eq!(means("*/*/*:*"), ["example.org:5000/a/b:c"]);
        // Neither its depth nor its length is the daemon's end.
        let hostile = "a*".repeat(100_000);
        assert!(!names(&hostile, &"a".repeat(250)) && !names(&"*".repeat(200_000), "a/b"));
    }
}
