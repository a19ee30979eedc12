//! Larder's promises, a suite each: over real gRPC, real RocksDB in temporary folders and the real model.

mod support;

mod answer_flow;
mod ingest_flow;
mod model_parity;
mod overload;
mod store_recovery;
mod store_tiers;
mod tenancy;
mod tidy;

/// The same allocator as the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
