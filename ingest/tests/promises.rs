//! Temporary shim.
mod support {
    #[path = "/work/main/tests/support/store.rs"]
    pub mod store;
}
#[path = "../../tests/store_tiers.rs"]
mod store_tiers;
#[path = "../../tests/store_recovery.rs"]
mod store_recovery;
