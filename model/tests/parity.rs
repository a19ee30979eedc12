//! shim
#[path = "../../tests/model_parity.rs"]
mod model_parity;
#[path = "../../tests/model_head.rs"]
mod model_head;
