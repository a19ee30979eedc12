//! Live rows one by one, as applications send them: in a message of the node's interface, on a line of JSON, in a topic.
//!
//! In reading order: `row` is one of them, `json` a line that holds one; `columns` checks many of them against the views' declarations and makes
//! them columns; `changes` is what comes out, which the store takes. What comes as columns already goes through `Canonical` instead.

mod changes;
mod columns;
mod json;
mod row;

pub use changes::Changes;
pub use columns::changes;
pub use row::{Row, Value, WrongRow};
