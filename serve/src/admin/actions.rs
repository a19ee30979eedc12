//! What can be done through Arrow Flight too, with its outcome as JSON.

use serde_json::{Value as Json, json};
use tonic::{Request, Status};

use super::AdminService;
use crate::v1;
use crate::v1::admin_server::Admin;

impl AdminService {
    /// Makes the generation in a folder live.
    pub(crate) async fn publish_folder(&self, path: String) -> Result<Json, Status> {
        let reply = self.publish(Request::new(v1::PublishRequest { path })).await?.into_inner();
        Ok(json!({
            "tenant": reply.tenant,
            "view": reply.view,
            "live_generation": reply.live_generation,
            "previous_generation": reply.previous_generation,
            "entities": reply.entities,
            "rows": reply.rows,
            "already_live": reply.already_live,
        }))
    }

    /// Makes entities hot.
    pub(crate) async fn warm_entities(
        &self,
        tenant: String,
        service: String,
        entities: Vec<String>,
    ) -> Result<Json, Status> {
        let request = v1::WarmRequest { tenant, service, entities, look_only: false };
        let v1::WarmReply { entities, found, .. } = self.warm(Request::new(request)).await?.into_inner();
        Ok(json!({ "entities": entities, "found": found }))
    }

    /// Takes the bytes of erased entities out of the files.
    pub(crate) async fn compact(&self) -> Result<Json, Status> {
        let reply = self.compact_erased(Request::new(v1::CompactErasedRequest {})).await?.into_inner();
        Ok(json!({ "rows": reply.rows, "live": reply.live, "files": reply.files }))
    }
}
