//! `/containers`.

pub(crate) mod attach;
pub(crate) mod create;
mod documents;
pub(crate) mod files;
pub(crate) mod inspect;
pub(crate) mod life;
pub(crate) mod list;
pub(crate) mod logs;
mod network;
mod options;
mod signals;
pub(crate) mod stats;
mod status;
pub(crate) mod top;
pub(crate) mod update;

pub(crate) use options::process_options;
