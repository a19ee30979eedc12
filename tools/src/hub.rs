//! The first source of a model: its files, one by one over HTTPS, from the hub.
//!
//! A hub that does not answer is given up after a few seconds, because many machines cannot reach it and the registry's package is
//! the next source.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ureq::Agent;

use crate::files::sha256_file;
use crate::known_models::{HubSource, KnownModel, ModelFile};
use crate::progress::{Stage, Unit, bytes};

const HUB: &str = "https://huggingface.co";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 1 << 16;

/// Downloads all files of a model into `folder` and checks each.
pub(crate) fn download(model: &KnownModel, folder: &Path) -> Result<()> {
    let agent: Agent = Agent::config_builder()
        .https_only(true)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .build()
        .into();
    for file in model.files {
        download_file(&agent, &model.hub, file, folder).with_context(|| format!("the hub's {}", file.name))?;
    }
    Ok(())
}

fn download_file(agent: &Agent, hub: &HubSource, file: &ModelFile, folder: &Path) -> Result<()> {
    let url = format!("{HUB}/{}/resolve/{}/{}", hub.repository, hub.revision, file.name);
    let stage = Stage::start(file.name, Unit::Bytes);
    // One byte more than expected tells a file that is too long from one that is right.
    let mut body = agent.get(&url).call()?.into_body().into_with_config().limit(file.hub.bytes + 1).reader();
    let path = folder.join(file.name);
    let mut out = File::create(&path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut received = 0;
    loop {
        let n = body.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        out.write_all(&buffer[..n])?;
        received += n as u64;
        stage.set(received, file.hub.bytes);
    }
    out.sync_all()?;
    let sha256 = sha256_file(&path)?;
    ensure!(sha256 == file.hub.sha256, "sha256 is {sha256} and must be {}", file.hub.sha256);
    stage.done(bytes(received));
    Ok(())
}
