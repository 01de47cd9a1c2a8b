//! `GET /containers/{id}/attach/ws`: attaching over a websocket (RFC 6455), raw in both directions.

use futures_util::{SinkExt, StreamExt};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::error::{ApiError, Result};
use crate::hijack::{Ended, Session, serve};
use crate::http::{self, Reply};

/// The longest message of a client's, in bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// What waits between the websocket and the session, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Answers, and serves the session in a task of its own once the answer is out.
pub(crate) fn start(
    request: Request<()>,
    session: Session,
    ended: impl FnOnce(Ended) + Send + 'static,
) -> Result<Reply> {
    let accept = accept_key(request.headers())?;
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(connection) = upgraded.await else { return ended(Ended::Over) };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let io = TokioIo::new(connection);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        let (reader, writer) = tokio::io::split(far);
        let (how, ()) = tokio::join!(serve(session, reader, writer), carry(socket, near));
        ended(how);
    });
    let mut reply = http::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    // Clients that ask for a protocol want to be told which (Docker knows none).
    Ok(reply)
}

fn accept_key(headers: &HeaderMap) -> Result<HeaderValue> {
    let is = |name: HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case(wanted)))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|_| is(UPGRADE, "websocket") && is(CONNECTION, "upgrade")) else {
        return Err(ApiError::invalid("the request is not one for a websocket"));
    };
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| ApiError::invalid("the websocket's key is invalid"))
}

/// Moves bytes between a websocket and a session until either side has ended.
async fn carry<S>(socket: WebSocketStream<S>, session: tokio::io::DuplexStream)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_session, mut to_session) = tokio::io::split(session);
    let input = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                // The library answers pings.
                _ => continue,
            };
            if to_session.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to_session.shutdown().await;
    };
    let output = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count @ 1..) = from_session.read(&mut buffer).await {
            let message = Message::Binary(buffer[..count].to_vec().into());
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        let _ = to_client.close().await;
    };
    tokio::select! {
        () = output => {}
        // A client that has closed a websocket hears nothing any more.
        () = input => {}
    }
}
