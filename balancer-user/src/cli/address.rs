//! Addresses under which commands look for an agent.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::config::{AdminAddress, AgentConfig};

/// Where an agent may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`, as written.
    Tcp(String),
}

/// A text that is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no admin address: {fault}; write unix:PATH, http://HOST:PORT or IP:PORT")]
pub(super) struct AddressError {
    text: String,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("there is no path after unix:")]
    NoPath,
    #[error("the admin API speaks plain HTTP")]
    Scheme,
    #[error("it names a path on the server, and the command adds its own")]
    Path,
    #[error("it has no host and port")]
    NoPort,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                Err(Fault::NoPath)
            } else {
                Ok(Self::Unix(path.into()))
            }
        } else if let Some(rest) = text.strip_prefix("http://") {
            tcp(rest.strip_suffix('/').unwrap_or(rest))
        } else if text.contains("://") {
            Err(Fault::Scheme)
        } else {
            tcp(text)
        };
        address.map_err(|fault| AddressError {
            text: text.to_owned(),
            fault,
        })
    }
}

fn tcp(text: &str) -> Result<Address, Fault> {
    if text.contains('/') {
        return Err(Fault::Path);
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(Address::Tcp(text.to_owned()))
        }
        _ => Err(Fault::NoPort),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Tcp(address) => out.write_str(address),
        }
    }
}

/// The addresses to try: those given, else those of the environment, else those where an agent
/// listens by default.
pub(super) fn to_try(
    given: &[String],
    environment: Option<&str>,
) -> Result<Vec<Address>, AddressError> {
    if !given.is_empty() {
        return given.iter().map(|text| text.parse()).collect();
    }
    let entries = environment
        .into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim);
    let of_environment = entries
        .filter(|entry| !entry.is_empty())
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>()?;
    if !of_environment.is_empty() {
        return Ok(of_environment);
    }
    let defaults = AgentConfig::default().admin.into_iter();
    Ok(defaults
        .map(|address| match address {
            AdminAddress::Unix(path) => Address::Unix(path),
            AdminAddress::Tcp(address) => Address::Tcp(address.to_string()),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, address) in [
            ("unix:/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix:///run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix:a.sock", Address::Unix("a.sock".into())),
            ("127.0.0.1:9090", Address::Tcp("127.0.0.1:9090".into())),
            (
                "http://localhost:9090/",
                Address::Tcp("localhost:9090".into()),
            ),
            ("http://[::1]:9090", Address::Tcp("[::1]:9090".into())),
        ] {
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
        for (text, fault) in [
            ("unix:", Fault::NoPath),
            ("https://localhost:9090", Fault::Scheme),
            ("http://localhost:9090/v1", Fault::Path),
            ("localhost", Fault::NoPort),
            (":9090", Fault::NoPort),
            ("localhost:http", Fault::NoPort),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().fault, fault, "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_defaults() {
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        let given = ["a:1".to_owned()];
        assert_eq!(to_try(&given, Some("b:2")), Ok(vec![tcp("a:1")]));
        assert_eq!(
            to_try(&[], Some("b:2, c:3")),
            Ok(vec![tcp("b:2"), tcp("c:3")])
        );
        let defaults = vec![
            Address::Unix("/run/idlefirst/admin.sock".into()),
            tcp("127.0.0.1:9090"),
        ];
        assert_eq!(to_try(&[], Some(" ")), Ok(defaults.clone()));
        assert_eq!(to_try(&[], None), Ok(defaults));
    }
}
