//! What the process may use of its machine: the CPU and memory limits of its cgroup, of both versions.
//!
//! A limit holds for all groups below the one that sets it, so the path is walked up to the root and the tightest one counts. In a container
//! the path that the kernel names may lie outside of what is mounted; then what is mounted is the container's own group.

use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Which groups this process is in.
const MEMBERSHIP: &str = "/proc/self/cgroup";
/// What version 1 writes for "no limit" is a number of this size or more.
const NO_LIMIT: u64 = 1 << 60;

/// The limits; none where nothing limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Limits {
    /// CPUs' worth of time.
    pub(crate) cpus: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
}

impl Limits {
    /// Of this process.
    pub(crate) fn here() -> Limits {
        let membership = std::fs::read_to_string(MEMBERSHIP).unwrap_or_default();
        Limits::read(Path::new(ROOT), &membership)
    }

    /// Of a process with this `/proc/self/cgroup`, whose cgroups are mounted at `root`.
    fn read(root: &Path, membership: &str) -> Limits {
        let mut limits = Limits::default();
        for line in membership.lines() {
            // "4:memory:/some/group", and in version 2 "0::/some/group".
            let mut fields = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                for folder in folders(root, path).chain(folders(&root.join("unified"), path)) {
                    limits
                        .tighten(text(&folder, "cpu.max").and_then(|max| cpu_max(&max)), number(&folder, "memory.max"));
                }
            }
            for controller in controllers.split(',') {
                let mounted = root.join(controller);
                for folder in folders(&mounted, path) {
                    match controller {
                        "cpu" => limits.tighten(cpu_quota(&folder), None),
                        "memory" => limits.tighten(None, number(&folder, "memory.limit_in_bytes")),
                        _ => {}
                    }
                }
            }
        }
        limits
    }

    fn tighten(&mut self, cpus: Option<f64>, memory_bytes: Option<u64>) {
        let memory_bytes = memory_bytes.filter(|bytes| *bytes < NO_LIMIT);
        self.cpus = [self.cpus, cpus].into_iter().flatten().reduce(f64::min);
        self.memory_bytes = [self.memory_bytes, memory_bytes].into_iter().flatten().min();
    }
}

/// The folders of a group and of all above it.
fn folders(mounted: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let group = mounted.join(path.trim_start_matches('/'));
    let mounted = mounted.to_path_buf();
    let own: Vec<PathBuf> =
        group.ancestors().take_while(|folder| folder.starts_with(&mounted)).map(Path::to_path_buf).collect();
    own.into_iter()
}

fn text(folder: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(file)).ok()
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    text(folder, file)?.trim().parse().ok()
}

/// "max 100000" or "150000 100000": microseconds of each period.
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    share(quota.parse().ok()?, period.parse().ok()?)
}

fn cpu_quota(folder: &Path) -> Option<f64> {
    share(number(folder, "cpu.cfs_quota_us")?, number(folder, "cpu.cfs_period_us")?)
}

fn share(quota_us: u64, period_us: u64) -> Option<f64> {
    (quota_us > 0 && period_us > 0).then(|| quota_us as f64 / period_us as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], membership: &str) -> Limits {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Limits::read(root.path(), membership)
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let files = [
            ("pods/a/cpu.max", "max 100000\n"),
            ("pods/a/memory.max", "2147483648\n"),
            ("pods/cpu.max", "150000 100000\n"),
            ("pods/memory.max", "1073741824\n"),
        ];
        let expected = Limits { cpus: Some(1.5), memory_bytes: Some(1 << 30) };
        assert_eq!(read(&files, "0::/pods/a\n"), expected);
        assert_eq!(read(&files, "0::/elsewhere\n"), Limits::default());
    }

    #[test]
    fn version_1_and_containers_are_read_too() {
        let files = [
            ("cpu/docker/x/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_quota_us", "200000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "536870912\n"),
        ];
        let expected = Limits { cpus: Some(2.0), memory_bytes: Some(512 << 20) };
        assert_eq!(read(&files, "4:memory:/docker/x\n3:cpuacct,cpu:/docker/x\n0::/\n"), expected);
        let unlimited = [("memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(read(&unlimited, "4:memory:/\n"), Limits::default());
    }

    #[test]
    fn nothing_and_nonsense_are_no_limit() {
        for membership in ["", "nonsense", "0::", "0::/../../etc", "::"] {
            assert_eq!(read(&[("cpu.max", "much 0"), ("memory.max", "max\n")], membership), Limits::default());
        }
    }
}
