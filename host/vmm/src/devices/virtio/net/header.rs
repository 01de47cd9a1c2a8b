//! What is before each frame in a ring (virtio 1.2, 5.1.6).

/// Its size, the number of buffers always included (5.1.6.1).
pub(super) const HEADER_BYTES: usize = 12;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

/// A checksum that the device is to complete: of everything from `start` on, put `offset` bytes behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) start: u16,
    pub(super) offset: u16,
}

/// What of a transmitted frame's header is of interest. Segmentation is not offered, so it is not asked for.
pub(super) fn partial_checksum(header: [u8; HEADER_BYTES]) -> Option<Partial> {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    (header[0] & NEEDS_CSUM != 0).then(|| Partial { start: word(6), offset: word(8) })
}

/// The header of a received frame. With `checked` the guest need not look at its checksums: the host's kernel has, and
/// what came through a socket since then is as it was.
pub(super) fn received(buffers: u16, checked: bool) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = if checked { DATA_VALID } else { 0 };
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    header
}
