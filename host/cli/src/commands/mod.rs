//! The verbs: each parses, calls and prints.

pub(crate) mod confirm;
pub(crate) mod container;
pub(crate) mod daemon;
pub(crate) mod documents;
pub(crate) mod each;
pub(crate) mod image;
pub(crate) mod system;

use std::sync::Arc;

use capsid_api::client::Client;

use crate::connection::{self, Target};
use crate::failure::Failure;
use crate::options::{Arguments, Verb};

/// What every verb is given.
#[derive(Debug)]
pub(crate) struct Call {
    target: Target,
    /// When this process started, in microseconds of the host's clock.
    started_us: u64,
}

impl Call {
    /// A client of the daemon.
    async fn connect(&self) -> Result<Arc<Client>, Failure> {
        self.target.connect().await
    }
}

/// Does what the command line asks for. The result is the exit code.
pub(crate) fn call(arguments: Arguments, started_us: u64) -> Result<u8, Failure> {
    let call = Call { target: arguments.target(), started_us };
    match arguments.verb {
        Verb::Daemon(arguments) => Err(daemon::run(&arguments)),
        Verb::BecomeDaemon { command } => Err(connection::become_daemon(&command)),
        Verb::Completion(arguments) => documents::completion(&arguments),
        Verb::Manual(arguments) => documents::manual(&arguments),
        verb => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let code = runtime.block_on(dispatch(verb, &call));
            // Threads that are blocked (the one that reads the terminal) end with the process.
            runtime.shutdown_background();
            code
        }
    }
}

async fn dispatch(verb: Verb, call: &Call) -> Result<u8, Failure> {
    match verb {
        Verb::Container(verb) => container::call(verb, call).await,
        Verb::ContainerGroup(verb) => container::call_group(verb, call).await,
        Verb::Ps(arguments) => container::ls::list(&arguments, call).await,
        Verb::Image(verb) => image::call(verb, call).await,
        Verb::ImageGroup(verb) => image::call_group(verb, call).await,
        Verb::Images(arguments) => image::ls::list(&arguments, call).await,
        Verb::Rmi(arguments) => image::rm::remove(&arguments, call).await,
        Verb::Inspect(arguments) => system::inspect::inspect(&arguments, call).await,
        Verb::System(verb) => system::call(verb, call).await,
        Verb::SystemGroup(verb) => system::call_group(verb, call).await,
        Verb::Version(arguments) => system::version::version(&arguments, call).await,
        // These never return, or have been dealt with.
        Verb::Daemon(_) | Verb::BecomeDaemon { .. } | Verb::Completion(_) | Verb::Manual(_) => Ok(0),
    }
}
