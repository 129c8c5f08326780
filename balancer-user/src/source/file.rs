//! `source: file`: the configuration file, read again whenever it changes.
//!
//! The file is looked at every [`INTERVAL`] rather than subscribed to: an editor
//! that replaces it, a ConfigMap whose link is switched and a file system
//! without notifications then all look the same. It is read once it has been
//! still for one interval, so that a half-written file is not taken for a bad one.
//! Every now and then it is read although it looks the same, for file systems whose
//! time stamps cannot be relied on.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    config::{Config, ConfigError, Loaded, Overrides, process_environment},
    state::State,
};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Follows `path` until cancelled. `in_force` is the fingerprint of the version in force; after
/// `resync` the file is read in any case.
pub async fn follow(
    path: PathBuf,
    overrides: Overrides,
    state: std::sync::Arc<State>,
    in_force: Fingerprint,
    resync: Duration,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read = in_force;
    let mut seen = read.clone();
    let mut read_at = Instant::now();
    loop {
        ticks.tick().await;
        let now = Fingerprint::of(&path);
        let is_still = now == seen;
        seen = now.clone();
        if !is_still || (now == read && read_at.elapsed() < resync) {
            continue;
        }
        read = now;
        read_at = Instant::now();
        reload(&path, &overrides, &state).await;
    }
}

async fn reload(path: &Path, overrides: &Overrides, state: &State) {
    let owned = path.to_owned();
    let loaded = tokio::task::spawn_blocking(move || load(&owned)).await;
    match loaded {
        Ok(Ok(mut loaded)) => {
            loaded.config = loaded.config.with_overrides(overrides);
            if state.is_in_force(&loaded.config) {
                return;
            }
            for warning in loaded.warning_lines() {
                tracing::warn!("{warning}");
            }
            tracing::info!(file = %path.display(), "configuration changed");
            state.accept(loaded);
        }
        Ok(Err(error)) => report(path, state, &error),
        Err(panic) => {
            tracing::error!(%panic, "reading the configuration failed; what is in force stays")
        }
    }
}

/// Reads the file, if it is one: a pipe would keep us waiting.
fn load(path: &Path) -> Result<Loaded, ConfigError> {
    if fs::metadata(path).is_ok_and(|file| !file.is_file()) {
        return Err(ConfigError::Unreadable {
            file: path.display().to_string(),
            source: io::Error::other("it is not a regular file"),
        });
    }
    Config::load(path, &process_environment)
}

fn report(path: &Path, state: &State, error: &ConfigError) {
    tracing::error!(file = %path.display(), "the changed configuration is not used; what is in force stays:\n{error}");
    state.reject(error);
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Result<[i64; 6], io::ErrorKind>);

impl Fingerprint {
    /// That of the file as it is now.
    pub fn of(path: &Path) -> Self {
        Self(
            fs::metadata(path)
                .map_err(|error| error.kind())
                .map(|file| {
                    [
                        file.dev() as i64,
                        file.ino() as i64,
                        file.size() as i64,
                        file.mtime(),
                        file.mtime_nsec(),
                        file.ctime_nsec(),
                    ]
                }),
        )
    }
}
