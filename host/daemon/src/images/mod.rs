//! `/images`.

pub(crate) mod list;
pub(crate) mod load;
pub(crate) mod remove;
pub(crate) mod save;
pub(crate) mod tag;
