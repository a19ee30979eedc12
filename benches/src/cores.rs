//! Which cores may run what: a server and the program that loads it must not share one. `taskset` does it, which util-linux has had for
//! ever, so that no code here needs to be unsafe.

use std::process::{Command, Stdio};

use crate::Outcome;

/// A command that will run on one core only.
pub fn on_core(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string(), program]);
    command
}

/// Keeps all threads of this process on one core, and those that they start.
///
/// # Errors
/// `taskset` is missing or refuses.
pub fn only_core(core: usize) -> Outcome<()> {
    move_to(&core.to_string())
}

/// Lets this process use all cores again.
///
/// # Errors
/// `taskset` is missing or refuses.
pub fn all_cores() -> Outcome<()> {
    let cores = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    move_to(cores.trim())
}

fn move_to(cores: &str) -> Outcome<()> {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cores, &std::process::id().to_string()]);
    let status = command.stdout(Stdio::null()).status().map_err(|error| format!("taskset: {error}"))?;
    if !status.success() {
        return Err(format!("taskset cannot move this process to core {cores}").into());
    }
    Ok(())
}
