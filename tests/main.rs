//! Larder's promises, a suite each: over real gRPC, real RocksDB in temporary folders and the real model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what went wrong by panicking.

mod support;

mod answer_flow;
mod answer_quality;
mod command_line;
mod demo;
mod erasure;
mod foreign_questions;
mod head_swap;
mod ingest_flow;
mod live_races;
mod live_rows;
mod model_devices;
mod model_head;
mod model_parity;
mod operations;
mod overload;
mod random_histories;
mod rungs;
mod sample_shop;
mod schema_evolution;
mod store_cold;
mod store_crash;
mod store_damage;
mod store_faults;
mod store_recovery;
mod store_tiers;
mod tenancy;
mod tidy;

/// The same allocator as the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
