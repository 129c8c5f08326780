//! A client process for tests that kill clients: asks the frontends given for an answer, one after
//! the other, for ever. A refused connect is tried again; anything else ends it with an error.
//!
//! Started by the tests of limits.

use std::{env, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    crowd::{Outcome, exchange},
    exact::Request,
};

/// After a refusal, so that servers get the processor.
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> Result<()> {
    let frontends = env::args()
        .skip(1)
        .map(|text| text.parse().context("an argument is not IP:PORT"))
        .collect::<Result<Vec<SocketAddr>>>()?;
    ensure!(!frontends.is_empty(), "name frontends as IP:PORT");
    loop {
        for frontend in &frontends {
            match exchange(*frontend, Request::Answer)? {
                Outcome::Served => {}
                Outcome::Refused => thread::sleep(PAUSE),
                Outcome::Unsteered => anyhow::bail!("{frontend} is not steered"),
            }
        }
    }
}
