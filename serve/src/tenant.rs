//! One tenant at run time: its catalogue, its ranking head, its templates. Nothing here is shared between tenants.

use larder_model::{Catalogue, CatalogueIndex, Encoder, Head};

use crate::assemble::{AnswerPlan, ServiceLayout};
use crate::config::{NodeConfig, TenantConfig};
use crate::error::Error;
use crate::render::Renderer;

#[derive(Debug)]
pub(crate) struct Tenant {
    /// For the log; never for a reply to another tenant.
    pub(crate) name: String,
    pub(crate) catalogue: Catalogue,
    pub(crate) index: CatalogueIndex,
    pub(crate) head: Head,
    pub(crate) layout: ServiceLayout,
    pub(crate) renderer: Renderer,
    pub(crate) hand_over: String,
}

impl Tenant {
    /// Loads what larder.toml names for a tenant and encodes its catalogue.
    pub(crate) fn load(
        config: &TenantConfig,
        node: &NodeConfig,
        plan: &AnswerPlan,
        encoder: &Encoder,
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
        let head = match &config.head {
            Some(path) => {
                Head::load(path, &catalogue, encoder.name(), layout.encoder()).map_err(model("its ranking head"))?
            }
            None => Head::similarity_only(&catalogue, encoder.name(), layout.encoder()),
        };
        let index =
            CatalogueIndex::load_or_build(encoder, &catalogue, &node.vectors_file(&config.name), &mut |_, _| {})
                .map_err(model("encoding its catalogue"))?;
        Ok(Tenant {
            name: config.name.clone(),
            catalogue,
            index,
            head,
            layout,
            renderer,
            hand_over: config.hand_over.clone(),
        })
    }
}
