//! Finds the artifacts, starts what a test needs, and says why when it cannot.
