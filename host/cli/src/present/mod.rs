//! How things are shown: templates, tables, times and sizes, in the forms that Docker's users and scripts know.

pub(crate) mod list;
pub(crate) mod progress;
pub(crate) mod sizes;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod times;
pub(crate) mod value;
