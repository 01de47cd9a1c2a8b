//! Waiting for a container's end.

use std::io;

use capsid_api::client::{Client, ClientError, segment};
use capsid_api::extensions::EndNotes;
use capsid_api::models::ContainerWaitExitError;
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::failure::OUR_FAILURE;

/// A wait that the daemon has begun: an end from now on is not missed.
#[derive(Debug)]
pub(super) struct Waiting {
    end: JoinHandle<Result<End, ClientError>>,
}

/// How a container ended.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct End {
    status_code: i64,
    error: Option<ContainerWaitExitError>,
    /// What Docker has no words for.
    pub(super) capsid: EndNotes,
}

impl Waiting {
    /// Begins to wait: for `next-exit`, `not-running` or `removed`.
    pub(super) async fn begin(client: &Client, id: &str, condition: &str) -> Result<Waiting, ClientError> {
        let request = client.post(format!("/containers/{}/wait", segment(id))).query("condition", condition);
        let answer = request.send().await?;
        Ok(Waiting { end: tokio::spawn(answer.json()) })
    }

    /// The end; not to be asked for again after it. Dropping the future loses nothing.
    pub(super) async fn end(&mut self) -> Result<End, ClientError> {
        match (&mut self.end).await {
            Ok(end) => end,
            Err(error) => Err(ClientError::Stream(io::Error::other(error))),
        }
    }
}

impl End {
    /// The exit code; ours where the daemon cannot tell.
    pub(super) fn code(&self) -> u8 {
        let failed = self.error.is_some() && self.status_code == 0;
        if failed { OUR_FAILURE } else { u8::try_from(self.status_code).unwrap_or(u8::MAX) }
    }

    /// Tells a person what the code does not.
    pub(super) fn tell(&self) {
        for notice in &self.capsid.notices {
            eprintln!("capsid: {notice}");
        }
        let message = self.error.as_ref().and_then(|error| error.message.as_deref()).unwrap_or_default();
        if !message.is_empty() && !self.capsid.notices.iter().any(|notice| notice.contains(message)) {
            eprintln!("capsid: {message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_with_what_is_ours_and_without() {
        let end: End = serde_json::from_str(r#"{"StatusCode":3,"Error":null}"#).unwrap();
        assert_eq!((end.code(), end.capsid), (3, EndNotes::default()));
        let text = r#"{"StatusCode":0,"Error":{"Message":"lost"},"Capsid":{"Notices":["x"],"Engine":"kvm","Timeline":[]}}"#;
        let end: End = serde_json::from_str(text).unwrap();
        assert_eq!((end.code(), end.capsid.engine.as_str()), (OUR_FAILURE, "kvm"));
    }
}
