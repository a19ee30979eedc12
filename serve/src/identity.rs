//! Who a call speaks for: from the call's metadata to a `RequestContext`.
//!
//! Development identity believes the metadata, which is why the node then listens on loopback only. Real identity
//! (signed tokens) takes this file's place behind the same function; no message field will ever carry it.

use std::collections::HashMap;
use std::sync::Arc;

use larder_store::{Shard, TenantId};
use tonic::metadata::MetadataMap;

use crate::config::NodeConfig;
use crate::context::{Class, RequestContext};
use crate::error::Refusal;
use crate::shard::{check_entities, check_route};

/// Metadata key of the tenant.
pub const TENANT_HEADER: &str = "x-larder-tenant";
/// Metadata key of the user.
pub const USER_HEADER: &str = "x-larder-user";
/// Metadata key of the session.
pub const SESSION_HEADER: &str = "x-larder-session";
/// Metadata key of the class.
pub const CLASS_HEADER: &str = "x-larder-class";
/// Longest user or session name, in bytes; the store's own limit for an entity key.
const MAX_NAME_BYTES: usize = 256;

/// The identities this node knows.
#[derive(Debug)]
pub(crate) struct Identity {
    tenants: HashMap<String, (Arc<str>, TenantId)>,
    default_tenant: String,
    default_class: Class,
    shard: Shard,
}

impl Identity {
    pub(crate) fn new(config: &NodeConfig) -> Identity {
        let tenant = |tenant: &crate::config::TenantConfig| {
            (tenant.name.clone(), (Arc::from(tenant.name.as_str()), TenantId(tenant.id)))
        };
        Identity {
            tenants: config.tenants.iter().map(tenant).collect(),
            default_tenant: config.identity.default_tenant.clone(),
            default_class: config.identity.default_class,
            shard: config.node.shard,
        }
    }

    /// The context of a call that is about its user, who must be this node's.
    pub(crate) fn asker(&self, metadata: &MetadataMap) -> Result<RequestContext, Refusal> {
        let context = self.context(metadata)?;
        // Nobody in particular is everybody's.
        check_entities(Some(context.user.as_str()).filter(|user| !user.is_empty()), self.shard)?;
        Ok(context)
    }

    /// The context of a call, or why it has none.
    pub(crate) fn context(&self, metadata: &MetadataMap) -> Result<RequestContext, Refusal> {
        check_route(metadata, self.shard)?;
        let tenant = text(metadata, TENANT_HEADER)?.unwrap_or(&self.default_tenant);
        let (tenant, tenant_id) = self.tenant(tenant)?;
        let class = match text(metadata, CLASS_HEADER)? {
            None => self.default_class,
            Some(label) => Class::parse(label).ok_or_else(|| {
                Refusal::Invalid(format!("{CLASS_HEADER} is \"{label}\": must be vip, normal or bulk"))
            })?,
        };
        let name = |key| text(metadata, key).map(|value| value.unwrap_or_default().to_owned());
        Ok(RequestContext { tenant, tenant_id, user: name(USER_HEADER)?, session: name(SESSION_HEADER)?, class })
    }

    /// The tenant of that name. Which others exist is nobody's business.
    pub(crate) fn tenant(&self, name: &str) -> Result<(Arc<str>, TenantId), Refusal> {
        match self.tenants.get(name) {
            Some((name, id)) => Ok((name.clone(), *id)),
            None if name.is_empty() => {
                Err(Refusal::UnknownTenant(format!("the call names no tenant: set {TENANT_HEADER}")))
            }
            None => Err(Refusal::UnknownTenant(format!("tenant \"{name}\" is not served by this node"))),
        }
    }

    /// The name of a tenant of this node, for replies that list several.
    pub(crate) fn tenant_name(&self, id: TenantId) -> String {
        let found = self.tenants.values().find(|(_, tenant)| *tenant == id);
        found.map_or_else(|| format!("#{}", id.0), |(name, _)| name.to_string())
    }
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let value = value.to_str().map_err(|_| Refusal::Invalid(format!("{key} must be visible ASCII")))?;
    if value.len() > MAX_NAME_BYTES {
        return Err(Refusal::Invalid(format!("{key} has {} bytes; at most {MAX_NAME_BYTES} are allowed", value.len())));
    }
    Ok(Some(value))
}
