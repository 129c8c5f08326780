//! What is between clients and backends.

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{BY_CONNECTION, BY_REQUEST, Soak, load};
use crate::place;

const LASTS: Duration = Duration::from_secs(2);
/// Those who connect only to reset.
const STORMERS: u64 = 4;

/// One packet in twenty, both ways.
const DROP: &str = "table inet soak {
    chain in { type filter hook input priority 0; numgen random mod 20 == 0 drop
    }
    chain out { type filter hook output priority 0; oifname eth0 numgen random mod 20 == 0 drop
    }
}
";
/// The first packet of every fourth connection, which is sent again after a second.
const LATE_CONNECTS: &str = "table inet soak {
    chain out { type filter hook output priority 0; tcp flags & (syn | ack) == syn numgen random mod 4 == 0 drop
    }
}
";
const NO_MORE: &str = "delete table inet soak
";

pub(super) fn reset_storm(soak: &Soak) -> Result<()> {
    let ends = Instant::now() + LASTS;
    storm(soak, &[BY_CONNECTION, BY_REQUEST], || {
        Ok(Instant::now() < ends)
    })
}

/// Connects and resets for as long as it is to go on.
pub(super) fn storm(
    soak: &Soak,
    frontends: &[SocketAddr],
    goes_on: impl Fn() -> Result<bool> + Sync,
) -> Result<()> {
    soak.clients.place().run_many(STORMERS, |_| {
        while goes_on()? {
            for frontend in frontends {
                let stream = TcpStream::connect(frontend).context("in the storm")?;
                load::reset(&stream)?;
            }
        }
        Ok(())
    })
}

pub(super) fn dropped(soak: &Soak) -> Result<()> {
    filtered(soak, DROP)
}

/// By the network emulator, where the kernel has one.
pub(super) fn delayed(soak: &Soak) -> Result<()> {
    if !tc(soak, "add", &["netem", "delay", "20ms", "10ms"])? {
        return filtered(soak, LATE_CONNECTS);
    }
    thread::sleep(LASTS);
    if tc(soak, "del", &[])? {
        return Ok(());
    }
    bail!("the network emulator cannot be taken off again")
}

fn filtered(soak: &Soak, rules: &str) -> Result<()> {
    soak.clients.netns.nft(rules)?;
    thread::sleep(LASTS);
    soak.clients.netns.nft(NO_MORE).map(drop)
}

/// Says whether it could be done.
fn tc(soak: &Soak, verb: &str, discipline: &[&str]) -> Result<bool> {
    let mut command: Command = place::command(Some(&soak.clients.netns), None, "tc".as_ref());
    command.args(["qdisc", verb, "dev", "eth0", "root"]);
    let output = command.args(discipline).output();
    Ok(output
        .context("cannot run tc; install iproute2")?
        .status
        .success())
}
