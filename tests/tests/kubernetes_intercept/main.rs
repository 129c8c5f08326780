//! `source: kubernetes` and pods: what dials a pod of a Service with `idlefirst.dev/intercept: pods`
//! is steered, whoever is in no pod is not, nor is a pod with the label `idlefirst.dev/bypass`.
//!
//! Clients are in cgroups that are laid out and named as on a node, with either driver.

#![forbid(unsafe_code)]

mod bypass;
mod node;
mod steered;
