//! How many files and sockets the agent may have open.
//!
//! Every connection that passes the agent takes two. The limit that processes start with is meant
//! for programs that use `select()`; the agent does not, and raises it as far as it may.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewer than this are worth a warning.
const ENOUGH: u64 = 65_536;

/// Raises the limit on open descriptors to what the process may have.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < ENOUGH => tracing::warn!(
            limit,
            "few files may be open at once, and each connection that passes the agent takes two; \
             raise the limit (LimitNOFILE= in systemd, ulimits in a container)"
        ),
        Ok(limit) => tracing::debug!(limit, "open files and sockets at most"),
        Err(error) => tracing::warn!(%error, "the limit on open files cannot be raised"),
    }
}
