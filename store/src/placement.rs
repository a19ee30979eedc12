//! Where a build puts an entity: into the warm tier, or into the cold one when it has not changed for long and nobody has asked for it lately.

use std::collections::HashSet;

/// How a generation's entities are divided between the tiers. By default all of them are warm.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    /// Entities whose newest row is older than this are placed cold, Unix milliseconds UTC.
    pub cold_before_ms: Option<i64>,
    /// Entities that are placed warm whatever their age: those that were asked for recently.
    pub active: HashSet<String>,
}

impl Placement {
    pub(crate) fn is_cold(&self, entity: &str, newest_ms: i64) -> bool {
        self.cold_before_ms.is_some_and(|before_ms| newest_ms < before_ms) && !self.active.contains(entity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entities_are_cold_unless_somebody_asked_for_them() {
        let all_warm = Placement::default();
        assert!(!all_warm.is_cold("ada", i64::MIN));
        let placement = Placement { cold_before_ms: Some(100), active: HashSet::from(["bob".to_string()]) };
        assert!(placement.is_cold("ada", 99));
        assert!(!placement.is_cold("ada", 100));
        assert!(!placement.is_cold("bob", 99));
    }
}
