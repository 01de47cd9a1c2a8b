//! `capsid rmi`.

use capsid_image::{Digest, ImageUse, RemoveOptions};
use capsid_runtime::container::ContainerState;
use capsid_runtime::store::ContainerStore;
use clap::Args;

use crate::failure::Failure;
use crate::state::State;

/// Flags of `rmi`.
#[derive(Debug, Args)]
pub(crate) struct RmiArguments {
    /// Remove even if stopped containers use the image, or several names do
    #[arg(short, long)]
    force: bool,
    /// The images, by name or identifier
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes each image; one that cannot be removed does not keep the others.
pub(crate) fn rmi(arguments: &RmiArguments, state: &State) -> Result<u8, Failure> {
    let store = state.images()?;
    let containers = state.containers()?;
    let mut code = 0;
    for name in &arguments.images {
        // Asked while the store of images is locked: a container that is being made is seen, or comes too late.
        let in_use = |image: &Digest| uses(&containers, image);
        match store.remove(name, &RemoveOptions { force: arguments.force, in_use: &in_use }) {
            Ok(removed) => removed.iter().for_each(|removed| println!("{removed}")),
            Err(error) => {
                Failure::from(error).report();
                code = 1;
            }
        }
    }
    Ok(code)
}

/// The containers of one image. When they cannot be listed, something uses it.
fn uses(containers: &ContainerStore, image: &Digest) -> Vec<ImageUse> {
    let id = image.to_string();
    match containers.list() {
        Ok(records) => records
            .into_iter()
            .filter(|record| record.image_id == id)
            .map(|record| ImageUse {
                container: record.id.short().to_owned(),
                running: matches!(record.state, ContainerState::Running { .. }),
            })
            .collect(),
        Err(_) => vec![ImageUse { container: "(unknown)".to_owned(), running: true }],
    }
}
