//! The encoders of a node: each distinct setting is loaded once, whichever tenants and rungs use it.

use larder_model::{Devices, Encoder, EncoderConfig};

use crate::error::Error;
use crate::rung::Rung;

/// What has been loaded so far.
#[derive(Debug)]
pub(crate) struct Encoders {
    devices: Devices,
    loaded: Vec<LoadedEncoder>,
}

/// An encoder and the rungs that it serves, of one tenant or another.
#[derive(Debug)]
pub(crate) struct LoadedEncoder {
    config: EncoderConfig,
    pub(crate) encoder: Encoder,
    pub(crate) rungs: Vec<Rung>,
}

impl Encoders {
    /// Loads nothing yet.
    pub(crate) fn on(devices: &Devices) -> Encoders {
        Encoders { devices: devices.clone(), loaded: Vec::new() }
    }

    /// The encoder of that setting, for a rung.
    pub(crate) fn get(&mut self, config: &EncoderConfig, rung: Rung) -> Result<Encoder, Error> {
        if let Some(loaded) = self.loaded.iter_mut().find(|loaded| loaded.config == *config) {
            if !loaded.rungs.contains(&rung) {
                loaded.rungs.push(rung);
            }
            return Ok(loaded.encoder.clone());
        }
        let encoder = Encoder::load(config, &self.devices).map_err(|source| Error::Model {
            context: match rung {
                Rung::Full => "the encoder of the rung full".to_owned(),
                Rung::Light => "the encoder of the rung light (folder = \"\" leaves the rung out)".to_owned(),
            },
            source,
        })?;
        self.loaded.push(LoadedEncoder { config: config.clone(), encoder: encoder.clone(), rungs: vec![rung] });
        Ok(encoder)
    }

    /// Everything that was loaded, in that order.
    pub(crate) fn into_loaded(self) -> Vec<LoadedEncoder> {
        self.loaded
    }
}
