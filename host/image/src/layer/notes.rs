//! What is kept beside a converted layer: its sizes, and what only matters together with other layers.

use serde::{Deserialize, Serialize};

use crate::erofs::{Content, NodeId, ROOT, Tree};

/// Changes whenever the converter writes something else for the same layer, so that old files are not reused.
pub(crate) const FORMAT: u32 = 1;

/// The sidecar of one layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// [`FORMAT`] of the converter that wrote the layer.
    pub(crate) format: u32,
    /// The tar stream's size.
    pub(crate) tar_bytes: u64,
    /// All files' sizes together, as Docker counts an image's size.
    pub(crate) content_bytes: u64,
    /// The EROFS image's size.
    pub(crate) image_bytes: u64,
    /// Its inodes.
    pub(crate) inodes: u64,
    /// The layer hides everything below it. overlayfs does not look for that mark on a layer's root.
    pub(crate) opaque_root: bool,
    /// Folders that no entry describes; a lower layer may know their attributes.
    pub(crate) implicit: Vec<PathText>,
    /// Folders with whiteouts in them. overlayfs lists those as files unless it merges the folder with another.
    pub(crate) whiteouts: Vec<PathText>,
}

/// A path of any bytes as JSON text: each byte is the character of its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PathText(String);

impl PathText {
    pub(crate) fn new(bytes: &[u8]) -> PathText {
        PathText(bytes.iter().map(|&byte| char::from(byte)).collect())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.chars().filter_map(|letter| u8::try_from(letter).ok()).collect()
    }
}

impl Notes {
    /// Fills in what the finished tree says.
    pub(super) fn describe(&mut self, tree: &Tree) {
        self.format = FORMAT;
        self.opaque_root = tree.directory(ROOT).is_some_and(|root| root.opaque);
        let mut waiting: Vec<(Vec<u8>, NodeId)> = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = waiting.pop() {
            let Some(directory) = tree.directory(id) else { continue };
            let mut hides = false;
            for (name, &child) in &directory.children {
                match &tree.node(child).content {
                    Content::Directory(_) if path.is_empty() => waiting.push((name.to_vec(), child)),
                    Content::Directory(_) => waiting.push(([path.as_slice(), b"/", name].concat(), child)),
                    content => hides |= content.is_whiteout(),
                }
            }
            if hides {
                self.whiteouts.push(PathText::new(&path));
            }
            if directory.implicit {
                self.implicit.push(PathText::new(&path));
            }
        }
    }
}
