//! What this version can act on, among the words that the contract knows.
//!
//! The one table to open up when a strategy, an admission or a source is built.

use super::Source;
use crate::model::{Admission, Strategy};

/// Where services may come from.
pub(crate) const SOURCES: &[Source] = &[Source::File, Source::Kubernetes];

/// Strategies that the kernel programs and the agent have.
pub(crate) const STRATEGIES: &[Strategy] = Strategy::ALL;

/// Admissions that the kernel programs and the agent have.
pub(crate) const ADMISSIONS: &[Admission] = &[Admission::Connection, Admission::Request];
