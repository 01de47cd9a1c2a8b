//! One verb for several things: one that fails does not keep the others.

use std::sync::Arc;

use capsid_api::client::{Client, ClientError};

use crate::failure::{Failure, chain};
use crate::present::list::print;

/// Does something to each, all at once, and prints what came of each in their order.
pub(crate) async fn each<F, R>(client: &Arc<Client>, names: &[String], act: F) -> Result<u8, Failure>
where
    F: Fn(Arc<Client>, String) -> R,
    R: Future<Output = Result<String, ClientError>> + Send + 'static,
{
    let tasks: Vec<_> =
        names.iter().map(|name| tokio::spawn(act(Arc::clone(client), name.clone()))).collect();
    let mut code = 0;
    for task in tasks {
        match task.await? {
            Ok(text) => print(&format!("{text}\n"))?,
            Err(error) => {
                eprintln!("{}", chain(&error));
                code = 1;
            }
        }
    }
    Ok(code)
}
