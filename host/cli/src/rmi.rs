//! `capsid rmi`.

use capsid_image::{RemoveOptions, Removed};
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
    let mut code = 0;
    for name in &arguments.images {
        let options = RemoveOptions { force: arguments.force, in_use: in_use(state)? };
        match store.remove(name, &options) {
            Ok(removed) => removed.iter().for_each(|removed| match removed {
                Removed::Untagged(reference) => println!("Untagged: {reference}"),
                Removed::Deleted(digest) => println!("Deleted: {digest}"),
            }),
            Err(error) => {
                Failure::from(error).report();
                code = 1;
            }
        }
    }
    Ok(code)
}

/// The images of all containers.
fn in_use(state: &State) -> Result<Vec<capsid_image::InUse>, Failure> {
    let records = state.containers()?.list()?;
    Ok(records
        .into_iter()
        .filter_map(|record| {
            Some(capsid_image::InUse {
                image: record.image_id.parse().ok()?,
                container: record.id.short().to_owned(),
                running: matches!(record.state, capsid_runtime::container::ContainerState::Running { .. }),
            })
        })
        .collect())
}
