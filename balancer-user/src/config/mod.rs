//! The configuration: one YAML file, the environment over it, flags over both.
//!
//! Owns the way from text to checked types: `raw` reads the shape, `agent`, `settings` and
//! `services` check the values, and every problem found is reported at once with its line. It
//! refuses whatever it does not understand; nothing is half-applied, because there is no
//! [`Config`] unless everything in it is good. The agent loads it at start and at each change of
//! the file; the CLI checks and documents it. [`Config::load`] reads one file, [`process_environment`] and
//! [`host_name`] what they say; all else is pure.

mod agent;
mod agreement;
mod annotations;
mod bounds;
mod claims;
mod client;
mod environment;
mod functions;
mod key;
mod keys;
mod listen;
mod near;
mod overflow;
mod problem;
mod raw;
mod reference;
mod services;
mod settings;
mod shape;
mod supported;
mod syntax;
mod value;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use agent::{AgentConfig, LogConfig, LogFormat, LogLevel, Overrides, ProbeConfig};
pub use annotations::{Annotated, AnnotationProblem, PREFIX as ANNOTATION_PREFIX, Sources};
pub(crate) use environment::ADMIN_TOKEN_FILE;
pub use environment::{Lookup, host_name, process_environment};
pub use listen::{AdminAddress, ListenFault, Metrics};
pub use overflow::Overflow;
pub use problem::{ConfigError, MAX_SHOWN, Problem};
pub use reference::{defaults_yaml, reference_markdown};

use crate::model::{DesiredState, Origin, Settings, words};
use functions::Functions;
use near::Near;
use problem::{Findings, Place};
use raw::{MAX_FILE_BYTES, RawConfig};

/// Where the configuration is looked for unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/idlefirst/config.yaml";

words! {
    /// Where services come from.
    Source, "source" {
        /// This file.
        #[default]
        File = "file",
        /// The Kubernetes API.
        Kubernetes = "kubernetes",
    }
}

/// A configuration without a fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where services come from.
    pub source: Source,
    /// The agent's own settings.
    pub agent: AgentConfig,
    /// What holds for services that say nothing themselves.
    pub defaults: Settings,
    /// What stands under `functions:`.
    functions: Functions,
    /// What holds for services that say nothing themselves, and where it stands.
    below: settings::Layer,
    services: DesiredState,
}

/// A configuration, and what its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What was read.
    pub config: Config,
    /// Where it was read from, as given.
    pub file: String,
    /// What does not do what it seems to, by line.
    pub warnings: Vec<Problem>,
}

impl Loaded {
    /// The warnings for people: `FILE:LINE:COLUMN: what is odd; what to do`.
    pub fn warning_lines(&self) -> impl Iterator<Item = String> {
        let warnings = self.warnings.iter();
        warnings.map(|warning| warning.in_file(&self.file).to_string())
    }
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path, lookup: Lookup<'_>) -> Result<Loaded, ConfigError> {
        let file = path.display().to_string();
        match read_file(path) {
            Ok(bytes) => Self::parse_bytes(&bytes, &file, lookup),
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }

    /// Reads `text`; `file` is its name in messages.
    pub fn parse(text: &str, file: &str, lookup: Lookup<'_>) -> Result<Loaded, ConfigError> {
        let invalid = |problem: Problem| ConfigError::Invalid {
            file: file.to_owned(),
            problems: vec![problem],
        };
        let raw = raw::read(text).map_err(invalid)?;
        if raw.is_silent() {
            return Err(invalid(Problem::new(
                Place::WholeFile,
                "the file sets nothing: it may have been cut off while it was written",
                "write at least `source: file`",
            )));
        }
        let mut findings = Findings::default();
        let config = Self::check(raw, lookup, &mut findings);
        let warnings = findings.conclude(file)?;
        Ok(Loaded {
            config,
            file: file.to_owned(),
            warnings,
        })
    }

    /// What should be in the kernel, as the file says.
    pub fn desired_state(&self) -> DesiredState {
        self.services.clone()
    }

    /// This configuration with the command line's settings over it.
    #[must_use]
    pub fn with_overrides(mut self, overrides: &Overrides) -> Self {
        self.agent.apply(overrides);
        self
    }

    /// The same with bytes, which may not be text.
    pub(crate) fn parse_bytes(
        bytes: &[u8],
        file: &str,
        lookup: Lookup<'_>,
    ) -> Result<Loaded, ConfigError> {
        let problem = if bytes.len() as u64 > MAX_FILE_BYTES {
            Problem::new(
                Place::WholeFile,
                format!("the file is larger than {MAX_FILE_BYTES} bytes"),
                "make sure that it is the configuration; spread services over several agents",
            )
        } else {
            match std::str::from_utf8(bytes) {
                Ok(text) => return Self::parse(text, file, lookup),
                Err(fault) => not_utf8(bytes, fault.valid_up_to()),
            }
        };
        Err(ConfigError::Invalid {
            file: file.to_owned(),
            problems: vec![problem],
        })
    }

    fn check(raw: RawConfig, lookup: Lookup<'_>, findings: &mut Findings) -> Self {
        let source = raw
            .source
            .and_then(|text| value::word((&text).into(), supported::SOURCES, findings))
            .unwrap_or_default();
        let agent = agent::check(&raw.agent.unwrap_or_default(), lookup, findings);
        let defaults = settings::read(
            &raw.defaults.unwrap_or_default(),
            Origin::Defaults,
            findings,
        );
        let defaults = settings::of_environment(lookup, findings).over(&defaults);
        agreement::of_defaults(&defaults, findings);
        let functions = Functions::check(raw.functions.unwrap_or_default(), findings);
        let services = raw.services.unwrap_or_default();
        let near = Near::new(agent.zone.is_some());
        if source == Source::Kubernetes && services.total > 0 {
            findings.reject(
                services.items[0].spot,
                "with source kubernetes, services come from the Kubernetes API",
                "remove `services:`, or set `source: file`",
            );
        }
        let services = services::check(services, &defaults, functions.clone(), near, findings);
        if source == Source::File {
            services.functions.warn_of_unused(findings);
        }
        Self {
            source,
            agent,
            defaults: defaults.settings.clone(),
            functions,
            below: defaults,
            services: services.state,
        }
    }
}

impl RawConfig {
    /// Whether nothing at all is set, which no one means to write.
    fn is_silent(&self) -> bool {
        let Self {
            source,
            agent,
            defaults,
            functions,
            services,
        } = self;
        source.is_none()
            && agent.is_none()
            && defaults.is_none()
            && functions.is_none()
            && services.is_none()
    }
}

/// The file's bytes, and one more than allowed if it is too large.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_utf8(bytes: &[u8], valid_up_to: usize) -> Problem {
    let before = &bytes[..valid_up_to];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
    let spot = problem::Spot::new(line, 0);
    Problem::new(
        spot,
        "this line is not UTF-8 text",
        "save the file as UTF-8",
    )
}
