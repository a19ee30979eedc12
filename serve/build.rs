//! Compiles the proto files into Rust types and into the descriptor set that reflection serves. protox stands in for protoc.

use std::path::PathBuf;

const PROTOS: [&str; 6] = [
    "larder/v1/answer.proto",
    "larder/v1/features.proto",
    "larder/v1/lane.proto",
    "larder/v1/feedback.proto",
    "larder/v1/rows.proto",
    "larder/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("larder.v1.bin"), {
        use prost::Message;
        descriptors.encode_to_vec()
    })?;
    tonic_prost_build::configure().codec_path("crate::codec::Codec").compile_fds(descriptors)?;
    Ok(())
}
