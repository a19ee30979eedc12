//! What a node says about its devices, and why one was given up.

use std::any::Any;
use std::fmt;

use crate::error::Error;

/// A device as its node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceStatus {
    /// As larder.toml names it.
    pub name: String,
    /// Whether it answers.
    pub state: DeviceState,
    /// Why it is broken; empty where it is not.
    pub reason: String,
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
    /// It failed and is not used again before the process ends: a GPU's error stays until then.
    Broken,
}

impl DeviceState {
    /// Every state.
    pub const ALL: [DeviceState; 3] = [DeviceState::Ready, DeviceState::Standby, DeviceState::Broken];

    /// The state's name in metrics and status replies.
    pub fn label(self) -> &'static str {
        match self {
            DeviceState::Ready => "ready",
            DeviceState::Standby => "standby",
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
    /// It panicked, as Burn's CUDA backend does when a kernel does not start.
    Panicked,
    /// It said that it failed.
    Failed,
    /// What it returned are not unit vectors.
    BadVectors,
    /// It did not answer for a long time.
    Silent,
}

impl FailureKind {
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

/// Why a device is given up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) error: Error,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, problem: impl fmt::Display) -> Failure {
        Failure { kind, error: Error::fault("a device", problem) }
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
