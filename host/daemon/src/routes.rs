//! The table of the API: method and path, and who answers.

use std::convert::Infallible;
use std::sync::Arc;

use capsid_api::version::{ApiVersion, NEWEST, OLDEST};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::error::{ApiError, Result};
use crate::http::{self, Reply, RequestBody};
use crate::query::Query;
use crate::server::Server;
use crate::{containers, exec, images, metrics, system, usage};

/// A request taken apart.
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) version: ApiVersion,
    pub(crate) query: Query,
    /// Without its body.
    pub(crate) head: Request<()>,
    pub(crate) body: RequestBody,
}

/// Answers a request, whatever it is.
pub(crate) async fn answer(
    server: Arc<Server>,
    request: Request<Incoming>,
) -> std::result::Result<Reply, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_head = method == Method::HEAD;
    let (parts, body) = request.into_parts();
    let body = RequestBody::new(body);
    let answered = dispatch(Arc::clone(&server), Request::from_parts(parts, ()), body.clone()).await;
    let mut reply = match answered {
        Ok(reply) => reply,
        Err(error) => {
            body.drain().await;
            if error.status.is_server_error() {
                tracing::warn!(%method, path, status = error.status.as_u16(), "{}", error.message);
            }
            http::error(&error)
        }
    };
    tracing::debug!(%method, path, status = reply.status().as_u16(), "answered");
    server.answers.count(reply.status());
    let headers = reply.headers_mut();
    for (name, value) in [
        ("api-version", NEWEST.to_string()),
        ("docker-experimental", "false".to_owned()),
        ("ostype", "linux".to_owned()),
        ("server", concat!("capsid/", env!("CARGO_PKG_VERSION"), " (linux)").to_owned()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if is_head {
        headers.remove("content-type");
    }
    Ok(reply)
}

async fn dispatch(server: Arc<Server>, request: Request<()>, body: RequestBody) -> Result<Reply> {
    let path = request.uri().path().to_owned();
    let (version, rest) = split_version(&path)?;
    let segments = decode(rest)?;
    let query = Query::parse(request.uri().query());
    let method = request.method().clone();
    let call = Call { server, version, query, head: request, body };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.split_first() {
        Some((&"containers", rest)) => containers_table(call, &method, rest).await,
        Some((&"exec", rest)) => exec_table(call, &method, rest).await,
        Some((&"images", rest)) => images_table(call, &method, rest).await,
        _ => system_table(call, &method, &segments).await,
    }
}

async fn containers_table(call: Call, method: &Method, path: &[&str]) -> Result<Reply> {
    match (method.as_str(), path) {
        ("GET", ["json"]) => containers::list::list(&call),
        ("POST", ["create"]) => containers::create::create(call).await,
        ("POST", ["prune"]) => containers::life::prune(&call).await,
        ("DELETE", [id]) => containers::life::remove(&call, id).await,
        ("GET", [id, "json"]) => containers::inspect::inspect(&call, id).await,
        ("POST", [id, "start"]) => containers::life::start(&call, id).await,
        ("POST", [id, "stop"]) => containers::life::stop(&call, id).await,
        ("POST", [id, "restart"]) => containers::life::restart(&call, id).await,
        ("POST", [id, "kill"]) => containers::life::kill(&call, id).await,
        ("POST", [id, "pause"]) => containers::life::pause(&call, id).await,
        ("POST", [id, "unpause"]) => containers::life::unpause(&call, id).await,
        ("POST", [id, "rename"]) => containers::life::rename(&call, id).await,
        ("POST", [id, "update"]) => containers::update::update(call, id).await,
        ("POST", [id, "wait"]) => containers::life::wait(&call, id),
        ("POST", [id, "resize"]) => containers::life::resize(&call, id).await,
        ("POST", [id, "attach"]) => containers::attach::attach(call, id).await,
        ("GET", [id, "attach", "ws"]) => containers::attach::attach_websocket(call, id).await,
        ("HEAD", [id, "archive"]) => containers::files::stat(&call, id).await,
        ("GET", [id, "archive"]) => containers::files::read(&call, id).await,
        ("PUT", [id, "archive"]) => containers::files::write(call, id).await,
        ("GET", [id, "changes"]) => containers::files::changes(&call, id).await,
        ("GET", [id, "export"]) => containers::files::export(&call, id).await,
        ("GET", [id, "top"]) => containers::top::top(&call, id).await,
        ("GET", [id, "stats"]) => containers::stats::stats(&call, id).await,
        ("GET", [id, "logs"]) => containers::logs::logs(&call, id),
        ("POST", [id, "exec"]) => exec::create(call, id).await,
        _ => Err(missing(method, path)),
    }
}

async fn exec_table(call: Call, method: &Method, path: &[&str]) -> Result<Reply> {
    match (method.as_str(), path) {
        ("POST", [id, "start"]) => exec::start(call, id).await,
        ("POST", [id, "resize"]) => exec::resize(&call, id).await,
        ("GET", [id, "json"]) => exec::inspect(&call, id),
        _ => Err(missing(method, path)),
    }
}

/// An image's name may hold slashes, so the last segment decides.
async fn images_table(call: Call, method: &Method, path: &[&str]) -> Result<Reply> {
    match (method.as_str(), path) {
        ("GET", ["json"]) => images::list::list(&call),
        ("POST", ["load"]) => images::load::load(call).await,
        ("POST", ["prune"]) => images::remove::prune(&call).await,
        ("GET", ["get"]) => {
            let names = call.query.all("names").map(str::to_owned).collect();
            images::save::get(&call, names).await
        }
        ("GET", [name @ .., "json"]) if !name.is_empty() => images::list::inspect(&call, &name.join("/")),
        ("GET", [name @ .., "history"]) if !name.is_empty() => images::list::history(&call, &name.join("/")),
        ("GET", [name @ .., "get"]) if !name.is_empty() => {
            images::save::get(&call, vec![name.join("/")]).await
        }
        ("POST", [name @ .., "tag"]) if !name.is_empty() => images::tag::tag(&call, name.join("/")).await,
        ("DELETE", name) if !name.is_empty() => images::remove::remove(&call, name.join("/")).await,
        ("POST", ["create"]) => Err(ApiError::unsupported("pulling and importing images is")),
        ("GET", ["search"]) | ("POST", [_, .., "push"]) => Err(ApiError::unsupported("registries are")),
        _ => Err(missing(method, path)),
    }
}

async fn system_table(call: Call, method: &Method, path: &[&str]) -> Result<Reply> {
    match (method.as_str(), path) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping()),
        ("GET", ["version"]) => system::version(),
        ("GET", ["info"]) => system::info(&call),
        ("GET", ["events"]) => system::events(&call),
        ("GET", ["metrics"]) => metrics::metrics(&call),
        ("GET", ["system", "df"]) => usage::df(&call).await,
        (_, [first, ..]) => Err(not_here(first).unwrap_or_else(|| missing(method, path))),
        _ => Err(missing(method, path)),
    }
}

/// What Docker has and capsid has not yet.
fn not_here(first: &str) -> Option<ApiError> {
    let what = match first {
        "networks" => "networks are",
        "volumes" => "volumes are",
        "build" | "session" | "grpc" => "building images is",
        "swarm" | "services" | "nodes" | "tasks" | "secrets" | "configs" => "swarm mode is",
        "plugins" => "plugins are",
        "auth" | "distribution" => "registries are",
        "commit" => "committing containers is",
        _ => return None,
    };
    Some(ApiError::unsupported(what))
}

fn missing(_method: &Method, _path: &[&str]) -> ApiError {
    ApiError::not_found("page not found")
}

/// Takes `/v1.41` off a path. A path without a version is served as the newest.
fn split_version(path: &str) -> Result<(ApiVersion, &str)> {
    let Some(rest) = path.strip_prefix("/v") else { return Ok((NEWEST, path)) };
    let (text, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // `/version` and `/volumes` start alike.
    let Ok(version) = text.parse::<ApiVersion>() else { return Ok((NEWEST, path)) };
    if version > NEWEST {
        let message =
            format!("client version {version} is too new. Maximum supported API version is {NEWEST}");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    if version < OLDEST {
        let message = format!(
            "client version {version} is too old. Minimum supported API version is {OLDEST}, please upgrade your \
             client to a newer version"
        );
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    Ok((version, rest))
}

/// Decodes each segment by itself, so that an encoded slash is none.
fn decode(path: &str) -> Result<Vec<String>> {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let decoded = segments.map(|segment| {
        let text = percent_decode_str(segment).decode_utf8();
        let text = text.map_err(|_| ApiError::invalid("the path is not UTF-8"))?;
        if text.contains('\0') {
            return Err(ApiError::invalid("the path holds a NUL"));
        }
        Ok(text.into_owned())
    });
    decoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off_and_bounded() {
        assert_eq!(split_version("/v1.41/info").unwrap().1, "/info");
        assert_eq!(split_version("/version").unwrap(), (NEWEST, "/version"));
        assert_eq!(split_version("/volumes").unwrap().1, "/volumes");
        assert_eq!(split_version("/v1.50").unwrap().1, "");
        for bad in ["/v1.23/info", "/v1.51/info", "/v0.1/x", "/v2.0/x"] {
            assert_eq!(split_version(bad).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn an_encoded_slash_stays_in_its_segment() {
        assert_eq!(decode("/containers/a%2Fb/json").unwrap(), ["containers", "a/b", "json"]);
        assert!(decode("/containers/%ff/json").is_err() && decode("/a%00").is_err());
    }
}
