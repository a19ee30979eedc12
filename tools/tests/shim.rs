//! Temporary.
#[path = "../../tests/sample_shop.rs"]
mod sample_shop;
#[path = "../../tests/command_line.rs"]
mod command_line;
mod support { pub(crate) fn encoder_folder() -> std::path::PathBuf { "/root/.cache/larder/models/minilm-l6".into() } }
