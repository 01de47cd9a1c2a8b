//! Values of flags: sizes, limits, settings, mounts. Pure: text in, the API's values or a reason out.

pub(crate) mod environment;
pub(crate) mod filters;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod ports;
