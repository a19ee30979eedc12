//! Larder's promises, a suite each: over real gRPC, real RocksDB in temporary folders and the real model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what went wrong by panicking.

mod support;

mod answer_cache;
mod answer_flow;
mod answer_quality;
mod backup;
mod change_stream;
mod chaos;
mod command_line;
mod delta_snapshots;
mod demo;
mod erasure;
mod feedback;
mod flight;
mod foreign_questions;
mod foreign_writers;
mod head_swap;
mod ingest_flow;
mod ingest_large;
mod inspection;
mod isolation;
mod lane;
mod live_races;
mod live_rows;
mod load_tool;
mod model_devices;
mod model_head;
mod model_parity;
mod object_stores;
mod operations;
mod overload;
mod python_programs;
mod random_histories;
mod rows;
mod rungs;
mod sample_shop;
mod schema_evolution;
mod sharding;
mod store_cold;
mod store_crash;
mod store_damage;
mod store_faults;
mod store_recovery;
mod store_tiers;
mod tenancy;
mod tidy;
mod verification;
mod warming;

/// The same allocator as the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
