//! An OCI layout in a folder, on its way to a daemon as an archive.

use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use capsid_api::client::BodySender;

use crate::archive::BodyWriter;
use crate::archive::pack::pack as pack_tree;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// Packs what is in the folder.
pub(super) fn pack(folder: &Path, sender: BodySender) -> io::Result<()> {
    let output = BufWriter::with_capacity(PIECE_BYTES, BodyWriter::new(sender, Arc::default()));
    match pack_tree(folder, None, true, output) {
        // The daemon has heard enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
