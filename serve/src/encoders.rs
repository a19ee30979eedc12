//! The encoders of a node: each distinct setting is loaded once, whichever tenants and rungs use it.

use std::sync::Arc;

use larder_model::{Devices, Encoder, EncoderConfig};
use larder_store::{Breaker, BreakerConfig};

use crate::cost::CostModel;
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
    /// Its position among the node's encoders.
    pub(crate) number: usize,
    /// What it takes on this machine.
    pub(crate) cost: Arc<CostModel>,
    /// Leaves it alone for a while when it fails again and again.
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) rungs: Vec<Rung>,
}

impl Encoders {
    /// Loads nothing yet.
    pub(crate) fn on(devices: &Devices) -> Encoders {
        Encoders { devices: devices.clone(), loaded: Vec::new() }
    }

    /// The encoder of that setting, for a rung.
    pub(crate) fn get(&mut self, config: &EncoderConfig, rung: Rung) -> Result<&LoadedEncoder, Error> {
        if let Some(at) = self.loaded.iter().position(|loaded| loaded.config == *config) {
            let loaded = &mut self.loaded[at];
            if !loaded.rungs.contains(&rung) {
                loaded.rungs.push(rung);
            }
            return Ok(loaded);
        }
        let encoder = Encoder::load(config, &self.devices).map_err(|source| Error::Model {
            context: match rung {
                Rung::Full => "the encoder of the rung full".to_owned(),
                Rung::Light => "the encoder of the rung light (folder = \"\" leaves the rung out)".to_owned(),
            },
            source,
        })?;
        let (number, cost) = (self.loaded.len(), Arc::new(CostModel::new()));
        let dependency = format!("encoder {}", encoder.name());
        let breaker = Arc::new(Breaker::new(dependency, BreakerConfig::default(), number as u64));
        let loaded = LoadedEncoder { config: config.clone(), encoder, number, cost, breaker, rungs: vec![rung] };
        Ok(self.loaded.push_mut(loaded))
    }

    /// Everything that was loaded, in that order.
    pub(crate) fn into_loaded(self) -> Vec<LoadedEncoder> {
        self.loaded
    }
}
