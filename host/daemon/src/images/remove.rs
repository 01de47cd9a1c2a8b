//! `DELETE /images/{name}` and `POST /images/prune`.

use std::collections::BTreeMap;

use capsid_api::models::{ImageDeleteResponseItem, ImagePruneResponse};
use capsid_image::{Digest, ImageUse, RemoveError, RemoveOptions, Removed};
use capsid_runtime::containers::Containers;
use capsid_runtime::events::EventKind;
use capsid_runtime::lifecycle::Phase;
use hyper::StatusCode;

use crate::error::{ApiError, Result, blocking, internal};
use crate::filters::Filters;
use crate::http::{self, Reply};
use crate::routes::Call;

/// Waits for whoever is loading: not in a thread that serves.
pub(crate) async fn remove(call: &Call, name: String) -> Result<Reply> {
    let containers = call.server.containers.clone();
    let force = call.query.flag("force");
    http::ok(&blocking(move || remove_now(&containers, &name, force)).await?)
}

fn remove_now(containers: &Containers, name: &str, force: bool) -> Result<Vec<ImageDeleteResponseItem>> {
    let in_use = |id: &Digest| {
        let id = id.to_string();
        let views = containers.list();
        let using = views.iter().filter(|view| view.record.image_id == id);
        using
            .map(|view| ImageUse {
                container: view.record.id.to_string(),
                running: view.phase().counts_as_running() || view.phase() == Phase::Starting,
            })
            .collect()
    };
    let options = RemoveOptions { force, in_use: &in_use };
    let host = containers.host();
    let image = host.image(name).map(|image| image.id.to_string()).ok();
    let removed = host.images.remove(name, &options).map_err(|error| remove_error(&error))?;
    let mut items = Vec::new();
    for one in removed {
        let mut item = ImageDeleteResponseItem::default();
        let action = match one {
            Removed::Untagged(reference) => {
                item.untagged = Some(reference.to_string());
                "untag"
            }
            Removed::Deleted(digest) => {
                item.deleted = Some(digest.to_string());
                "delete"
            }
        };
        // An image that loses a name is told of by its identifier.
        let id = if item.untagged.is_some() { image.clone() } else { item.deleted.clone() };
        let id = id.unwrap_or_default();
        host.events.tell(EventKind::Image, action, id.clone(), BTreeMap::from([("name".to_owned(), id)]));
        items.push(item);
    }
    Ok(items)
}

fn remove_error(error: &RemoveError) -> ApiError {
    match error {
        RemoveError::Resolve(missing @ capsid_image::ResolveError::NotFound(_)) => {
            ApiError::not_found(missing.to_string())
        }
        RemoveError::ReferenceInUse { .. }
        | RemoveError::SeveralReferences(_)
        | RemoveError::UsedByStopped { .. }
        | RemoveError::UsedByRunning { .. } => ApiError::conflict(error.to_string()),
        _ => internal(error),
    }
}

/// Removes what nobody uses: images without a name, or all that no container is made from.
pub(crate) async fn prune(call: &Call) -> Result<Reply> {
    let filters = Filters::read(&call.query, &["dangling", "label", "label!", "until"])?;
    let until = filters.get("until").first().map(|text| crate::system::until(text)).transpose()?;
    let only_dangling = filters.truth("dangling")?.unwrap_or(true);
    let containers = call.server.containers.clone();
    let pruned = blocking(move || {
        let store = &containers.host().images;
        let before = store.usage().map_err(|error| internal(&error))?.disk_bytes;
        let mut deleted = Vec::new();
        for image in store.images().map_err(|error| internal(&error))? {
            if only_dangling && !image.references.is_empty() {
                continue;
            }
            let id = image.id.to_string();
            let created = super::list::seconds(image.created.as_deref());
            let is_old = until.is_none_or(|until| created < until.as_second());
            let labels = super::list::labels(store, &id);
            let unwanted = filters.has("label!") && filters.labels("label!", &labels);
            if !is_old || unwanted || !filters.labels("label", &labels) {
                continue;
            }
            // By each of its names, as nobody forces anything here; one that a container needs stays with its name.
            if containers.list().iter().any(|view| view.record.image_id == id) {
                continue;
            }
            let names: Vec<String> = image.references.iter().map(ToString::to_string).collect();
            let names = if names.is_empty() { vec![id] } else { names };
            for name in names {
                match remove_now(&containers, &name, false) {
                    Ok(items) => deleted.extend(items),
                    // One that a container was made from meanwhile stays; so does what cannot be removed, and is told.
                    Err(error) if error.status == StatusCode::CONFLICT => {}
                    Err(error) => tracing::warn!(image = name, "not pruned: {}", error.message),
                }
            }
        }
        let after = store.usage().map_err(|error| internal(&error))?.disk_bytes;
        Ok((deleted, before.saturating_sub(after)))
    });
    let (deleted, space) = pruned.await?;
    http::ok(&ImagePruneResponse {
        images_deleted: Some(deleted),
        space_reclaimed: Some(i64::try_from(space).unwrap_or(i64::MAX)),
    })
}
