//! Sparse files: the maps of GNU tar's formats.

use super::error::EntryProblem;
use super::{Entry, TarError, TarInput, TarReader};
use crate::escape::EscapedName;

/// A stretch of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The stretches in order, without overlap, inside the file.
pub(crate) type SparseMap = Vec<Extent>;

impl<R: TarInput> TarReader<'_, R> {
    /// Reads the map of a sparse entry and corrects the entry's size and name by it.
    pub(super) fn read_sparse_map(
        &mut self,
        entry: &mut Entry,
        _kind: u8,
        _records: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), TarError> {
        let entry = EscapedName::new(&entry.path);
        Err(TarError::Entry { entry, problem: EntryProblem::SparseMap })
    }
}
