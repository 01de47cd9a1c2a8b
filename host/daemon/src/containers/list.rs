//! `GET /containers/json`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use capsid_runtime::container::ContainerId;
use capsid_runtime::driver::View;
use capsid_runtime::lifecycle::Phase;
use hyper::StatusCode;
use jiff::Timestamp;
use regex::{Regex, RegexBuilder};
use serde::Serialize;

use super::status;
use crate::error::{ApiError, Result, internal};
use crate::filters::Filters;
use crate::http::{self, Reply};
use crate::routes::Call;
use crate::server::Server;

const FILTERS: &[&str] = &[
    "ancestor",
    "annotation",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
/// What one compiled pattern may take, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// About what one container of a list takes, in bytes.
const SUMMARY_BYTES: usize = 1 << 10;
const HEALTHS: &[&str] = &["none", "starting", "healthy", "unhealthy"];
const STATUSES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// One container of a list, up to its status; the fields are the API's `ContainerSummary`, borrowed where they can be.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Head<'a> {
    id: &'a ContainerId,
    names: [String; 1],
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: i64,
    ports: [u8; 0],
    #[serde(rename = "SizeRw", skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(rename = "SizeRootFs", skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
}

/// What follows its status.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tail<'a> {
    host_config: SummaryHostConfig<'a>,
    network_settings: SummaryNetworks,
    mounts: Vec<serde_json::Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHostConfig<'a> {
    network_mode: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryNetworks {
    networks: serde_json::Value,
}

/// A container as it is written in a list: all of it that stays the same while the container does, but its status, which
/// tells how long ago something was. With a thousand containers, writing them anew would be most of a list's time.
#[derive(Debug)]
struct Pieces {
    /// `{…`, without a comma.
    head: Vec<u8>,
    /// `…}`, without one either.
    tail: Vec<u8>,
}

impl Pieces {
    fn write(view: &View, (size_rw, size_root_fs): (Option<u64>, Option<u64>)) -> Result<Pieces> {
        let record = &view.record;
        let network_mode = record.documents["HostConfig"]["NetworkMode"].as_str().unwrap_or("default");
        let head = Head {
            id: &record.id,
            names: [format!("/{}", record.name)],
            image: &record.image,
            image_id: &record.image_id,
            command: shell_words(&record.command),
            created: record.created.as_second(),
            ports: [],
            size_rw,
            size_root_fs,
            labels: &record.options.labels,
            state: view.shown_phase().status(),
        };
        let tail = Tail {
            host_config: SummaryHostConfig { network_mode },
            network_settings: SummaryNetworks { networks: super::network::network(view)["Networks"].take() },
            mounts: super::inspect::mounts(view),
        };
        let (mut head, mut tail) = (to_json(&head)?, to_json(&tail)?);
        // Of two objects, one.
        head.pop();
        tail.remove(0);
        Ok(Pieces { head, tail })
    }

    fn append(&self, view: &View, out: &mut Vec<u8>, now: Timestamp) -> Result<()> {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b",\"Status\":");
        serde_json::to_writer(&mut *out, &status::text(view, now)).map_err(|error| internal(&error))?;
        out.push(b',');
        out.extend_from_slice(&self.tail);
        Ok(())
    }
}

/// Between two members of a list.
fn separate(list: &mut Vec<u8>) {
    if list.len() > 1 {
        list.push(b',');
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| internal(&error))
}

pub(crate) fn list(call: &Call) -> Result<Reply> {
    let filters = Filters::read(&call.query, FILTERS)?;
    let selection = Selection::read(call, &filters)?;
    let views = call.server.containers.list();
    let chosen: Vec<_> = views.iter().filter(|view| selection.takes(view)).take(selection.limit).collect();
    let text = write_list(&call.server, &chosen, call.query.flag("size"))?;
    Ok(http::json_text(StatusCode::OK, text.into()))
}

fn write_list(server: &Server, views: &[&Arc<View>], sizes: bool) -> Result<Vec<u8>> {
    let now = Timestamp::now();
    let mut text = Vec::with_capacity(views.len() * SUMMARY_BYTES + 2);
    text.push(b'[');
    for view in views {
        separate(&mut text);
        if sizes {
            Pieces::write(view, sizes_of(server, view))?.append(view, &mut text, now)?;
            continue;
        }
        if view.made.get().is_none() {
            // Whoever came first has made the same.
            let _ = view.made.set(Box::new(Pieces::write(view, (None, None))?));
        }
        match view.made.get().and_then(|made| made.downcast_ref::<Pieces>()) {
            Some(pieces) => pieces.append(view, &mut text, now)?,
            None => Pieces::write(view, (None, None))?.append(view, &mut text, now)?,
        }
    }
    text.extend_from_slice(b"]\n");
    Ok(text)
}

/// Every container with what it takes, for `system df`.
pub(crate) fn all_with_sizes(server: &Server) -> Result<serde_json::Value> {
    let views = server.containers.list();
    let text = write_list(server, &views.iter().collect::<Vec<_>>(), true)?;
    serde_json::from_slice(&text).map_err(|error| internal(&error))
}

/// What the writable layer takes on the disk, and that with the image.
pub(super) fn sizes_of(server: &Server, view: &View) -> (Option<u64>, Option<u64>) {
    use std::os::unix::fs::MetadataExt;
    let folder = server.containers.host().state.container(&view.record.id);
    let written = folder.writable_path().metadata().map_or(0, |metadata| metadata.blocks() * 512);
    let image = server.containers.host().image(&view.record.image_id).map_or(0, |image| image.size);
    (Some(written), Some(written + image))
}

/// Arguments as a shell would need them (moby, `container.Snapshot`: only what holds a space is quoted).
pub(super) fn shell_words(command: &[String]) -> String {
    let quote = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Which containers are listed.
struct Selection<'a> {
    filters: &'a Filters,
    all: bool,
    limit: usize,
    before: Option<(Timestamp, ContainerId)>,
    since: Option<(Timestamp, ContainerId)>,
    exited: HashSet<u8>,
    ancestors: HashSet<String>,
    names: Names,
}

impl<'a> Selection<'a> {
    fn read(call: &Call, filters: &'a Filters) -> Result<Selection<'a>> {
        if let Some(bad) = filters.get("status").iter().find(|status| !STATUSES.contains(&status.as_str())) {
            return Err(one_of("status", "state", bad, STATUSES));
        }
        if let Some(bad) = filters.get("health").iter().find(|health| !HEALTHS.contains(&health.as_str())) {
            return Err(one_of("health", "health", bad, HEALTHS));
        }
        let limit = call.query.number("limit")?.unwrap_or(-1);
        let anchor = |name: &str| -> Result<Option<(Timestamp, ContainerId)>> {
            let wanted = filters.get(name).first().map(String::as_str).or_else(|| call.query.text(name));
            let Some(reference) = wanted else { return Ok(None) };
            let record = Arc::clone(&call.server.containers.find(reference)?.view().record);
            Ok(Some((record.created, record.id.clone())))
        };
        let exited: Result<HashSet<u8>> = filters.get("exited").iter().map(|code| exit_code(code)).collect();
        let exited = exited?;
        let limited = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let (before, since) = (anchor("before")?, anchor("since")?);
        let all = call.query.flag("all")
            || limited.is_some()
            || before.is_some()
            || since.is_some()
            || filters.has("status")
            || filters.has("exited");
        let ancestors = filters.get("ancestor").iter().filter_map(|name| {
            call.server.containers.host().image(name).ok().map(|image| image.id.to_string())
        });
        Ok(Selection {
            filters,
            all,
            limit: limited.unwrap_or(usize::MAX),
            before,
            since,
            exited,
            ancestors: ancestors.collect(),
            names: Names::read(filters.get("name"))?,
        })
    }

    fn takes(&self, view: &View) -> bool {
        if self.filters.is_empty() && self.before.is_none() && self.since.is_none() {
            return self.all || view.shown_phase().counts_as_running();
        }
        let record = &view.record;
        let place = (record.created, record.id.clone());
        (self.all || view.shown_phase().counts_as_running())
            && self.before.as_ref().is_none_or(|before| place < *before)
            && self.since.as_ref().is_none_or(|since| place > *since)
            && self.takes_by_name(view)
            && self.takes_by_state(view)
            && self.filters.labels("label", &record.options.labels)
            && (!self.filters.has("ancestor") || self.ancestors.contains(&record.image_id))
            && self.takes_by_surroundings(view)
    }

    fn takes_by_name(&self, view: &View) -> bool {
        let ids = self.filters.get("id");
        (ids.is_empty() || ids.iter().any(|id| view.record.id.as_str().starts_with(id.as_str())))
            && self.names.take(view.record.name.as_str())
    }

    fn takes_by_state(&self, view: &View) -> bool {
        let ended = matches!(view.phase(), Phase::Exited | Phase::Dead | Phase::Restarting);
        let health = view.record.state.health.as_ref().map_or("none", |health| health.status.name());
        self.filters.exact("status", view.shown_phase().status())
            && (!self.filters.has("exited") || (ended && self.exited.contains(&view.record.state.exit_code)))
            && self.filters.exact("health", health)
    }

    fn takes_by_surroundings(&self, view: &View) -> bool {
        !self.filters.has("volume")
            && !self.filters.has("publish")
            && !self.filters.has("expose")
            && self.filters.exact("network", super::network::name(view))
            && self.filters.truth("is-task").ok().flatten() != Some(true)
    }
}

fn one_of(filter: &str, what: &str, bad: &str, known: &[&str]) -> ApiError {
    let known = known.join(", ");
    ApiError::invalid(format!(
        "invalid filter '{filter}={bad}': invalid value for {what} ({bad}): must be one of {known}"
    ))
}

fn exit_code(text: &str) -> Result<u8> {
    let code: i64 = text.parse().map_err(|_| {
        let reason = format!("strconv.Atoi: parsing {text:?}: invalid syntax");
        ApiError::invalid(format!("invalid filter 'exited={text}': {reason}"))
    })?;
    u8::try_from(code).map_err(|_| ApiError::invalid(format!("invalid filter 'exited={text}'")))
}

/// Names are matched by regular expressions, with their slash and without it (moby, `filters.Args.Match`).
struct Names(Vec<Regex>);

impl Names {
    fn read(patterns: &[String]) -> Result<Names> {
        let compile = |pattern: &String| {
            let compiled = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
            compiled.map_err(|_| ApiError::invalid(format!("invalid filter 'name={pattern}'")))
        };
        patterns.iter().map(compile).collect::<Result<_>>().map(Names)
    }

    fn take(&self, name: &str) -> bool {
        let slashed = format!("/{name}");
        self.0.is_empty() || self.0.iter().any(|one| one.is_match(name) || one.is_match(&slashed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_with_their_slash_and_without() {
        for (pattern, name, takes) in [
            ("we", "web", true),
            ("^web$", "web", true),
            ("^/web$", "web", true),
            ("/web", "web1", true),
            ("/eb", "web", false),
            ("^eb", "web", false),
            ("eb$", "web", true),
            ("w.b|db", "db", true),
        ] {
            assert_eq!(Names::read(&[pattern.to_owned()]).unwrap().take(name), takes, "{pattern}");
        }
        assert!(Names::read(&[]).unwrap().take("web"));
        let hostile = "(a{1000}){1000}".to_owned();
        assert!(Names::read(&[hostile]).is_err() && Names::read(&["(".to_owned()]).is_err());
    }

    #[test]
    fn words_with_spaces_are_quoted() {
        let command = ["sh", "-c", "echo hi"].map(str::to_owned);
        assert_eq!(shell_words(&command), "sh -c 'echo hi'");
    }
}
