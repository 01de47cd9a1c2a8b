//! Connections to the agent's port: through the monitor's socket, up to the answer to the opening.

use std::io;
use std::path::Path;

use capsid_protocol::{
    AGENT_PORT, FRAME_HEADER_BYTES, Opening, OpeningReply, RequestId, decode_body, decode_header,
    encode_frame,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::AgentError;

/// The longest answer to `CONNECT`: `OK 4294967295\n`.
const MAX_CONNECT_ANSWER: usize = 32;

/// Connects to the agent's port and makes the opening.
pub(super) async fn open(socket: &Path, opening: &Opening) -> Result<(UnixStream, OpeningReply), AgentError> {
    let mut stream = dial(socket, AGENT_PORT).await.map_err(AgentError::Connection)?;
    let frame = encode_frame(RequestId(0), opening).map_err(AgentError::Protocol)?;
    stream.write_all(&frame).await.map_err(AgentError::Connection)?;
    let (_, reply) = read_message(&mut stream).await?;
    Ok((stream, reply))
}

/// Connects to a port of the guest through the monitor's socket.
async fn dial(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(MAX_CONNECT_ANSWER);
    loop {
        // A byte at a time: what follows the line belongs to the stream.
        let byte = stream.read_u8().await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the guest refused the connection"),
            _ => error,
        })?;
        if byte == b'\n' {
            break;
        }
        answer.push(byte);
        if answer.len() >= MAX_CONNECT_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the monitor's answer is too long"));
        }
    }
    if answer.starts_with(b"OK ") {
        Ok(stream)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the monitor's answer is not OK"))
    }
}

/// Reads one frame.
pub(super) async fn read_message<M: DeserializeOwned>(
    reader: &mut (impl AsyncReadExt + Unpin),
) -> Result<(RequestId, M), AgentError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    reader.read_exact(&mut header).await.map_err(ended_or_failed)?;
    let (id, length) = decode_header(header).map_err(AgentError::Protocol)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.map_err(ended_or_failed)?;
    Ok((id, decode_body(&body).map_err(AgentError::Protocol)?))
}

fn ended_or_failed(error: io::Error) -> AgentError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => AgentError::Ended,
        _ => AgentError::Connection(error),
    }
}
