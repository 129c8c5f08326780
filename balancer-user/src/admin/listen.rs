//! The sockets of the admin API and of the metrics, bound before anything touches the kernel.
//!
//! Owns the unix socket's file: makes its directory, replaces what a dead agent left, and removes
//! it at the end if it is still its own. Refuses an address that someone else answers on, and a
//! token file that holds no token.

use std::{
    fs::{self, Permissions},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    config::{AdminAddress, AgentConfig, Metrics},
    token::{self, Token, TokenError},
};

/// Who may open the unix socket: its owner and group. Only the former may change anything over it
/// (see `permit`).
const SOCKET_MODE: u32 = 0o660;
const BACKLOG: i32 = 128;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Something lives at the other end of the socket.
    #[error(
        "a running process answers on unix:{path}, probably another agent; \
         stop it, or set agent.admin (--admin) to another path"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The file is none that may be replaced.
    #[error(
        "{path} exists and is no socket; remove it, or set agent.admin (--admin) to another path"
    )]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The directory could not be made.
    #[error(
        "cannot make {path}, the directory of the admin socket: {source}; make it, or set agent.admin (--admin) to another path"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The unix socket could not be made.
    #[error("cannot listen on unix:{path}: {source}; set agent.admin (--admin) to another path")]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token could not be read.
    #[error("agent.admin_token_file (--token-file): {0}")]
    Token(#[from] TokenError),
    /// The TCP address could not be bound.
    #[error(
        "cannot listen on {address} ({setting}): {source}; \
         free the address, or set {setting} ({flag}) to another"
    )]
    Tcp {
        /// As configured.
        address: SocketAddr,
        /// The key of the configuration.
        setting: &'static str,
        /// The flag.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Every socket of the agent. Dropping it closes them and removes their files.
#[derive(Debug)]
pub struct Listeners {
    pub(super) unix: Vec<UnixSocket>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) metrics: Option<TcpListener>,
    /// The file with the token for changes.
    pub(super) token_file: Option<PathBuf>,
}

/// A unix socket that listens.
#[derive(Debug)]
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

impl Listeners {
    /// Binds all addresses of the configuration, or none.
    ///
    /// # Errors
    /// For the first address that cannot be listened on, or if the token cannot be read.
    pub fn bind(config: &AgentConfig) -> Result<Self, AdminError> {
        if let Some(path) = &config.admin_token_file {
            check_token(path)?;
        }
        let mut listeners = Self {
            unix: Vec::new(),
            tcp: Vec::new(),
            metrics: None,
            token_file: config.admin_token_file.clone(),
        };
        for address in &config.admin {
            match address {
                AdminAddress::Unix(path) => listeners.unix.push(UnixSocket::bind(path)?),
                AdminAddress::Tcp(address) => {
                    listeners
                        .tcp
                        .push(bind_tcp(*address, "agent.admin", "--admin")?);
                }
            }
        }
        if let Metrics::On(address) = config.metrics {
            listeners.metrics = Some(bind_tcp(address, "agent.metrics", "--metrics")?);
        }
        Ok(listeners)
    }
}

/// Refuses what would let nobody in. Who can read it is told only: Secrets that the kubelet mounts
/// are open to all in their container, where there is nobody else.
fn check_token(path: &Path) -> Result<(), TokenError> {
    Token::read_regular(path)?;
    let path_shown = path.display();
    if let Some(mode) = token::too_open(path) {
        tracing::warn!(
            path = %path_shown,
            mode = %format_args!("{mode:04o}"),
            "others than its owner may read or write the token file; run chmod 0400 on it, or set \
             defaultMode: 0400 for a Secret"
        );
    }
    tracing::info!(path = %path_shown, "whoever has this token may change things over the admin API");
    Ok(())
}

fn bind_tcp(
    address: SocketAddr,
    setting: &'static str,
    flag: &'static str,
) -> Result<TcpListener, AdminError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| AdminError::Tcp {
        address,
        setting,
        flag,
        source,
    })
}

impl UnixSocket {
    fn bind(path: &Path) -> Result<Self, AdminError> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|source| AdminError::Directory {
                path: directory.to_owned(),
                source,
            })?;
        }
        remove_stale(path)?;
        Self::bind_free(path).map_err(|source| AdminError::Unix {
            path: path.to_owned(),
            source,
        })
    }

    fn bind_free(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile::own(path)?;
        // Nobody can connect before `listen`, so nobody can before the mode is right.
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            listener: socket.into(),
            file,
        })
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), AdminError> {
    let failed = |source| AdminError::Unix {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(AdminError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(AdminError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of an agent that is gone");
            fs::remove_file(path).map_err(failed)
        }
        // Its backlog is full: somebody is there.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(AdminError::InUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed(error)),
    }
}

/// The file of a socket, removed with the value if it still is that socket's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn own(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // If that fails, the next agent finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own for one test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let name = format!("idlefirst-listen-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn config(&self, file: &str) -> (PathBuf, AgentConfig) {
            let path = self.0.join(file);
            let admin = vec![AdminAddress::Unix(path.clone())];
            (
                path,
                AgentConfig {
                    admin,
                    metrics: Metrics::Off,
                    ..AgentConfig::default()
                },
            )
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_is_made_with_its_directory_and_goes_with_the_listeners() {
        let scratch = Scratch::new("made");
        let (path, config) = scratch.config("a/b/admin.sock");
        let listeners = Listeners::bind(&config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        UnixStream::connect(&path).unwrap();
        drop(listeners);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
        let scratch = Scratch::new("stale");
        let (path, config) = scratch.config("admin.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(
            Listeners::bind(&config),
            Err(AdminError::InUse { .. })
        ));
        UnixStream::connect(&path).unwrap();
        drop(other);
        assert!(path.exists());
        let _listeners = Listeners::bind(&config).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_is_never_replaced() {
        let scratch = Scratch::new("file");
        let (path, config) = scratch.config("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listeners::bind(&config),
            Err(AdminError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_a_successor_made_is_not_removed() {
        let scratch = Scratch::new("successor");
        let (path, config) = scratch.config("admin.sock");
        let listeners = Listeners::bind(&config).unwrap();
        fs::remove_file(&path).unwrap();
        // A file in between, so that the inode's number is not simply given out again.
        fs::write(scratch.0.join("other"), "").unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(listeners);
        assert!(path.exists());
    }

    #[test]
    fn an_address_in_use_leaves_nothing_bound() {
        let scratch = Scratch::new("taken");
        let (path, mut config) = scratch.config("admin.sock");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        config
            .admin
            .push(AdminAddress::Tcp(taken.local_addr().unwrap()));
        let error = Listeners::bind(&config).unwrap_err();
        assert!(
            error.to_string().contains("agent.admin (--admin)"),
            "{error}"
        );
        assert!(!path.exists());
    }
}
