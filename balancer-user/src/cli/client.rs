//! Speaks to an agent's admin API.

use std::{fmt, io, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::address::Address;
use crate::{
    admin::Problem,
    token::{Token, TokenError},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the agent's own limit, so that its refusal is what one sees.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Why an agent could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "no agent answers:\n{}\nstart one with `idlefirst agent`, or say where it listens with \
         --admin ADDRESS (its configuration: agent.admin)",
        Tried(.0)
    )]
    NoAgent(Vec<(Address, io::Error)>),
    #[error(
        "the agent on {address} closed the connection, or speaks no HTTP: {source}; is it one?"
    )]
    Http {
        address: Address,
        source: hyper::Error,
    },
    #[error("the agent on {0} did not answer in {ANSWER_TIMEOUT:?}; see its log")]
    Slow(Address),
    #[error("{path} cannot be asked for; check the name given")]
    BadPath { path: String },
    #[error("--token-file (IDLEFIRST_ADMIN_TOKEN_FILE): {0}")]
    Token(#[from] TokenError),
    #[error("the agent on {address} says to {path}: {detail}")]
    Refused {
        address: Address,
        path: String,
        detail: String,
    },
    #[error("what answers on {address} to {path} is no agent of this version ({status}): {source}")]
    NotOurs {
        address: Address,
        path: String,
        status: StatusCode,
        source: serde_json::Error,
    },
}

struct Tried<'a>(&'a [(Address, io::Error)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, error)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(out, "{separator}  {address}: {error}")?;
            if error.kind() == io::ErrorKind::PermissionDenied {
                out.write_str(" (only the agent's user and group may; try as root)")?;
            }
        }
        Ok(())
    }
}

/// An agent that was reached.
#[derive(Debug)]
pub(super) struct Client {
    address: Address,
    /// The file with the token, read when something is to be changed.
    token_file: Option<PathBuf>,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl Client {
    /// The first of the addresses that can be connected to.
    pub(super) async fn find(
        addresses: Vec<Address>,
        token_file: Option<PathBuf>,
    ) -> Result<Self, ClientError> {
        let mut failed = Vec::new();
        for address in addresses {
            match connect(&address).await {
                Ok(_) => {
                    return Ok(Self {
                        address,
                        token_file,
                    });
                }
                Err(error) => failed.push((address, error)),
            }
        }
        Err(ClientError::NoAgent(failed))
    }

    /// Where it answers.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The body of a `GET` that must succeed.
    pub(super) async fn get(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.send(Method::GET, path, String::new()).await?;
        self.accepted(path, answer)
    }

    /// The body of a `PUT` that must succeed.
    pub(super) async fn put(&self, path: &str, body: String) -> Result<String, ClientError> {
        let answer = self.send(Method::PUT, path, body).await?;
        self.accepted(path, answer)
    }

    /// The body of a `POST` that must succeed.
    pub(super) async fn post(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.send(Method::POST, path, String::new()).await?;
        self.accepted(path, answer)
    }

    /// Reads a body of [`Client::get`].
    pub(super) fn decode<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &str,
    ) -> Result<T, ClientError> {
        serde_json::from_str(body).map_err(|source| self.not_ours(path, StatusCode::OK, source))
    }

    /// Whatever is answered.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder()
            .uri(path)
            .header(HOST, "idlefirst")
            .header(CONTENT_TYPE, "application/json");
        if method != Method::GET
            && let Some(authorization) = self.authorization()?
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .method(method)
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| ClientError::BadPath {
                path: path.to_owned(),
            })?;
        let stream = connect(&self.address)
            .await
            .map_err(|error| ClientError::NoAgent(vec![(self.address.clone(), error)]))?;
        match timeout(ANSWER_TIMEOUT, exchange(stream, request)).await {
            Ok(answer) => answer.map_err(|source| ClientError::Http {
                address: self.address.clone(),
                source,
            }),
            Err(_) => Err(ClientError::Slow(self.address.clone())),
        }
    }

    /// What says who asks. The socket's owner needs no token, and need not have a file that is good.
    fn authorization(&self) -> Result<Option<HeaderValue>, ClientError> {
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        let token = match (Token::read(file), &self.address) {
            (Ok(token), _) => token,
            (Err(_), Address::Unix(_)) => return Ok(None),
            (Err(error), Address::Tcp(_)) => return Err(error.into()),
        };
        let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        // A token is visible ASCII, which every header may hold.
        let value = value.ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(value)
    }

    fn accepted(&self, path: &str, answer: Answer) -> Result<String, ClientError> {
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        match serde_json::from_str::<Problem>(&answer.body) {
            Ok(problem) => Err(ClientError::Refused {
                address: self.address.clone(),
                path: path.to_owned(),
                detail: problem.detail,
            }),
            Err(source) => Err(self.not_ours(path, answer.status, source)),
        }
    }

    fn not_ours(&self, path: &str, status: StatusCode, source: serde_json::Error) -> ClientError {
        ClientError::NotOurs {
            address: self.address.clone(),
            path: path.to_owned(),
            status,
            source,
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    let connected = async {
        Ok(match address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?) as Box<dyn Stream>,
            Address::Tcp(address) => Box::new(TcpStream::connect(address.as_str()).await?),
        })
    };
    timeout(CONNECT_TIMEOUT, connected)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; what goes wrong shows in the answer.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
