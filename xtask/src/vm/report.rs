//! What host and guest tell each other: the plan that is packed with the guest, and the reports
//! that come back, one JSON object a line, on the guest's second serial port.
//!
//! Nothing here does I/O. Called by `image` and `machine` on the host, by `guest` in the guest.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Where the guest finds its plan.
pub(super) const PLAN_PATH: &str = "/plan.json";

/// What the guest has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The agent, in the guest.
    pub(super) agent: PathBuf,
    /// Directory of the test programs, in the guest.
    pub(super) tests_directory: PathBuf,
    pub(super) tests: Vec<TestName>,
    /// How many tests run side by side.
    pub(super) at_once: usize,
    /// Deadlines inside the tests are multiplied by this.
    pub(super) patience: u32,
    /// A test that takes longer is killed and has failed.
    pub(super) test_timeout_seconds: u64,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct TestName {
    /// The program that has it.
    pub(super) binary: String,
    /// Its name there.
    pub(super) name: String,
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.binary, self.name)
    }
}

/// What the guest says, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// This kernel runs.
    Booted { release: String },
    /// The verifier has accepted every program, and they are attached.
    Loaded {
        programs: Vec<Program>,
        seconds: f64,
    },
    /// A test has ended.
    Tested {
        test: TestName,
        seconds: f64,
        /// What it printed, if it failed.
        failure: Option<String>,
    },
    /// Nothing more can be done; the last report.
    Broken { error: String },
    /// All is done; the last report.
    Finished,
}

/// A program that the verifier accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) name: String,
    /// Instructions that the verifier walked through; its bound is a million.
    pub(super) verified_instructions: u64,
}
