//! `POST /containers/create`.

use capsid_api::extensions::NOTICE_HEADER;
use capsid_api::models::{ContainerCreateBody, ContainerCreateResponse};
use capsid_runtime::container::ContainerName;
use capsid_runtime::containers::NewContainer;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{documents, options};
use crate::error::{ApiError, Result, blocking};
use crate::http::{self, Reply};
use crate::routes::Call;

pub(crate) async fn create(call: Call) -> Result<Reply> {
    let name: Option<ContainerName> = match call.query.text("name") {
        Some(name) => Some(name.parse().map_err(|error| ApiError::invalid(format!("{error}")))?),
        None => None,
    };
    let containers = call.server.containers.clone();
    let document: Value = http::read_json(&call.body).await?;
    if !document.is_object() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    }
    let document = documents::normalise(document);
    documents::check_restart_policy(&document)?;
    let body: ContainerCreateBody = serde_json::from_value(document.clone())
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let image_name = body.image.clone().unwrap_or_default();
    if image_name.is_empty() {
        return Err(ApiError::invalid("no image specified"));
    }
    let image = containers.host().image(&image_name)?;
    let mut warnings = Vec::new();
    let (options, life) = options::of(&body, &image.config, &mut warnings)?;
    let documents = documents::of_container(&document, &image.config);
    let new = NewContainer { name, image: image_name, options, life, documents };
    let (container, notice) = blocking(move || {
        // What cannot be had is told when it is needed, at the start.
        let engine = containers.host().engine(new.life.engine).ok();
        Ok((containers.create(new)?, engine.and_then(|engine| engine.notice)))
    })
    .await?;
    let reply = ContainerCreateResponse { id: container.id().to_string(), warnings };
    let mut reply = http::json(StatusCode::CREATED, &reply)?;
    if let Some(Ok(notice)) = notice.map(|notice| HeaderValue::from_str(&notice)) {
        reply.headers_mut().insert(HeaderName::from_static(NOTICE_HEADER), notice);
    }
    Ok(reply)
}
