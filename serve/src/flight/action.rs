//! DoAction: what an operator does, from where the data comes from. The same calls as of the Admin service, and the same checks; a body is JSON, and
//! so is the result. The tenant is that of the caller's identity where an action is of one tenant.

use arrow_flight::{Action, ActionType};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonic::Status;

use crate::admin::AdminService;
use crate::context::RequestContext;
use crate::error::Refusal;

/// Every action with what it does.
const ACTIONS: [(&str, &str); 3] = [
    (
        "publish",
        r#"Makes a built generation live. Body: {"path": "/data/built/orders"}, a folder on the node's disks."#,
    ),
    (
        "warm",
        r#"Reads entities of the caller's tenant into the hot tier. Body: {"service": "answers", "entities": ["u1"]}."#,
    ),
    ("compact", "Takes the bytes of erased entities out of the store's files. Body: empty or {}."),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Warm {
    service: String,
    entities: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compact {}

pub(super) fn list() -> impl Iterator<Item = ActionType> {
    let action = |(name, description): &(&str, &str)| ActionType {
        r#type: (*name).to_owned(),
        description: (*description).to_owned(),
    };
    ACTIONS.iter().map(action)
}

pub(super) async fn run(admin: &AdminService, context: RequestContext, action: Action) -> Result<Value, Status> {
    match action.r#type.as_str() {
        "publish" => {
            let Publish { path } = body(&action)?;
            admin.publish_folder(path).await
        }
        "warm" => {
            let Warm { service, entities } = body(&action)?;
            admin.warm_entities(context.tenant.to_string(), service, entities).await
        }
        "compact" => {
            if !action.body.is_empty() {
                let Compact {} = body(&action)?;
            }
            admin.compact().await
        }
        other => {
            let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
            let message = format!("there is no action \"{other}\"; there are {}", names.join(", "));
            Err(Refusal::Invalid(message).into())
        }
    }
}

fn body<T: DeserializeOwned>(action: &Action) -> Result<T, Refusal> {
    let wrong = |error| Refusal::Invalid(format!("the body of action \"{}\" cannot be read: {error}", action.r#type));
    serde_json::from_slice(&action.body).map_err(wrong)
}
