//! Goes back part of the way from the fine-tuned weights to those the training began with.
//!
//! The weights between the two know the training texts less by heart and new ones at least as well (Wortsman et al. 2022, "Robust
//! fine-tuning of zero-shot models"). That matters here, because the ranking head is trained afterwards on the same questions: the
//! better an encoder remembers them, the more a head trusts what will not hold for new ones.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use crate::error::Error;
use crate::fine_tune::network::TrainableBert;
use crate::fine_tune::tensors::values;

/// The network `share` of the way from `start` to `tuned`.
pub(crate) fn blend(start: &TrainableBert, tuned: TrainableBert, share: f32) -> Result<TrainableBert, Error> {
    let mut collect = Collect { weights: Vec::new(), failed: None };
    start.visit(&mut collect);
    match collect.failed {
        Some(error) => Err(error),
        None => Ok(tuned.map(&mut Approach { start: collect.weights.into_iter(), share })),
    }
}

/// Every parameter's values, in the module's order.
struct Collect {
    weights: Vec<Vec<f32>>,
    failed: Option<Error>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        match values(parameter.val()) {
            Ok(values) => self.weights.push(values),
            Err(error) => self.failed = Some(error),
        }
    }
}

/// Moves every parameter, in the same order.
struct Approach {
    start: std::vec::IntoIter<Vec<f32>>,
    share: f32,
}

impl ModuleMapper for Approach {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(start) = self.start.next() else {
            return parameter;
        };
        parameter.map(|tuned| {
            let start = Tensor::from_data(TensorData::new(start, tuned.shape()), &tuned.device());
            let blended = tuned.without_autodiff() * self.share + start.without_autodiff() * (1.0 - self.share);
            Tensor::from_inner(blended)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    use crate::bert::config::BertConfig;
    use crate::fine_tune::fixture::write_tiny_bert;
    use crate::weights::WeightsFile;

    #[test]
    fn a_blend_lies_between_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_bert(folder.path(), "");
        let config = BertConfig::load(folder.path()).unwrap();
        let file = WeightsFile::read(&folder.path().join("model.safetensors")).unwrap();
        let load = || {
            let device = Device::flex().autodiff();
            TrainableBert::load(&config, file.tensors().unwrap(), &[0, 1, 2, 3], &device).unwrap()
        };
        let start = load();
        let weights = start.tensors().unwrap();
        let zero = load().map(&mut Approach { start: zeros(&start).into_iter(), share: 0.0 });
        for (share, factor) in [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)] {
            let blended = blend(&start, zero.clone(), share).unwrap().tensors().unwrap();
            for (name, values) in &blended {
                let expected = &weights[name];
                assert!(values.iter().zip(expected).all(|(a, b)| (a - b * factor).abs() < 1e-6), "{name} {share}");
            }
        }
    }

    fn zeros(network: &TrainableBert) -> Vec<Vec<f32>> {
        let mut collect = Collect { weights: Vec::new(), failed: None };
        network.visit(&mut collect);
        collect.weights.iter().map(|values| vec![0.0; values.len()]).collect()
    }
}
