//! The names of devices as larder.toml writes them: `cpu`, `cuda:0`, `cuda:1` and so on.

use std::fmt;

use crate::error::Error;

/// The most devices of one node.
const MAX_DEVICES: usize = 17;
/// The highest number a GPU may have.
const MAX_CUDA: usize = 63;

/// One device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceName {
    /// The CPU, all of it: one pool of threads.
    Cpu,
    /// The NVIDIA GPU that the driver counts so.
    Cuda(usize),
}

impl DeviceName {
    /// Reads and checks the list of larder.toml: at least one, none twice, and only such as this build can run.
    pub(crate) fn parse_all(names: &[String]) -> Result<Vec<DeviceName>, Error> {
        let refuse = |allowed: String| Error::config("devices", format!("{names:?}"), allowed);
        if names.is_empty() || names.len() > MAX_DEVICES {
            return Err(refuse(format!("name 1 to {MAX_DEVICES} devices, for example [\"cpu\"]")));
        }
        let mut devices = Vec::with_capacity(names.len());
        for name in names {
            let device = DeviceName::parse(name).ok_or_else(|| {
                refuse(format!("{name:?} is no device; devices are cpu and cuda:0 to cuda:{MAX_CUDA}"))
            })?;
            if devices.contains(&device) {
                return Err(refuse(format!("{name:?} stands there twice")));
            }
            if matches!(device, DeviceName::Cuda(_)) && !cfg!(feature = "cuda") {
                return Err(refuse(format!(
                    "{name:?} needs a build with GPUs: `cargo build --release --package larder --features cuda`; \
                     docs/gpu.md says what that takes"
                )));
            }
            devices.push(device);
        }
        Ok(devices)
    }

    fn parse(name: &str) -> Option<DeviceName> {
        if name == "cpu" {
            return Some(DeviceName::Cpu);
        }
        let digits = name.strip_prefix("cuda:")?;
        let number: usize = digits.parse().ok().filter(|number| *number <= MAX_CUDA)?;
        // "+1" and "01" are numbers too.
        (digits == number.to_string()).then_some(DeviceName::Cuda(number))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => formatter.write_str("cpu"),
            DeviceName::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<Vec<DeviceName>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        DeviceName::parse_all(&names).map_err(|error| error.to_string())
    }

    #[test]
    fn names_survive_being_written() {
        for name in ["cpu", "cuda:0", "cuda:7", "cuda:63"] {
            assert_eq!(DeviceName::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_is_no_device_is_refused_and_named() {
        for name in ["gpu", "cuda", "cuda:", "cuda:64", "cuda:-1", "cuda:+1", "cuda:01", "CPU", ""] {
            let message = parse(&[name]).unwrap_err();
            assert!(message.contains("devices") && message.contains("cuda:0"), "{message}");
        }
        assert!(parse(&["cpu", "cpu"]).unwrap_err().contains("twice"));
        assert!(parse(&[]).unwrap_err().contains("[\"cpu\"]"));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_without_the_feature_is_refused_with_the_way_to_build_it() {
        let message = parse(&["cuda:0", "cpu"]).unwrap_err();
        assert!(message.contains("--features cuda") && message.contains("docs/gpu.md"), "{message}");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn gpus_and_the_cpu_may_stand_together() {
        assert_eq!(parse(&["cuda:1", "cpu"]).unwrap(), [DeviceName::Cuda(1), DeviceName::Cpu]);
    }
}
