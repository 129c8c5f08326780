//! Throughput of a connection that was steered, and of one that was not, in alternating slices.
//! Called by `connect`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Context, Result};
use tests::place::Place;

use super::{
    super::{cpu::bind_this_thread, report::Samples},
    stage::{SLICE_BYTES, SWALLOWING, SWALLOWING_BACKEND, Stage},
};

/// Slices of each of the two, 4 GiB in all: short ones, so that most are not interrupted.
const SLICES: usize = 8192;

/// Bytes a second.
pub(super) struct Throughput {
    pub(super) straight: Samples,
    pub(super) balanced: Samples,
}

/// Measures both, from inside the balanced cgroup.
pub(super) fn measure(
    stage: &Stage,
    cpu: usize,
    stop: &(impl Fn() -> bool + Sync),
) -> Result<Throughput> {
    Place::new(&stage.plain, &stage.cgroup).run(|| {
        bind_this_thread(cpu)?;
        let mut straight = open(SWALLOWING_BACKEND)?;
        let mut balanced = open(SWALLOWING)?;
        let mut throughput = Throughput {
            straight: Samples::default(),
            balanced: Samples::default(),
        };
        let slice = vec![0; 256 << 10];
        // The first slices find the windows still small.
        for stream in [&mut straight, &mut balanced] {
            send(stream, &slice)?;
        }
        for index in 0..SLICES {
            if stop() {
                break;
            }
            let mut one = |balance: bool| -> Result<()> {
                let (stream, samples) = if balance {
                    (&mut balanced, &mut throughput.balanced)
                } else {
                    (&mut straight, &mut throughput.straight)
                };
                samples.push(send(stream, &slice)?);
                Ok(())
            };
            let balance_first = index % 2 == 0;
            one(balance_first)?;
            one(!balance_first)?;
        }
        Ok(throughput)
    })
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))
}

/// Sends [`SLICE_BYTES`], waits until the server has them all, and gives the bytes a second.
fn send(stream: &mut TcpStream, piece: &[u8]) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..SLICE_BYTES / piece.len() {
        stream.write_all(piece).context("cannot send")?;
    }
    stream
        .read_exact(&mut [0])
        .context("the server does not acknowledge")?;
    Ok(SLICE_BYTES as f64 / begun.elapsed().as_secs_f64())
}
