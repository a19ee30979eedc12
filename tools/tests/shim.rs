//! Temporary.
#[path = "../../tests/sample_shop.rs"]
mod sample_shop;
