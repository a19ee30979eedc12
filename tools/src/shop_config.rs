//! The larder.toml of the sample shop: its views, its feature service and its one tenant.
//!
//! `larder sample` writes it beside the data; everything it does not say has a default (see larder.toml at the top of
//! the source tree, which lists them all).

use std::path::Path;

use crate::shop::{DISTRACTOR_VALUES, distractor};

/// Name of the shop's one tenant.
pub(crate) const TENANT: &str = "demo";
/// The shop's views, and the Parquet file each one is built from.
pub(crate) const VIEWS: [(&str, &str); 2] = [("profile", "profile.parquet"), ("orders", "orders.parquet")];

/// The text of larder.toml, with the folders of the encoders filled in and so many features that mean nothing.
pub(crate) fn larder_toml(encoder: &Path, light_encoder: Option<&Path>, distractors: usize) -> String {
    let quoted = |folder: &Path| toml::Value::String(folder.display().to_string()).to_string();
    let light_head = if light_encoder.is_some() { LIGHT_HEAD } else { "" };
    let values = DISTRACTOR_VALUES.map(|value| format!("{value:?}")).join(", ");
    let line = |text: fn(&str, &str) -> String| -> String {
        (1..=distractors).map(|number| text(&distractor(number), &values)).collect()
    };
    let features = line(|name, _| format!("  {{ name = \"{name}\", type = \"utf8\" }},\n"));
    let encodings =
        line(|name, values| format!("  {{ feature = \"profile:{name}\", encode = {{ one_hot = [{values}] }} }},\n"));
    TEMPLATE
        .replace("{encoder}", &quoted(encoder))
        .replace("{light_encoder}", &quoted(light_encoder.unwrap_or(Path::new(""))))
        .replace("{light_head}", light_head)
        .replace("{distractors}\n", &features)
        .replace("{encoded distractors}\n", &encodings)
}

const LIGHT_HEAD: &str = "light_head = \"light-head.safetensors\"\n";

const TEMPLATE: &str = r#"# The sample shop, written by `larder sample`. Relative paths are relative to the folder of this file.

[store]
path = "store"
cold_path = "cold"
hot_capacity_mib = 256

[model.full]
folder = {encoder}

[model.light]
folder = {light_encoder}

[[tenant]]
name = "demo"
id = 1
catalogue = "catalogue.toml"
head = "head.safetensors"
{light_head}service = "answers"

# One row per user.
[[view]]
name = "profile"
id = 1
kind = "latest"
entity_key = "user_id"
event_time = "updated_at"
ttl_s = 63072000 # two years
features = [
  { name = "name", type = "utf8" },
  { name = "city", type = "utf8" },
  { name = "tier", type = "utf8" },
  { name = "language", type = "utf8" },
  { name = "signup_at", type = "timestamp" },
  { name = "loyalty_points", type = "i64" },
  { name = "store_credit", type = "f64" },
  { name = "is_business", type = "bool" },
{distractors}
]

# The newest 20 orders of each user, newest first.
[[view]]
name = "orders"
id = 2
kind = "last_n"
n = 20
element_key = "order_id"
entity_key = "user_id"
event_time = "updated_at"
ttl_s = 63072000
features = [
  { name = "order_id", type = "utf8" },
  { name = "item", type = "utf8" },
  { name = "quantity", type = "i32" },
  { name = "total", type = "f64" },
  { name = "status", type = "utf8" },
  { name = "payment_status", type = "utf8" },
  { name = "return_status", type = "utf8" },
  { name = "carrier", type = "utf8" },
  { name = "tracking", type = "utf8" },
  { name = "placed_at", type = "timestamp" },
  { name = "shipped_at", type = "timestamp" },
  { name = "expected_at", type = "timestamp" },
  { name = "delivered_at", type = "timestamp" },
]

# What an answer is made with. With `encode` the ranking head sees a feature (of the newest order, for a history);
# without it a feature is only for the text of the answer.
[[service]]
name = "answers"
features = [
  { feature = "profile:name" },
  { feature = "profile:city" },
  { feature = "profile:language" },
  { feature = "profile:signup_at" },
  { feature = "profile:tier", encode = { one_hot = ["basic", "silver", "gold"] } },
  { feature = "profile:loyalty_points", encode = "log" },
  { feature = "profile:store_credit", encode = "log" },
  { feature = "profile:is_business", encode = "flag" },
  { feature = "orders:order_id" },
  { feature = "orders:item" },
  { feature = "orders:quantity" },
  { feature = "orders:total", encode = "log" },
  { feature = "orders:status", encode = { one_hot = ["processing", "in_transit", "out_for_delivery", "delayed", "delivered", "cancelled"] } },
  { feature = "orders:payment_status", encode = { one_hot = ["paid", "pending", "failed"] } },
  { feature = "orders:return_status", encode = { one_hot = ["none", "requested", "received", "refunded"] } },
  { feature = "orders:carrier" },
  { feature = "orders:tracking" },
  { feature = "orders:placed_at", encode = { age_days = [1.0, 7.0, 30.0, 180.0] } },
  { feature = "orders:shipped_at" },
  { feature = "orders:expected_at" },
  { feature = "orders:delivered_at", encode = { age_days = [1.0, 7.0, 30.0, 180.0] } },
{encoded distractors}
]
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use larder_model::{EncodedFeature, Encoding};
    use larder_serve::{NodeConfig, Rung};

    use super::*;
    use crate::shop::Shop;

    fn config() -> NodeConfig {
        parse(Some(Path::new("models/light")))
    }

    fn parse(light_encoder: Option<&Path>) -> NodeConfig {
        NodeConfig::parse(&larder_toml(Path::new("models/with \"quotes\""), light_encoder, 5)).unwrap()
    }

    #[test]
    fn the_text_is_a_valid_config() {
        let config = config();
        assert_eq!(config.model.full.folder, Path::new("models/with \"quotes\""));
        let light = |config: &NodeConfig| {
            let tenant = config.tenant(TENANT).unwrap();
            (config.encoder(tenant, Rung::Light).map(|encoder| encoder.folder.clone()), tenant.light_head.is_some())
        };
        assert_eq!(light(&config), (Some("models/light".into()), true));
        assert_eq!(light(&parse(None)), (None, false));
        for (view, _) in VIEWS {
            assert!(config.view(view).is_some(), "{view}");
        }
    }

    #[test]
    fn every_value_of_the_shop_is_in_its_vocabulary() {
        let shop = Shop::generate(1, 2_000, 1_790_000_000_000).with_distractors(5);
        let mut checked = 0;
        for EncodedFeature { feature, encoding } in config().service("answers").unwrap().encoded_features() {
            let Encoding::OneHot(known) = encoding else { continue };
            for value in (0..2_000).filter_map(|user| shop.value(user, &feature)) {
                assert!(value.is_null() || known.iter().any(|known| value == known.as_str()), "{feature} {value}");
                checked += 1;
            }
        }
        assert_eq!(checked, (4 + 5) * 2_000);
    }

    #[test]
    fn the_shop_knows_every_feature_of_the_service() {
        let shop = Shop::generate(1, 10, 1_790_000_000_000).with_distractors(5);
        for feature in &config().service("answers").unwrap().features {
            assert!(shop.value(0, &feature.feature).is_some(), "{}", feature.feature);
        }
    }
}
