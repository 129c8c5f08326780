//! Backends and clients go without a word.

use std::{process::Stdio, thread, time::Duration};

use anyhow::{Context, Result};
use rand::{RngExt as _, rngs::SmallRng};

use super::{BY_CONNECTION, SLOTS, Soak, WORK};
use crate::{exact::ExactServer, process::Process, topology::Topology};

/// Where pods serve.
pub(super) const PORT: u16 = 8080;

/// For how long a pod is away.
const AWAY: Duration = Duration::from_millis(700);
/// Pods that run no function besides, whose namespaces can go.
const ALONE: usize = 4;
/// Clients that are killed, and for how long they live.
const KILLED: usize = 4;
const LIFE: Duration = Duration::from_millis(500);

pub(super) fn serve(topology: &Topology, pod: usize) -> Result<ExactServer> {
    let pod = &topology.pods[pod];
    ExactServer::start(&pod.netns, pod.at_v4(PORT), SLOTS, WORK)
}

pub(super) fn killed(soak: &mut Soak, random: &mut SmallRng) -> Result<()> {
    let pod = random.random_range(0..soak.pods.len());
    end(soak, pod);
    thread::sleep(AWAY);
    soak.pods[pod] = Some(serve(&soak.topology, pod)?);
    Ok(())
}

pub(super) fn namespace_deleted(soak: &mut Soak, random: &mut SmallRng) -> Result<()> {
    let pod = random.random_range(0..ALONE);
    end(soak, pod);
    soak.topology.delete_pod(pod)?;
    thread::sleep(AWAY);
    soak.topology.restore_pod(pod)?;
    soak.pods[pod] = Some(serve(&soak.topology, pod)?);
    Ok(())
}

/// The server goes with all its connections; what it has seen stays.
fn end(soak: &mut Soak, pod: usize) {
    if let Some(server) = soak.pods[pod].take() {
        soak.gone.push(server.tally());
    }
}

pub(super) fn clients_killed(soak: &Soak) -> Result<()> {
    let (ip, port) = (BY_CONNECTION.ip(), BY_CONNECTION.port());
    let script = format!(
        "while :; do exec 3<>/dev/tcp/{ip}/{port}; printf a >&3; read -r -N1 -u3; exec 3>&-; done"
    );
    let clients = (0..KILLED)
        .map(|_| {
            let mut command = soak.clients.place().command("bash");
            command.args(["-c", &script]).stdin(Stdio::null());
            Process::start(command)
        })
        .collect::<Result<Vec<_>>>()
        .context("cannot start clients")?;
    thread::sleep(LIFE);
    for mut client in clients {
        client.kill()?;
    }
    Ok(())
}
