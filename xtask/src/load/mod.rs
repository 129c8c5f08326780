//! Load for one-request-at-a-time servers, the same for every way of steering it, and what it
//! would come to at one central queue.
//!
//! | part | does |
//! |---|---|
//! | `arrivals` | draws the load: when requests arrive, and how long each takes |
//! | `sender` | sends it, open loop, and measures |
//! | `request` | one request, on its own connection or a kept one |
//! | `measured` | what became of requests |
//! | `central` | the ideal to compare with: one queue before all servers |
//! | `excess` | whether one refused more than the other, beyond noise |
//!
//! Called by `demo` and `bench`.

mod arrivals;
mod central;
mod excess;
mod measured;
mod request;
mod sender;

pub(crate) use self::{
    arrivals::{Arrival, Load},
    central::CentralQueue,
    excess::Excess,
    measured::{LATE, Measured, Outcome, Tally},
    request::End,
    sender::{Aim, Connections, Sender},
};
