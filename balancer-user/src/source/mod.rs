//! Where desired state comes from. Each source only reads and reports; `state`
//! decides what is in force.

pub mod file;
pub mod kubernetes;
