//! Containers: from an image to a process in a sandbox.
