//! The larder.toml of the sample shop: its views, its feature service and its tenants.
//!
//! `larder sample` writes it beside the data; everything it does not say has a default (see larder.toml at the top of
//! the source tree, which lists them all).

use std::path::Path;

use crate::shop::{DISTRACTOR_VALUES, distractor};
use crate::shop_locale::Language;

/// Name of the first tenant; of a shop's only one, as a rule.
pub(crate) const TENANT: &str = "demo";
/// The shop's views, and the Parquet file each one is built from.
pub(crate) const VIEWS: [(&str, &str); 2] = [("profile", "profile.parquet"), ("orders", "orders.parquet")];

/// The name of a tenant, by its place from 0.
pub(crate) fn tenant_name(place: usize) -> String {
    if place == 0 { TENANT.to_owned() } else { format!("{TENANT}-{}", place + 1) }
}

/// What stands before a tenant's files in the sample's folder: nothing for the first, a folder of its own for each other.
pub(crate) fn tenant_prefix(place: usize) -> String {
    if place == 0 { String::new() } else { format!("{}/", tenant_name(place)) }
}

/// Where the encoders are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderFolders<'a> {
    pub(crate) full: &'a Path,
    pub(crate) light: Option<&'a Path>,
    /// Reads Chinese too.
    pub(crate) multilingual: &'a Path,
}

/// The text of larder.toml, with a tenant for each language and so many features that mean nothing.
pub(crate) fn larder_toml(encoders: EncoderFolders<'_>, tenants: &[Language], distractors: usize) -> String {
    let values = DISTRACTOR_VALUES.map(|value| format!("{value:?}")).join(", ");
    let line = |text: fn(&str, &str) -> String| -> String {
        (1..=distractors).map(|number| text(&distractor(number), &values)).collect()
    };
    let features = line(|name, _| format!("  {{ name = \"{name}\", type = \"utf8\" }},\n"));
    let encodings =
        line(|name, values| format!("  {{ feature = \"profile:{name}\", encode = {{ one_hot = [{values}] }} }},\n"));
    let tenants: Vec<String> =
        tenants.iter().enumerate().map(|(place, language)| tenant_toml(place, *language, encoders)).collect();
    TEMPLATE
        .replace("{encoder}", &quoted(encoders.full))
        .replace("{light_encoder}", &quoted(encoders.light.unwrap_or(Path::new(""))))
        .replace("{tenants}\n", &tenants.join("\n"))
        .replace("{distractors}\n", &features)
        .replace("{encoded distractors}\n", &encodings)
}

fn quoted(folder: &Path) -> String {
    toml::Value::String(folder.display().to_string()).to_string()
}

fn tenant_toml(place: usize, language: Language, encoders: EncoderFolders<'_>) -> String {
    let (name, id, prefix) = (tenant_name(place), place + 1, tenant_prefix(place));
    let mut text = format!("[[tenant]]\nname = \"{name}\"\nid = {id}\ncatalogue = \"{prefix}catalogue.toml\"\n");
    text += &format!("head = \"{prefix}head.safetensors\"\n");
    match language {
        Language::En if encoders.light.is_some() => {
            text += &format!("light_head = \"{prefix}light-head.safetensors\"\n");
        }
        Language::En => {}
        Language::Zh => {
            text += &CHINESE_TENANT.replace("{multilingual}", &quoted(encoders.multilingual));
        }
    }
    text + "service = \"answers\"\n"
}

const CHINESE_TENANT: &str = r#"# Chinese needs an encoder that reads it: `larder model get me5-small` fetches this one. potion reads English only, so the tenant has no rung light.
full = { folder = {multilingual}, prefix = "query: " }
light = { folder = "" }
hand_over = "这个问题我不太有把握，马上为您转接人工客服。"
"#;

const TEMPLATE: &str = r#"# The sample shop, written by `larder sample`. Relative paths are relative to the folder of this file.

[store]
path = "store"
cold_path = "cold"
hot_capacity_mib = 256

[model.full]
folder = {encoder}

[model.light]
folder = {light_encoder}

{tenants}

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

    const NOW_MS: i64 = 1_790_000_000_000;

    fn config() -> NodeConfig {
        parse(Some(Path::new("models/light")), &[Language::En])
    }

    fn parse(light: Option<&Path>, tenants: &[Language]) -> NodeConfig {
        let encoders = EncoderFolders {
            full: Path::new("models/with \"quotes\""),
            light,
            multilingual: Path::new("models/me5-small"),
        };
        NodeConfig::parse(&larder_toml(encoders, tenants, 5)).unwrap()
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
        assert_eq!(light(&parse(None, &[Language::En])), (None, false));
        for (view, _) in VIEWS {
            assert!(config.view(view).is_some(), "{view}");
        }
    }

    #[test]
    fn every_tenant_has_files_of_its_own_and_an_encoder_that_reads_its_language() {
        let config = parse(Some(Path::new("models/light")), &[Language::En, Language::Zh, Language::En]);
        let names: Vec<_> = config.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.id)).collect();
        assert_eq!(names, [("demo", 1), ("demo-2", 2), ("demo-3", 3)]);
        let catalogues: Vec<_> = config.tenants.iter().map(|tenant| tenant.catalogue.to_str().unwrap()).collect();
        assert_eq!(catalogues, ["catalogue.toml", "demo-2/catalogue.toml", "demo-3/catalogue.toml"]);
        let chinese = config.tenant("demo-2").unwrap();
        let full = config.encoder(chinese, Rung::Full).unwrap();
        assert_eq!((full.folder.as_path(), full.prefix.as_str()), (Path::new("models/me5-small"), "query: "));
        assert!(config.encoder(chinese, Rung::Light).is_none() && chinese.light_head.is_none());
        let english = config.tenant("demo-3").unwrap();
        assert_eq!(config.encoder(english, Rung::Full).unwrap().folder, config.model.full.folder);
        assert_eq!(english.light_head.as_deref(), Some(Path::new("demo-3/light-head.safetensors")));
    }

    #[test]
    fn every_value_of_the_shop_is_in_its_vocabulary() {
        for language in [Language::En, Language::Zh] {
            let shop = Shop::new(1, 1_000, NOW_MS, language.locale()).unwrap().with_distractors(5);
            let customers: Vec<_> = (0..1_000).map(|index| shop.customer(index)).collect();
            let mut checked = 0;
            for EncodedFeature { feature, encoding } in config().service("answers").unwrap().encoded_features() {
                let Encoding::OneHot(known) = encoding else { continue };
                for value in customers.iter().filter_map(|customer| shop.value(customer, &feature)) {
                    assert!(value.is_null() || known.iter().any(|known| value == known.as_str()), "{feature} {value}");
                    checked += 1;
                }
            }
            assert_eq!(checked, (4 + 5) * 1_000);
        }
    }

    #[test]
    fn the_shop_knows_every_feature_of_the_service() {
        let shop = Shop::new(1, 10, NOW_MS, Language::En.locale()).unwrap().with_distractors(5);
        for feature in &config().service("answers").unwrap().features {
            assert!(shop.value(&shop.customer(0), &feature.feature).is_some(), "{}", feature.feature);
        }
    }
}
