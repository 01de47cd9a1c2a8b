//! Bodies of one JSON value after the other: events, statistics, progress.

use std::marker::PhantomData;

use bytes::BytesMut;
use serde::de::DeserializeOwned;

use super::{ClientError, Response};

/// The longest value that is taken, in bytes.
const LONGEST_VALUE: usize = 16 << 20;

/// Values as they come.
#[derive(Debug)]
pub struct JsonStream<T> {
    response: Response,
    path: String,
    /// What came and is not a whole value yet.
    rest: BytesMut,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonStream<T> {
    pub(super) fn new(response: Response, path: String) -> JsonStream<T> {
        JsonStream { response, path, rest: BytesMut::new(), values: PhantomData }
    }

    /// The next value; nothing at the body's end. Dropping the future loses nothing: the next call goes on.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(value) = self.take_value()? {
                return Ok(Some(value));
            }
            if self.rest.len() > LONGEST_VALUE {
                return Err(ClientError::TooLong { path: self.path.clone(), limit: LONGEST_VALUE });
            }
            match self.response.chunk().await? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None if self.rest.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => {
                    // What is left is no whole value, so that this fails.
                    let source = match serde_json::from_slice::<T>(&self.rest) {
                        Err(source) => source,
                        Ok(value) => return Ok(Some(value)),
                    };
                    self.rest.clear();
                    return Err(ClientError::Malformed { path: self.path.clone(), source });
                }
            }
        }
    }

    fn take_value(&mut self) -> Result<Option<T>, ClientError> {
        let mut values = serde_json::Deserializer::from_slice(&self.rest).into_iter::<T>();
        let value = match values.next() {
            None => return Ok(None),
            Some(Ok(value)) => value,
            Some(Err(error)) if error.is_eof() => return Ok(None),
            Some(Err(source)) => return Err(ClientError::Malformed { path: self.path.clone(), source }),
        };
        let used = values.byte_offset();
        let _ = self.rest.split_to(used);
        Ok(Some(value))
    }
}
