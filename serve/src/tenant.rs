//! One tenant at run time: its catalogue, its templates, and what ranks its questions on each rung. Nothing here is shared between tenants
//! but the encoders, which hold nothing of any tenant.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use larder_model::{Catalogue, CatalogueIndex, Encoder, Head};
use larder_store::{Breaker, TenantId};

use crate::assemble::{AnswerPlan, ServiceLayout};
use crate::config::{NodeConfig, TenantConfig};
use crate::cost::CostModel;
use crate::encoders::{Encoders, LoadedEncoder};
use crate::error::{Error, Refusal};
use crate::render::Renderer;
use crate::rung::Rung;

#[derive(Debug)]
pub(crate) struct Tenant {
    /// For the log; never for a reply to another tenant.
    pub(crate) name: String,
    pub(crate) id: TenantId,
    pub(crate) catalogue: Catalogue,
    pub(crate) layout: Arc<ServiceLayout>,
    pub(crate) renderer: Renderer,
    pub(crate) hand_over: String,
    pub(crate) full: Ranker,
    /// None where the tenant has no such rung, or nobody shall be answered on it.
    pub(crate) light: Option<Ranker>,
}

/// What ranks a tenant's questions on one rung. Index and head belong to this encoder and to no other.
#[derive(Debug)]
pub(crate) struct Ranker {
    pub(crate) encoder: Encoder,
    /// The encoder's position among the node's.
    pub(crate) number: usize,
    /// Of this encoder, whichever tenants use it.
    pub(crate) cost: Arc<CostModel>,
    /// Of this encoder too.
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) index: CatalogueIndex,
    /// Swapped whole: a batch takes it once and ranks with what it took.
    head: ArcSwap<Head>,
    head_file: Option<PathBuf>,
    /// Of a text; what is longer is cut.
    pub(crate) max_tokens: usize,
}

impl Tenant {
    /// Loads what larder.toml names for a tenant and encodes its catalogue for each of its rungs.
    pub(crate) fn load(
        config: &TenantConfig,
        node: &NodeConfig,
        plan: &AnswerPlan,
        encoders: &mut Encoders,
    ) -> Result<Tenant, Error> {
        let refuse = |message: String| Error::Catalogue { tenant: config.name.clone(), message };
        let model = |what: &str| {
            let context = format!("tenant \"{}\": {what}", config.name);
            move |source| Error::Model { context, source }
        };
        let service = node
            .service(&config.service)
            .ok_or_else(|| refuse(format!("service \"{}\" is not declared", config.service)))?;
        let layout = ServiceLayout::new(plan, service).map_err(model("its feature service"))?;
        let catalogue = Catalogue::load(&config.catalogue).map_err(model("its catalogue"))?;
        let renderer = Renderer::new(&catalogue, &layout.variables(node, service))
            .map_err(|message| refuse(format!("{}: {message}", config.catalogue.display())))?;
        let mut ranker = |rung| Ranker::load(config, node, rung, &catalogue, &layout, encoders);
        let full = ranker(Rung::Full)?.ok_or_else(|| refuse("has no encoder for the rung full".to_owned()))?;
        let light = if node.rungs.light { ranker(Rung::Light)? } else { None };
        Ok(Tenant {
            name: config.name.clone(),
            id: TenantId(config.id),
            catalogue,
            layout: Arc::new(layout),
            renderer,
            hand_over: config.hand_over.clone(),
            full,
            light,
        })
    }

    pub(crate) fn ranker(&self, rung: Rung) -> Option<&Ranker> {
        match rung {
            Rung::Full => Some(&self.full),
            Rung::Light => self.light.as_ref(),
        }
    }

    /// Takes the heads of all rungs from their files anew, or none of them: where one is not of this tenant's catalogue, encoder and service,
    /// all that were there stay.
    pub(crate) fn reload_heads(&self) -> Result<Vec<(Rung, Head)>, Refusal> {
        let mut loaded = Vec::new();
        for rung in Rung::ALL {
            let Some(ranker) = self.ranker(rung) else { continue };
            let Some(path) = &ranker.head_file else { continue };
            let head = Head::load(path, &self.catalogue, ranker.encoder.name(), self.layout.encoder());
            loaded.push((rung, ranker, head.map_err(|error| Refusal::Invalid(error.to_string()))?));
        }
        if loaded.is_empty() {
            return Err(Refusal::Invalid(format!("tenant \"{}\" has no head in larder.toml", self.name)));
        }
        let swap = |(rung, ranker, head): (Rung, &Ranker, Head)| {
            ranker.head.store(Arc::new(head.clone()));
            tracing::info!(
                tenant = self.name,
                rung = rung.label(),
                questions = head.training_questions(),
                "head swapped"
            );
            (rung, head)
        };
        Ok(loaded.into_iter().map(swap).collect())
    }
}

impl Ranker {
    /// None where the tenant has no encoder for the rung.
    fn load(
        config: &TenantConfig,
        node: &NodeConfig,
        rung: Rung,
        catalogue: &Catalogue,
        layout: &ServiceLayout,
        encoders: &mut Encoders,
    ) -> Result<Option<Ranker>, Error> {
        let Some(settings) = node.encoder(config, rung) else { return Ok(None) };
        let LoadedEncoder { encoder, number, cost, breaker, .. } = encoders.get(settings, rung)?;
        let (encoder, number, cost, breaker) = (encoder.clone(), *number, cost.clone(), breaker.clone());
        let model = |what: &str| {
            let context = format!("tenant \"{}\": {what} on the rung {}", config.name, rung.label());
            move |source| Error::Model { context, source }
        };
        let head = match config.head_of(rung) {
            Some(path) => {
                Head::load(path, catalogue, encoder.name(), layout.encoder()).map_err(model("its ranking head"))?
            }
            None => Head::similarity_only(catalogue, encoder.name(), layout.encoder()),
        };
        let vectors = node.vectors_file(&config.name, rung);
        let index = CatalogueIndex::load_or_build(&encoder, catalogue, &vectors, &mut |_, _| {})
            .map_err(model("encoding its catalogue"))?;
        let (head, head_file) = (ArcSwap::from_pointee(head), config.head_of(rung).cloned());
        Ok(Some(Ranker { encoder, number, cost, breaker, index, head, head_file, max_tokens: settings.max_tokens }))
    }

    /// The head as it is now.
    pub(crate) fn head(&self) -> Head {
        self.head.load().as_ref().clone()
    }
}
