//! `larder load`: an open-loop load on a node, and the report of what became of it.
//!
//! **Why open-loop.** Customers do not wait for each other: they come when they come, also to a node that is late already. A generator
//! that waits for replies before it sends slows down with the node and hides what its customers see. Here every question has a
//! moment at which it is due, drawn before the run; it is sent then, and its latency counts from then.
//!
//! In reading order: `profile` says how much is offered when, `schedule` draws the moments, `mix` who asks what, `nodes` where that goes; `sender`
//! sends, `outcome` and `tally` say what became of it, `run` ties them together into a `Report`. Benchmarks drive `run` in their own process.

mod profile;
mod schedule;
mod trace;

mod questions;
mod shares;
mod users;
mod wording;
mod mix;

mod nodes;
mod load_plan;
mod pacer;
mod sender;
mod run;

mod outcome;
mod slice;
mod series;
mod tally;
mod report;

mod search;
mod capacity;
mod scenario;

mod arguments;
mod units;
mod command;
mod report_text;
mod report_html;
mod report_charts;
mod chart;
mod axis;

#[cfg(test)]
mod synthetic;

pub(crate) use arguments::Arguments;
pub(crate) use command::run as run_command;

pub use capacity::{CapacitySearch, Watched, find_capacity};

pub use load_plan::{LoadPlan, MAX_CONNECTIONS, MAX_DEADLINE, MAX_IN_FLIGHT, MAX_THREADS, Stop};
pub use mix::{Ingredients, Mix};
pub use nodes::{MAX_NODES, Nodes};
pub use profile::{MAX_DURATION, MAX_RATE, Profile};
pub use questions::{MAX_QUESTIONS, Question};
pub use report::{
    Capacity, Distribution, Drift, Generator, Latency, MAX_GENERATOR_CPU, MAX_LAG_P99_MS, Phase, Report, RungCounts,
    Second, Step, Totals,
};
pub use run::{Progress, run};
pub use scenario::{MAX_TIME_SCALE, Scenario};
pub use schedule::{Arrivals, Offer};
pub use shares::Shares;
pub use trace::Trace;
pub use users::{MAX_USERS, MAX_ZIPF, Users};
