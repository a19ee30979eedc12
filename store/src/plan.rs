//! What a fetch reads: a list of `view:feature` references, resolved once into positions, so that a request repeats no look-up by name.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use crate::Error;
use crate::metrics::ViewMetrics;
use crate::schema::{Projection, RowSchema};
use crate::view::{FeatureConfig, FeatureType, ViewConfig};

/// One feature of one view, as written `view:feature` in a feature service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeatureRef {
    /// The view's name.
    pub view: String,
    /// The feature's name.
    pub feature: String,
}

impl FeatureRef {
    /// Reads `view:feature`.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when the text is not of that form.
    pub fn parse(text: &str) -> Result<FeatureRef, Error> {
        match text.split_once(':') {
            Some((view, feature)) if !view.is_empty() && !feature.is_empty() => {
                Ok(FeatureRef { view: view.to_string(), feature: feature.to_string() })
            }
            _ => Err(Error::FixRequest(format!("{text:?} is not of the form view:feature"))),
        }
    }
}

/// A view as the store knows it: its declaration, the row layout that follows, and those that followed from earlier declarations.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) config: ViewConfig,
    pub(crate) schema: RowSchema,
    /// Every schema under which a row of this view may be stored. Grows, by whole replacement.
    schemas: ArcSwap<Vec<Arc<RowSchema>>>,
    metrics: OnceLock<ViewMetrics>,
}

impl View {
    pub(crate) fn new(config: &ViewConfig) -> View {
        View {
            config: config.clone(),
            schema: RowSchema::new(&config.features),
            schemas: ArcSwap::from_pointee(vec![Arc::new(RowSchema::new(&config.features))]),
            metrics: OnceLock::new(),
        }
    }

    /// What is counted of this view; made with the first fetch, when whoever listens has begun to.
    pub(crate) fn metrics(&self) -> &ViewMetrics {
        self.metrics.get_or_init(|| ViewMetrics::new(&self.config.name))
    }

    /// Takes note of a schema that stored rows have.
    pub(crate) fn know(&self, features: &[FeatureConfig]) {
        let schema = Arc::new(RowSchema::new(features));
        self.schemas.rcu(|known| {
            let mut known = Vec::clone(known);
            if !known.iter().any(|other| other.fingerprint == schema.fingerprint) {
                known.push(Arc::clone(&schema));
            }
            known
        });
    }

    pub(crate) fn schema_of(&self, fingerprint: u32) -> Option<Arc<RowSchema>> {
        self.schemas.load().iter().find(|schema| schema.fingerprint == fingerprint).cloned()
    }
}

/// A compiled list of features, made by [`Store::compile`](crate::Store::compile) and used for every fetch of the same features.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In order of first mention.
    pub(crate) views: Vec<PlannedView>,
}

/// Names and types.
type TypedFeatures = Vec<(String, FeatureType)>;

#[derive(Debug, Clone)]
pub(crate) struct PlannedView {
    pub(crate) view: Arc<View>,
    /// The wanted features, in order of mention.
    pub(crate) features: TypedFeatures,
    /// Where they lie in rows of each schema met so far, the declared one first. Shared by clones, replaced whole.
    projections: Arc<ArcSwap<Vec<Arc<Projection>>>>,
}

impl PlannedView {
    fn new(view: &Arc<View>, features: TypedFeatures) -> PlannedView {
        let declared = Arc::new(project(view, &view.schema, &features));
        PlannedView { view: Arc::clone(view), features, projections: Arc::new(ArcSwap::from_pointee(vec![declared])) }
    }

    pub(crate) fn projections(&self) -> Arc<Vec<Arc<Projection>>> {
        self.projections.load_full()
    }

    /// Learns to read rows of a schema; false when the view has none of that fingerprint.
    pub(crate) fn learn(&self, fingerprint: u32) -> bool {
        let Some(schema) = self.view.schema_of(fingerprint) else { return false };
        let projection = Arc::new(project(&self.view, &schema, &self.features));
        self.projections.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push(Arc::clone(&projection));
            known
        });
        true
    }
}

/// Where the wanted features lie in rows of `stored`.
fn project(view: &View, stored: &RowSchema, features: &TypedFeatures) -> Projection {
    Projection::new(stored, &view.schema, features.iter().map(|(name, _)| name.as_str()))
}

impl Plan {
    /// Resolves `features` against the declared views.
    pub(crate) fn compile(views: &[Arc<View>], features: &[FeatureRef]) -> Result<Plan, Error> {
        if features.is_empty() {
            let message = "a plan needs at least one feature".to_string();
            return Err(Error::FixRequest(message));
        }
        let mut wanted: Vec<(&Arc<View>, TypedFeatures)> = Vec::new();
        for FeatureRef { view, feature } in features {
            let declared = find_view(views, view)?;
            let index = declared.schema.index_of(feature).ok_or_else(|| {
                let known = declared.config.features.iter().map(|f| f.name.as_str());
                Error::FixRequest(format!("view {view} has no feature {feature}; it has {}", list(known)))
            })?;
            let typed = (feature.clone(), declared.schema.features[index].data_type);
            match wanted.iter_mut().find(|(v, _)| Arc::ptr_eq(v, declared)) {
                Some((_, names)) if names.contains(&typed) => {
                    let message = format!("{view}:{feature} is named twice");
                    return Err(Error::FixRequest(message));
                }
                Some((_, names)) => names.push(typed),
                None => wanted.push((declared, vec![typed])),
            }
        }
        let views: Vec<_> = wanted.into_iter().map(|(view, features)| PlannedView::new(view, features)).collect();
        Ok(Plan { views })
    }

    /// The features that this plan reads, view by view.
    pub fn features(&self) -> impl Iterator<Item = FeatureRef> + '_ {
        self.views.iter().flat_map(|planned| {
            planned
                .features
                .iter()
                .map(|(feature, _)| FeatureRef { view: planned.view.config.name.clone(), feature: feature.clone() })
        })
    }
}

pub(crate) fn find_view<'a>(views: &'a [Arc<View>], name: &str) -> Result<&'a Arc<View>, Error> {
    views.iter().find(|v| v.config.name == name).ok_or_else(|| {
        let known = views.iter().map(|v| v.config.name.as_str());
        Error::FixRequest(format!("there is no view {name}; declared are {}", list(known)))
    })
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
