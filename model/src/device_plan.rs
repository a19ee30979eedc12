//! Which devices are to be opened: those of larder.toml or the rehearsed ones of a test, and the CPU on standby where it is not among them.

use burn::tensor::DType;

use crate::accelerator_thread::Source;
use crate::config::ModelConfig;
use crate::device_name::DeviceName;
use crate::device_status::DeviceState;
use crate::error::Error;
use crate::rehearsal::{Flaw, Rehearsal};

/// A device to open.
#[derive(Debug)]
pub(crate) struct DevicePlan {
    pub(crate) name: String,
    /// When it opens well.
    pub(crate) state: DeviceState,
    pub(crate) kind: Planned,
}

#[derive(Debug)]
pub(crate) enum Planned {
    Cpu { threads: usize, flaw: Option<Flaw> },
    Accelerator { source: Source, dtype: DType },
}

impl DevicePlan {
    /// The devices that larder.toml lists, in its order.
    pub(crate) fn of_config(config: &ModelConfig) -> Result<Vec<DevicePlan>, Error> {
        let names = DeviceName::parse_all(&config.devices)?;
        let mut plans: Vec<DevicePlan> = Vec::with_capacity(names.len() + 1);
        for name in names {
            let kind = match name {
                DeviceName::Cpu => Planned::Cpu { threads: config.threads, flaw: None },
                DeviceName::Cuda(number) => {
                    Planned::Accelerator { source: Source::Cuda(number), dtype: config.cuda_dtype.into() }
                }
            };
            plans.push(DevicePlan { name: name.to_string(), state: DeviceState::Ready, kind });
        }
        Ok(with_a_cpu(plans, config.threads))
    }

    /// The devices of a test, numbered, because several may be alike.
    pub(crate) fn of_rehearsal(devices: Vec<Rehearsal>, threads: usize) -> Vec<DevicePlan> {
        let plan = |(number, device): (usize, Rehearsal)| {
            let (name, kind) = match device {
                Rehearsal::Cpu { threads, flaw } => (format!("cpu:{number}"), Planned::Cpu { threads, flaw }),
                Rehearsal::Accelerator { flaw } => {
                    let (source, dtype) = (Source::Rehearsal(flaw), DType::F32);
                    (format!("rehearsal:{number}"), Planned::Accelerator { source, dtype })
                }
            };
            DevicePlan { name, state: DeviceState::Ready, kind }
        };
        with_a_cpu(devices.into_iter().enumerate().map(plan).collect(), threads)
    }
}

/// The CPU is always there: if nobody listed it, on standby.
fn with_a_cpu(mut plans: Vec<DevicePlan>, threads: usize) -> Vec<DevicePlan> {
    if !plans.iter().any(|plan| matches!(plan.kind, Planned::Cpu { .. })) {
        let kind = Planned::Cpu { threads, flaw: None };
        plans.push(DevicePlan { name: DeviceName::Cpu.to_string(), state: DeviceState::Standby, kind });
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_cpu() {
        let listed = DevicePlan::of_config(&ModelConfig::default()).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].state), ("cpu", DeviceState::Ready));
        let unlisted = DevicePlan::of_rehearsal(vec![Rehearsal::Accelerator { flaw: None }], 1);
        assert_eq!(unlisted.len(), 2);
        assert_eq!((unlisted[1].name.as_str(), unlisted[1].state), ("cpu", DeviceState::Standby));
    }
}
