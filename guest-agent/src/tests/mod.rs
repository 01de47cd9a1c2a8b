//! The server, whole, with socket pairs for vsock and this machine's `sh` for a container. No root, no machine.

mod host;
mod requests;
mod streams;
mod workers;
