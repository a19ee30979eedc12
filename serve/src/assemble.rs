//! From fetched columns to what the model and the templates take: where each service's features stand in the fetch.
//!
//! All tenants' services are compiled into one read plan, so that a batch of many tenants is one read. Each service
//! knows the positions of its own features in that read, and sees nothing else.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use larder_model::{FeatureEncoder, FeatureValue};
use larder_store::{FeatureRef, Fetched, FetchedView, Plan, Status, Store, ViewKind};
use serde_json::Value;

use crate::cell::{Cell, cell, elements};
use crate::config::{NodeConfig, ServiceConfig};
use crate::question::Provenance;

/// The one read of every batch.
#[derive(Debug)]
pub(crate) struct AnswerPlan {
    pub(crate) plan: Plan,
    references: Vec<FeatureRef>,
}

impl AnswerPlan {
    /// The union of the services that tenants answer with.
    pub(crate) fn compile(store: &Store, config: &NodeConfig) -> Result<AnswerPlan, larder_store::Error> {
        let mut references: Vec<FeatureRef> = Vec::new();
        let used = |service: &&ServiceConfig| config.tenants.iter().any(|tenant| tenant.service == service.name);
        for reference in config.services.iter().filter(used).flat_map(ServiceConfig::references) {
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        Ok(AnswerPlan { plan: store.compile(&references)?, references })
    }

    /// Where view and feature stand in the fetch: views in the order of their first feature, features in theirs.
    fn position(&self, wanted: &FeatureRef) -> Option<(usize, usize)> {
        let mut views: Vec<&str> = Vec::new();
        for reference in &self.references {
            if !views.contains(&reference.view.as_str()) {
                views.push(&reference.view);
            }
        }
        let view = views.iter().position(|view| *view == wanted.view)?;
        let mut features = self.references.iter().filter(|reference| reference.view == wanted.view);
        let feature = features.position(|reference| reference.feature == wanted.feature)?;
        Some((view, feature))
    }
}

/// The variables of a template: lists without, objects with the names of their fields.
pub(crate) type Variables = BTreeMap<String, Option<Vec<String>>>;

/// The name of a history's newest element: the view's own without its plural s.
pub(crate) fn newest_name(view: &str) -> Option<&str> {
    view.strip_suffix('s').filter(|name| !name.is_empty())
}

/// A service's features, by their positions in the fetch.
#[derive(Debug)]
pub(crate) struct ServiceLayout {
    /// One for each view the service names.
    pub(crate) views: Vec<ViewLayout>,
    encoded: Vec<(usize, usize)>,
    encoder: FeatureEncoder,
}

/// A view's features, by their positions in the fetch.
#[derive(Debug)]
pub(crate) struct ViewLayout {
    pub(crate) view: usize,
    pub(crate) columns: Vec<(String, usize)>,
}

impl ServiceLayout {
    pub(crate) fn new(plan: &AnswerPlan, service: &ServiceConfig) -> Result<ServiceLayout, larder_model::Error> {
        let mut views: Vec<ViewLayout> = Vec::new();
        let mut encoded = Vec::new();
        for entry in &service.features {
            // Every feature of a used service is in the plan, so its position is always found.
            let Some((reference, (view, column))) =
                entry.reference().and_then(|reference| plan.position(&reference).map(|at| (reference, at)))
            else {
                continue;
            };
            match views.iter_mut().find(|layout| layout.view == view) {
                Some(layout) => layout.columns.push((reference.feature, column)),
                None => views.push(ViewLayout { view, columns: vec![(reference.feature, column)] }),
            }
            if entry.encode.is_some() {
                encoded.push((view, column));
            }
        }
        Ok(ServiceLayout { views, encoded, encoder: FeatureEncoder::new(service.encoded_features())? })
    }

    /// The same for views that stand in a fetch with all their features, in the service's order.
    #[cfg(test)]
    pub(crate) fn of_views(service: &ServiceConfig, views: &[&str]) -> ServiceLayout {
        let references = service.references();
        let layout = |(view, name): (usize, &&str)| {
            let features = references.iter().filter(|reference| reference.view == **name);
            let columns = features.enumerate().map(|(column, reference)| (reference.feature.clone(), column)).collect();
            ViewLayout { view, columns }
        };
        let encoder = FeatureEncoder::new(service.encoded_features()).unwrap();
        ServiceLayout { views: views.iter().enumerate().map(layout).collect(), encoded: Vec::new(), encoder }
    }

    /// The names that a template may use, and for objects the fields each has.
    pub(crate) fn variables(&self, node: &NodeConfig, service: &ServiceConfig) -> Variables {
        let mut variables = Variables::new();
        for reference in service.references() {
            let history = node.view(&reference.view).is_some_and(|view| view.kind == ViewKind::LastN);
            let object = if history {
                variables.insert(reference.view.clone(), None);
                match newest_name(&reference.view) {
                    Some(newest) => newest,
                    None => continue,
                }
            } else {
                &reference.view
            };
            let fields = variables.entry(object.to_owned()).or_insert_with(|| Some(Vec::new()));
            fields.get_or_insert_default().push(reference.feature);
        }
        variables
    }

    pub(crate) fn encoder(&self) -> &FeatureEncoder {
        &self.encoder
    }

    /// Appends phi of one user, `encoder().width()` numbers; without a row every feature is missing.
    pub(crate) fn append_phi(
        &self,
        fetched: Option<(&Fetched, usize)>,
        now_ms: i64,
        phi: &mut Vec<f32>,
    ) -> Result<(), larder_model::Error> {
        let values: Vec<FeatureValue<'_>> = match fetched {
            Some((fetched, row)) => {
                let newest = |&(view, column): &(usize, usize)| newest_value(&fetched.views[view], column, row);
                self.encoded.iter().map(newest).collect()
            }
            None => vec![FeatureValue::Missing; self.encoded.len()],
        };
        let start = phi.len();
        phi.resize(start + self.encoder.width(), 0.0);
        self.encoder.encode(&values, now_ms, &mut phi[start..])
    }

    /// The values that phi of one user is made from, by `view:feature`: what a head learns from later, when the rows have changed.
    pub(crate) fn logged(&self, fetched: Option<(&Fetched, usize)>) -> BTreeMap<String, Value> {
        let value = |(view, column): (usize, usize)| match fetched {
            Some((fetched, row)) => logged_value(newest_value(&fetched.views[view], column, row)),
            None => Value::Null,
        };
        let features = self.encoder.features().iter().zip(&self.encoded);
        features.map(|(encoded, at)| (encoded.feature.clone(), value(*at))).collect()
    }

    /// Where the features of one user came from, by view.
    pub(crate) fn provenance(&self, fetched: &Fetched, row: usize, now_ms: i64) -> Vec<Provenance> {
        let of_view = |layout: &ViewLayout| {
            let view = &fetched.views[layout.view];
            let present = view.status[row] == Status::Present;
            Provenance {
                view: view.name.clone(),
                status: view.status[row],
                tier: view.tier[row],
                event_time_ms: if present { view.event_time_ms[row] } else { 0 },
                age_ms: if present { (now_ms - view.event_time_ms[row]).max(0) } else { 0 },
                generation: view.generation[row],
            }
        };
        self.views.iter().map(of_view).collect()
    }
}

/// A value as `LabelledQuestion` reads it. A number that is not finite is missing there as it is here.
fn logged_value(value: FeatureValue<'_>) -> Value {
    match value {
        FeatureValue::Missing => Value::Null,
        FeatureValue::Text(text) => text.into(),
        FeatureValue::Number(number) => number.into(),
        FeatureValue::Flag(flag) => flag.into(),
        FeatureValue::Time(time_ms) => time_ms.into(),
    }
}

/// A feature as the ranking head sees it: of a history, the newest element's.
fn newest_value(view: &FetchedView, column: usize, row: usize) -> FeatureValue<'_> {
    let column = &view.columns[column];
    let value = match view.kind {
        ViewKind::Latest => cell(column.as_ref(), row),
        ViewKind::LastN => {
            let history = column.as_list::<i32>();
            match elements(history, row).next() {
                Some(newest) => cell(history.values().as_ref(), newest),
                None => Cell::Null,
            }
        }
    };
    match value {
        Cell::Bool(flag) => FeatureValue::Flag(flag),
        Cell::Int(number) => FeatureValue::Number(number as f64),
        Cell::Float(number) => FeatureValue::Number(number),
        Cell::Text(text) => FeatureValue::Text(text),
        Cell::Time(time_ms) => FeatureValue::Time(time_ms),
        Cell::Null | Cell::Floats(_) => FeatureValue::Missing,
    }
}
