//! What a node says about its devices, and why one rests or was given up.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use crate::error::Error;

/// A device as its node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceStatus {
    /// As larder.toml names it.
    pub name: String,
    /// Whether it answers.
    pub state: DeviceState,
    /// Why it rests or is broken; empty where it is well.
    pub reason: String,
    /// Jobs that failed in a row.
    pub failures: u32,
    /// How long until a resting device is checked; zero where none rests.
    pub retry_in: Duration,
    /// Measured over the last jobs, of all sizes; 0 before the first.
    pub tokens_per_s: f64,
    /// Texts it has encoded for questions and catalogues.
    pub texts: u64,
}

/// Whether a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// It takes its share of the work.
    Ready,
    /// The CPU where larder.toml does not list it: it answers once every listed device is broken.
    Standby,
    /// It failed several times in a row and is left alone for a while; then a self-check decides.
    Resting,
    /// It failed and is not used again before the process ends: a GPU's error stays until then.
    Broken,
}

impl DeviceState {
    /// Every state.
    pub const ALL: [DeviceState; 4] =
        [DeviceState::Ready, DeviceState::Standby, DeviceState::Resting, DeviceState::Broken];

    /// The state's name in metrics and status replies.
    pub fn label(self) -> &'static str {
        match self {
            DeviceState::Ready => "ready",
            DeviceState::Standby => "standby",
            DeviceState::Resting => "resting",
            DeviceState::Broken => "broken",
        }
    }
}

/// What a device did wrong; a label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// There is no such device, or it does not open.
    Absent,
    /// Its answers at start were not those of the CPU.
    SelfCheck,
    /// It panicked, as Burn's CUDA backend does when a kernel does not start, or its thread has ended.
    Panicked,
    /// It said that it failed.
    Failed,
    /// What it returned are not unit vectors.
    BadVectors,
    /// It did not answer for a long time.
    Silent,
}

impl FailureKind {
    /// Whether it may pass while the device's thread lives.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, FailureKind::Failed | FailureKind::Silent)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            FailureKind::Absent => "absent",
            FailureKind::SelfCheck => "self_check",
            FailureKind::Panicked => "panicked",
            FailureKind::Failed => "failed",
            FailureKind::BadVectors => "bad_vectors",
            FailureKind::Silent => "silent",
        }
    }
}

/// What a device did wrong, and its words.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) error: Error,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, problem: impl fmt::Display) -> Failure {
        Failure { kind, error: Error::fault("a device", problem) }
    }

    /// One on purpose: see `faults`.
    pub(crate) fn injected() -> Failure {
        Failure::new(FailureKind::Failed, "a failure on purpose")
    }

    /// What a caught panic said.
    pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Failure {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Failure::new(FailureKind::Panicked, format_args!("it panicked: {text}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { kind: FailureKind::Failed, error }
    }
}
