//! `POST /images/{name}/tag`.

use std::collections::BTreeMap;
use std::sync::Arc;

use capsid_image::{Reference, ResolveError, TagError};
use capsid_runtime::events::EventKind;
use hyper::StatusCode;

use crate::error::{ApiError, Result, blocking, internal};
use crate::http::{self, Reply};
use crate::routes::Call;

/// Waits for whoever is loading: not in a thread that serves.
pub(crate) async fn tag(call: &Call, name: String) -> Result<Reply> {
    let repository = call.query.text("repo").unwrap_or_default();
    let text = match call.query.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let reference = Reference::parse(&text).map_err(|error| ApiError::invalid(error.to_string()))?;
    let host = Arc::clone(call.server.containers.host());
    blocking(move || {
        let id = host.images.tag(&name, &reference).map_err(|error| refused(&error))?.to_string();
        let attributes = BTreeMap::from([("name".to_owned(), reference.to_string())]);
        host.events.tell(EventKind::Image, "tag", id, attributes);
        Ok(())
    })
    .await?;
    Ok(http::empty(StatusCode::CREATED))
}

fn refused(error: &TagError) -> ApiError {
    match error {
        TagError::Resolve(ResolveError::NotFound(_)) => ApiError::not_found(error.to_string()),
        TagError::Resolve(ResolveError::Ambiguous(_)) | TagError::Digest => {
            ApiError::invalid(error.to_string())
        }
        _ => internal(error),
    }
}
