//! The programs' own log (aya-log), joined to the agent's. They write to it only
//! while `SWITCH_LOG` is set.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// Starts to forward lines, if the object has a log. Must run inside a runtime.
pub(super) fn start(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the programs' log cannot be read; steering is not affected");
            return;
        }
    };
    tokio::spawn(async move {
        // SAFETY: the logger owns its descriptor and gives the same one every time.
        let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let Ok(mut logger) = registered else {
            return;
        };
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
