//! What the user can choose: the load, the servers, the queue, the way of showing. Called by `mod`.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::strategy::Strategy;
use crate::load::{CentralQueue, Load};

/// What the demo shows.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What takes a slot: a connection until it ends, or one request on a connection that is kept
    #[arg(long, value_enum, default_value_t = Admission::Connection)]
    pub(super) admission: Admission,
    /// How a pod is chosen among those that have a slot
    #[arg(long, value_enum, default_value_t = Strategy::IdleFirst)]
    pub(super) strategy: Strategy,
    /// How long the load goes on, for each of the two ways of steering
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
    /// Function servers
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=250))]
    pub(super) backends: u16,
    /// Requests that each of them serves at once [default: 1; 10 where a full server would hide
    /// what the strategy does; with a leader, as many as there are servers]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65535))]
    max_inflight: Option<u32>,
    /// Requests per second, over all clients
    #[arg(long, default_value_t = 160.0, allow_negative_numbers = true, value_parser = |text: &str| positive(text, 20_000.0))]
    pub(super) rate: f64,
    /// Mean time that a request takes, in milliseconds
    #[arg(long, default_value_t = 50.0, allow_negative_numbers = true, value_parser = |text: &str| positive(text, 60_000.0))]
    pub(super) work_ms: f64,
    /// Requests that may wait for a slot
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(super) queue_size: u32,
    /// How long each of them may wait, in milliseconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=3_600_000))]
    pub(super) queue_timeout_ms: u32,
    /// Print one JSON object as the last line; the live view goes to standard error
    #[arg(long)]
    pub(super) json: bool,
    /// Leave everything running at the end until Ctrl-C, and print how to look at it
    #[arg(long)]
    pub(super) keep: bool,
    /// Of the random arrivals: the same seed gives the same load
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// The demo's own: be the clients instead
    #[arg(long, hide = true, value_name = "TASK")]
    pub(super) as_client: Option<String>,
}

/// What takes a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Admission {
    Connection,
    Request,
}

impl Admission {
    /// As it stands in the configuration.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
        }
    }
}

impl Options {
    pub(super) fn load(&self) -> Load {
        Load {
            seed: self.seed,
            rate: self.rate,
            duration: self.duration(),
            mean_work: self.mean_work(),
        }
    }

    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(super) fn mean_work(&self) -> Duration {
        Duration::from_secs_f64(self.work_ms / 1000.0)
    }

    /// Requests that each of the servers serves at once.
    pub(super) fn max_inflight(&self) -> u32 {
        self.max_inflight
            .unwrap_or_else(|| self.strategy.max_inflight(self.backends))
    }

    /// The share of what the servers can do that the load asks for.
    pub(super) fn utilisation(&self) -> f64 {
        self.rate * self.work_ms / 1000.0 / self.slots() as f64
    }

    /// The service's queue, as it stands in the configuration.
    pub(super) fn queue(&self) -> Value {
        let timeout = format!("{}ms", self.queue_timeout_ms);
        json!({"size": self.queue_size, "timeout": timeout})
    }

    /// One queue with the same limits before all the slots that may be used at a time.
    pub(super) fn central_queue(&self) -> CentralQueue {
        let timeout = Duration::from_millis(self.queue_timeout_ms.into());
        CentralQueue::new(self.slots(), self.queue_size as usize, timeout)
    }

    fn slots(&self) -> usize {
        usize::from(self.strategy.serving(self.backends)) * self.max_inflight() as usize
    }
}

fn positive(text: &str, at_most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number <= at_most {
        Ok(number)
    } else {
        Err(format!("must be above 0 and at most {at_most}"))
    }
}
