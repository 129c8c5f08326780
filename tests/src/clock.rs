//! The wall clock that a process sees, as the library of Debian's `faketime` shows it: only that
//! one, neither the machine's nor the clock that does not jump.

use std::{fs, io::ErrorKind, process::Command};

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;

use crate::run_dir::RunDir;

/// A clock that can be set.
#[derive(Debug)]
pub struct Clock {
    dir: RunDir,
}

impl Clock {
    /// One that is right, at first.
    pub fn new() -> Result<Self> {
        let clock = Self {
            dir: RunDir::new("clock")?,
        };
        clock.set(SignedDuration::ZERO)?;
        Ok(clock)
    }

    /// Sets it so far ahead of the machine's. It is looked at once a second.
    pub fn set(&self, ahead: SignedDuration) -> Result<()> {
        let (file, new) = (self.file(), self.dir.path().join("new"));
        fs::write(&new, format!("{:+}\n", ahead.as_secs()))
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("clock")
    }

    /// What lets a process see it.
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        // The program knows where its library is.
        let output = Command::new("faketime")
            .args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"])
            .output()
            .context("cannot start faketime; install Debian's package faketime")?;
        let library = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(!library.is_empty(), "faketime names no library");
        let file = self.file().display().to_string();
        let variables = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME_TIMESTAMP_FILE", &*file),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            // A clock that jumps does not change what files say of themselves.
            ("NO_FAKE_STAT", "1"),
        ];
        Ok(variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into())
    }

    /// Takes away what the library leaves when the process that it was loaded into becomes another
    /// by `exec`, as the agent does. Whoever has it open keeps it.
    pub fn tidy(pid: u32) -> Result<()> {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let path = format!("/dev/shm/{name}{pid}");
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {path}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
