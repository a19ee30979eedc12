//! What the benchmarks have in common: the rows they run on, how two sides are measured in turns, where figures go. The benchmarks
//! themselves are in the folders beside this one, one per promise, each beside its baseline.

mod field;
mod text;
mod record;
mod shop;
mod answer;
mod batches;
mod measure;
mod cores;
mod crowd;
mod python;
mod served;
mod bank;
mod report;

pub use answer::{Answer, sum};
pub use bank::{Bank, TENANTS};
pub use batches::{Batch, uniform_batches, zipf_batches};
pub use cores::{all_cores, on_core, only_core};
pub use crowd::{Crowding, MAX_CROWDING, MAX_OTHERS_CORES, Watch, others_cores};
pub use field::{Field, Packed, Time};
pub use measure::{Outcome, in_turns, median, micros, percentile, setting};
pub use python::Python;
pub use record::ReadFields;
pub use report::Figures;
pub use served::{CpuTimes, LOAD_CORE, NODE_CORE, ServedNode, larder, run_larder};
pub use shop::{
    ACCOUNT, Account, AccountColumns, GENERATION, LIVE_EVERY, NOW_MS, ORDERS, ORDERS_PER_USER, Order, OrderColumns,
    PROFILE, Profile, ProfileColumns, SNAPSHOT_MS, TENANT, TTL_S, User, account_batch, account_view, is_live, name,
    orders, orders_batch, orders_view, profile, profile_batch, profile_view,
};
pub use text::{Scalar, TextField};
