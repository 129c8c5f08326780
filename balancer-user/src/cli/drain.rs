//! `drain` and `undrain`: takes a backend out by hand, and back in.

use std::net::SocketAddr;

use anyhow::Context as _;

use super::{
    Output, Report,
    client::Client,
    list::{backends_table, json},
};
use crate::admin::BackendRow;

pub(super) async fn drain(
    client: &Client,
    address: SocketAddr,
    output: Output,
) -> anyhow::Result<Report> {
    mark(client, address, "drain", output).await
}

pub(super) async fn undrain(
    client: &Client,
    address: SocketAddr,
    output: Output,
) -> anyhow::Result<Report> {
    mark(client, address, "undrain", output).await
}

async fn mark(
    client: &Client,
    address: SocketAddr,
    action: &str,
    output: Output,
) -> anyhow::Result<Report> {
    const BACKENDS: &str = "/v1/backends";
    let backends: Vec<BackendRow> = client.decode(BACKENDS, &client.get(BACKENDS).await?)?;
    let service = service_of(&backends, address).with_context(|| {
        format!("no service has a backend {address}; `idlefirst backends` lists them")
    })?;
    // The brackets of an IPv6 address have no place in a path.
    let address = address.to_string().replace('[', "%5B").replace(']', "%5D");
    let path = format!("/v1/services/{service}/backends/{address}/{action}");
    let body = client.post(&path).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let backend: BackendRow = client.decode(&path, &body)?;
    Ok(Report::fine(backends_table(&[backend])))
}

/// A service of the backend: it is the same backend in all of them.
fn service_of(backends: &[BackendRow], address: SocketAddr) -> Option<&String> {
    let mut found = backends.iter().filter(|backend| backend.address == address);
    found.find_map(|backend| backend.services.first())
}
