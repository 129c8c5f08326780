//! Prometheus metrics: read from the kernel at each scrape, so they restart with the maps and
//! never lag behind them.
//!
//! `definition` says what there is; `read`, `requests`, `strategies` and `upkeep` where the values come from;
//! docs/metrics.md is made from the first. Labels are bounded: see [`MAX_SHOWN`]. Served by `admin`.

mod definition;
mod family;
mod read;
mod requests;
mod strategies;
mod upkeep;

use prometheus::TextEncoder;

pub use definition::{Definition, Kind, METRICS, reference_markdown};

use crate::{admin::Context, kernel::KernelError, state::Snapshot};

/// The media type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Services, and backends, that are shown one by one: the first so many by name or address. How
/// many are left out is a metric itself.
pub const MAX_SHOWN: usize = 1000;

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A map could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The text could not be made.
    #[error("cannot write metrics as text: {0}")]
    Encode(#[from] prometheus::Error),
}

/// Every metric that has a value, as text.
///
/// # Errors
/// If a map cannot be read.
pub fn render(context: &Context, snapshot: &Snapshot) -> Result<String, MetricsError> {
    let families = read::families(context, snapshot)?;
    Ok(TextEncoder::new().encode_to_string(&families)?)
}

#[cfg(test)]
mod tests;
