//! Works on files, over a connection, in folders that stand for a container's trees.

mod changing;
mod ground;
mod hostile;
mod reading;
mod round_trip;
mod writing;
