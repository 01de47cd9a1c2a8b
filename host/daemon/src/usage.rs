//! `GET /system/df`: what everything takes.

use serde_json::json;

use crate::containers::list;
use crate::error::{ApiError, Result, blocking, internal};
use crate::http::{self, Reply};
use crate::images;
use crate::routes::Call;

const TYPES: &[&str] = &["container", "image", "volume", "build-cache"];

pub(crate) async fn df(call: &Call) -> Result<Reply> {
    let wanted: Vec<&str> = call.query.all("type").collect();
    if let Some(unknown) = wanted.iter().find(|kind| !TYPES.contains(kind)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wants = |kind: &str| wanted.is_empty() || wanted.contains(&kind);
    let (images, containers) = (wants("image"), wants("container"));
    let server = std::sync::Arc::clone(&call.server);
    let document = blocking(move || {
        let mut document = json!({});
        if images {
            let usage = server.containers.host().images.usage().map_err(|error| internal(&error))?;
            let mut summaries = images::list::summaries(&server, &Default::default())?;
            for summary in &mut summaries {
                let own = summary.id.parse().ok().and_then(|id| usage.images.get(&id));
                summary.shared_size = own.map_or(0, |own| i64::try_from(own.shared).unwrap_or(i64::MAX));
            }
            document["LayersSize"] = json!(usage.content_bytes);
            document["Images"] = json!(summaries);
        }
        if containers {
            document["Containers"] = list::all_with_sizes(&server)?;
        }
        Ok(document)
    });
    let mut document = document.await?;
    for (kind, name) in [("volume", "Volumes"), ("build-cache", "BuildCache")] {
        if wants(kind) {
            document[name] = json!([]);
        }
    }
    http::ok(&document)
}
