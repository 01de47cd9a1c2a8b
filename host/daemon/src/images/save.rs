//! `GET /images/get` and `GET /images/{name}/get`.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use capsid_image::{ResolveError, SaveError};
use capsid_runtime::events::EventKind;
use tokio::sync::mpsc;

use crate::error::{ApiError, Result, blocking, internal};
use crate::http::{self, CLIENT_PATIENCE, Reply};
use crate::routes::Call;

/// How much of an archive is sent at once.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) async fn get(call: &Call, names: Vec<String>) -> Result<Reply> {
    let place = call.server.transfer()?;
    let host = Arc::clone(call.server.containers.host());
    let prepared = blocking({
        let host = Arc::clone(&host);
        move || Ok((host.images.save(&names).map_err(|error| refused(&error))?, names))
    });
    let (saved, names) = prepared.await?;
    let (sender, reply) = http::streamed_archive();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let output = Output { sender: sender.clone(), piece: Vec::with_capacity(PIECE_BYTES) };
        match saved.write(output) {
            Ok(()) => {
                for name in names {
                    let attributes = std::collections::BTreeMap::from([("name".to_owned(), name.clone())]);
                    host.events.tell(EventKind::Image, "save", name, attributes);
                }
            }
            // The connection breaks off, so that nobody takes this for the whole; no thread waits for that.
            Err(error) => {
                let broken = async move { sender.send(Err(io::Error::other(error))).await };
                tokio::runtime::Handle::current().spawn(broken);
            }
        }
    });
    Ok(reply)
}

fn refused(error: &SaveError) -> ApiError {
    match error {
        SaveError::Resolve(ResolveError::NotFound(_)) => ApiError::not_found(error.to_string()),
        SaveError::Resolve(ResolveError::Ambiguous(_)) | SaveError::TooMany => {
            ApiError::invalid(error.to_string())
        }
        _ => internal(error),
    }
}

/// A response's body as something that can be written to, by a thread that may wait.
struct Output {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = tokio::time::timeout(CLIENT_PATIENCE, self.sender.send(Ok(piece.into())));
        match tokio::runtime::Handle::current().block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
