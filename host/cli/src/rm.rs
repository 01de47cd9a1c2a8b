//! `capsid rm`.

use clap::Args;

use crate::failure::Failure;
use crate::state::State;

/// Words of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArguments {
    /// The containers, by name or identifier
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes each container that does not run; one that cannot be removed does not keep the others.
pub(crate) fn rm(arguments: &RmArguments, state: &State) -> Result<u8, Failure> {
    let store = state.containers()?;
    let mut code = 0;
    for reference in &arguments.containers {
        let removed =
            store.find(reference).and_then(|record| store.hold(&record)).and_then(|held| held.remove());
        match removed {
            Ok(()) => println!("{reference}"),
            Err(error) => {
                Failure::from(error).report();
                code = 1;
            }
        }
    }
    Ok(code)
}
