//! Who a request speaks for. Made once, from the caller's identity, and carried through every stage.

use std::fmt;
use std::sync::Arc;

use larder_store::TenantId;
use serde::{Deserialize, Serialize};

/// Who asks: never taken from a field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    /// The tenant's name, as larder.toml declares it.
    pub tenant: Arc<str>,
    /// The tenant's number, part of every key.
    pub tenant_id: TenantId,
    /// The user whose features are read; empty = nobody in particular, and no features.
    pub user: String,
    /// The conversation the question belongs to; empty = none.
    pub session: String,
    /// How much the answer matters when not all can be had.
    pub class: Class,
}

/// How much an answer matters when not all can be had; the higher class is the lesser in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// To be served first and degraded last.
    Vip,
    /// Everybody.
    Normal,
    /// Work nobody waits for.
    Bulk,
}

impl Class {
    /// Every class, the highest first; a class's position is `class as usize`.
    pub const ALL: [Class; 3] = [Class::Vip, Class::Normal, Class::Bulk];

    /// The label in metrics and metadata.
    pub fn label(self) -> &'static str {
        match self {
            Class::Vip => "vip",
            Class::Normal => "normal",
            Class::Bulk => "bulk",
        }
    }

    /// The class of that label.
    pub fn parse(label: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.label() == label)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}
