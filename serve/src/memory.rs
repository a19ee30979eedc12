//! Whether what the configuration promises to hold in memory fits into what the process may use. A kernel that finds out later kills the node.

use larder_store::StoreConfig;

use crate::cgroup::Limits;
use crate::encoders::LoadedEncoder;
use crate::error::Error;

const MIB: u64 = 1 << 20;

/// Refuses budgets that alone are more than the limit.
pub(crate) fn check(store: &StoreConfig, limits: &Limits) -> Result<(), Error> {
    match limits.memory_bytes {
        Some(limit) if store.budget_bytes() > limit => {
            Err(Error::Memory { budget_mib: store.budget_bytes().div_ceil(MIB), limit_mib: limit / MIB })
        }
        _ => Ok(()),
    }
}

/// What an operator must know where the budgets and the encoders together are more than the limit. Only what has a fixed size is counted:
/// indexes, requests on their way and the program itself come on top.
pub(crate) fn warning(store: &StoreConfig, encoders: &[LoadedEncoder], limits: &Limits) -> Option<String> {
    let encoders = encoders.iter().map(|loaded| loaded.encoder.memory_bytes() as u64).sum();
    worded(store.budget_bytes(), encoders, limits.memory_bytes?)
}

fn worded(store: u64, encoders: u64, limit: u64) -> Option<String> {
    if store + encoders <= limit {
        return None;
    }
    let (sum, limit) = ((store + encoders).div_ceil(MIB), limit / MIB);
    let (store, encoders) = (store.div_ceil(MIB), encoders.div_ceil(MIB));
    Some(format!(
        "the caches of [store] ({store} MiB) and the encoders ({encoders} MiB) are {sum} MiB, more than the {limit} MiB that the cgroup \
         allows: make hot_capacity_mib or block_cache_mib smaller, or the node is killed when they fill"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_that_cannot_fit_refuse_the_start() {
        let store = StoreConfig::default();
        assert!(check(&store, &Limits::default()).is_ok());
        let roomy = Limits { memory_bytes: Some(store.budget_bytes()), ..Limits::default() };
        assert!(check(&store, &roomy).is_ok());
        let tight = Limits { memory_bytes: Some(512 * MIB), ..Limits::default() };
        let message = check(&store, &tight).unwrap_err().to_string();
        for part in ["689 MiB", "512 MiB", "hot_capacity_mib"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn encoders_on_top_are_warned_of() {
        assert_eq!(worded(600 * MIB, 90 * MIB, 690 * MIB), None);
        let text = worded(600 * MIB, 90 * MIB, 600 * MIB).unwrap();
        for part in ["600 MiB", "90 MiB", "690 MiB, more than the 600 MiB"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
