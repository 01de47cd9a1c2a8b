//! A request that is being put together.

use std::fmt::Write as _;

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, UPGRADE, USER_AGENT};
use hyper::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::{Client, ClientError, RequestBody, Response, Upgraded, connection};

/// What is not escaped in a segment of a path or in a query (RFC 3986, "unreserved").
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How a refusal begins that is only about the version (moby, the version middleware).
const VERSION_REFUSED: &str = "client version ";

/// A name or an identifier as one segment of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

/// A request that is being put together.
#[derive(Debug)]
#[must_use]
pub struct Request<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    versioned: bool,
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Result<RequestBody, ClientError>,
}

impl<'a> Request<'a> {
    pub(super) fn new(client: &'a Client, method: Method, path: impl Into<String>) -> Request<'a> {
        Request {
            client,
            method,
            path: path.into(),
            versioned: true,
            query: String::new(),
            headers: Vec::new(),
            body: Ok(RequestBody::empty()),
        }
    }

    pub(super) fn unversioned(client: &'a Client, method: Method, path: &str) -> Request<'a> {
        Request { versioned: false, ..Request::new(client, method, path) }
    }

    /// Adds a parameter to the query.
    pub fn query(mut self, name: &str, value: impl AsRef<str>) -> Request<'a> {
        let separator = if self.query.is_empty() { '?' } else { '&' };
        let value = utf8_percent_encode(value.as_ref(), ESCAPED);
        // Writing to a string does not fail.
        let _ = write!(self.query, "{separator}{name}={value}");
        self
    }

    /// Adds a parameter if there is a value for it.
    pub fn query_if(self, name: &str, value: Option<impl AsRef<str>>) -> Request<'a> {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds `name=1` if `set`.
    pub fn flag(self, name: &str, set: bool) -> Request<'a> {
        if set { self.query(name, "1") } else { self }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends `value` as JSON.
    pub fn json(mut self, value: &impl Serialize) -> Request<'a> {
        let encoded = serde_json::to_vec(value).map_err(ClientError::Encode);
        self.body = encoded.map(|bytes| RequestBody::Whole(Bytes::from(bytes)));
        self.header(CONTENT_TYPE.as_str(), "application/json")
    }

    /// Sends a body of that type.
    pub fn body(mut self, content_type: &str, body: RequestBody) -> Request<'a> {
        self.body = Ok(body);
        self.header(CONTENT_TYPE.as_str(), content_type)
    }

    /// Makes the request. The answer's headers are there when this returns; its body comes afterwards.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a status of 400 or more is [`ClientError::Refused`].
    pub async fn send(self) -> Result<Response, ClientError> {
        self.exchange(&[]).await
    }

    /// Makes the request, and turns its connection into a stream of bytes both ways.
    ///
    /// # Errors
    ///
    /// As [`Self::send`], and [`ClientError::NotUpgraded`].
    pub async fn upgrade(self) -> Result<Upgraded, ClientError> {
        let response = self.exchange(&[(CONNECTION, "Upgrade"), (UPGRADE, "tcp")]).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Upgraded::from_answer(response.into_answer()).await,
            other => Err(ClientError::NotUpgraded(other)),
        }
    }

    /// Sends, and sends again if the daemon is older than what we speak.
    async fn exchange(mut self, further: &[(HeaderName, &str)]) -> Result<Response, ClientError> {
        let body = std::mem::replace(&mut self.body, Ok(RequestBody::empty()))?;
        let again = if self.versioned { body.again() } else { None };
        match (self.attempt(body, further).await, again) {
            (Err(refusal), Some(body)) if is_about_version(&refusal) => {
                let before = self.client.version();
                if Box::pin(self.client.negotiate()).await? == before {
                    return Err(refusal);
                }
                self.attempt(body, further).await
            }
            (result, _) => result,
        }
    }

    async fn attempt(
        &self,
        body: RequestBody,
        further: &[(HeaderName, &str)],
    ) -> Result<Response, ClientError> {
        let prefix = if self.versioned { format!("/v{}", self.client.version()) } else { String::new() };
        let mut request = hyper::Request::builder()
            .method(self.method.clone())
            .uri(format!("{prefix}{}{}", self.path, self.query))
            // What Docker's own client says to a socket.
            .header(HOST, "api.moby.localhost")
            .header(USER_AGENT, concat!("capsid/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        for (name, value) in further {
            request = request.header(name, *value);
        }
        let request = request.body(body).map_err(ClientError::Unwritable)?;
        let mut connection =
            connection::connect(self.client.endpoint(), self.client.tls.as_ref(), self.client.take_ready())
                .await?;
        let answer = connection.send_request(request).await.map_err(ClientError::Broken)?;
        Response::accept(answer, self.path.clone()).await
    }
}

fn is_about_version(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status: StatusCode::BAD_REQUEST, message }
        if message.starts_with(VERSION_REFUSED))
}
