//! Answers as text: the winning intent's template, filled with this user's features.
//!
//! A template sees one variable per view of the tenant's service: a `latest` view is an object (`profile.name`), a
//! `last_n` view a list, newest first (`orders[0].item`). The newest element of a list view is also bound to the view's
//! name without its plural s (`order`). A view that has no row for the user is not bound at all, and a template that
//! needs it fails, which means: take the intent's answer without features. Templates are the tenant's own text, so they
//! run without access to anything else and with a bound on their work.

use chrono::{DateTime, Datelike, Utc};
use larder_model::Catalogue;
use minijinja::{
    AutoEscape, Environment, Error as TemplateError, ErrorKind, Output, State, UndefinedBehavior, Value,
    escape_formatter,
};

use crate::assemble::Variables;
use crate::template_rows::UserRows;

/// Steps a template may take before it is stopped.
const MAX_STEPS: u64 = 50_000;
/// The currency that the money filter prints.
const CURRENCY: &str = "EUR";

/// The answers of one catalogue.
#[derive(Debug)]
pub(crate) struct Renderer {
    templates: Environment<'static>,
    without_features: Vec<String>,
}

/// A rendered answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// False: the answer without features was taken although the intent has one with them.
    pub(crate) complete: bool,
}

impl Renderer {
    /// Compiles every template of a catalogue. A template that does not parse is an error that names its intent.
    /// So is one that names a variable or a field which its users can never have.
    pub(crate) fn new(catalogue: &Catalogue, variables: &Variables) -> Result<Renderer, String> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|_| AutoEscape::None);
        templates.set_fuel(Some(MAX_STEPS));
        templates.set_formatter(write_value);
        templates.add_filter("day", day);
        templates.add_filter("money", money);
        for intent in &catalogue.intents {
            templates.add_template_owned(intent.name.clone(), intent.answer.clone()).map_err(|error| {
                let detail = error.detail().map(str::to_owned).unwrap_or_else(|| error.to_string());
                format!(
                    "intent \"{}\": its answer is no valid template, line {}: {detail}",
                    intent.name,
                    error.line().unwrap_or(1)
                )
            })?;
            check_names(&templates, &intent.name, variables)?;
        }
        let without_features = catalogue.intents.iter().map(|intent| intent.answer_without_features.clone()).collect();
        Ok(Renderer { templates, without_features })
    }

    /// The answer of an intent (by name and position in the catalogue) for a user, or for nobody in particular.
    pub(crate) fn render(&self, intent: (&str, usize), rows: Option<UserRows>) -> Rendered {
        let variables = rows.map_or_else(|| Value::from_iter([] as [(&str, Value); 0]), Value::from_object);
        let rendered = self.templates.get_template(intent.0).and_then(|template| template.render(variables));
        match rendered {
            Ok(text) => Rendered { text: text.trim().to_owned(), complete: true },
            Err(error) => {
                // Undefined means that the user has no such row, which is expected; anything else is the template's fault.
                if error.kind() != ErrorKind::UndefinedError {
                    tracing::warn!(intent = intent.0, %error, "answer template failed");
                }
                Rendered { text: self.without_features[intent.1].clone(), complete: false }
            }
        }
    }
}

/// Whether every name of a template is one that its service provides.
fn check_names(templates: &Environment<'_>, intent: &str, variables: &Variables) -> Result<(), String> {
    let template = templates.get_template(intent).map_err(|error| error.to_string())?;
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.sort();
    for name in names {
        let mut parts = name.split('.');
        let variable = parts.next().unwrap_or_default();
        let known = match (variables.get(variable), parts.next()) {
            (Some(Some(fields)), Some(field)) => fields.iter().any(|own| own == field),
            (Some(_), _) => true,
            (None, _) => false,
        };
        if !known {
            let own = |(variable, fields): (&String, &Option<Vec<String>>)| match fields {
                Some(fields) => format!("{variable} ({})", fields.join(", ")),
                None => variable.clone(),
            };
            let allowed = variables.iter().map(own).collect::<Vec<_>>().join("; ");
            return Err(format!(
                "intent \"{intent}\": its answer names {name}; the tenant's service provides {allowed}"
            ));
        }
    }
    Ok(())
}

/// Null has no words of its own: a template that prints one has no answer for this user.
fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), TemplateError> {
    if value.is_none() {
        return Err(nothing());
    }
    escape_formatter(out, state, value)
}

fn nothing() -> TemplateError {
    TemplateError::new(ErrorKind::UndefinedError, "the value is null")
}

/// `{{ order.expected_at | day }}`: a timestamp in Unix milliseconds as "Tuesday 3 November", in UTC; `day('zh')` as "11月3日（周二）".
fn day(time_ms: &Value, language: Option<&str>) -> Result<String, TemplateError> {
    if time_ms.is_none() {
        return Err(nothing());
    }
    let time = i64::try_from(time_ms.clone()).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    let Some(time) = time else { return Err(wrong("the day filter takes a timestamp")) };
    match language {
        None | Some("en") => Ok(time.format("%A %-d %B").to_string()),
        Some("zh") => {
            let day = ["日", "一", "二", "三", "四", "五", "六"][time.weekday().num_days_from_sunday() as usize];
            Ok(format!("{}（周{day}）", time.format("%-m月%-d日")))
        }
        Some(_) => Err(wrong("the day filter knows 'en' and 'zh'")),
    }
}

/// `{{ order.total | money }}`: a number as "EUR 12.30"; `money('¥')` as "¥12.30".
fn money(amount: &Value, sign: Option<&str>) -> Result<String, TemplateError> {
    if amount.is_none() {
        return Err(nothing());
    }
    match (f64::try_from(amount.clone()), sign) {
        (Ok(amount), None) => Ok(format!("{CURRENCY} {amount:.2}")),
        (Ok(amount), Some(sign)) => Ok(format!("{sign}{amount:.2}")),
        (Err(_), _) => Err(wrong("the money filter takes a number")),
    }
}

fn wrong(what: &'static str) -> TemplateError {
    TemplateError::new(ErrorKind::InvalidOperation, what)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use larder_model::Intent;

    use super::*;

    #[test]
    fn timestamps_read_as_days() {
        let third = Value::from(1_793_664_000_000_i64);
        assert_eq!(day(&third, None).unwrap(), "Tuesday 3 November");
        assert_eq!(day(&third, Some("zh")).unwrap(), "11月3日（周二）");
        assert!(day(&third, Some("xx")).is_err() && day(&Value::from("soon"), None).is_err());
    }

    #[test]
    fn names_that_no_user_has_are_refused_when_the_catalogue_is_loaded() {
        let variables = Variables::from([
            ("orders".to_owned(), None),
            ("order".to_owned(), Some(vec!["item".to_owned(), "total".to_owned()])),
        ]);
        let check = |answer: &str| {
            let intent = Intent {
                name: "i".to_owned(),
                title: "I".to_owned(),
                examples: vec!["an example".to_owned()],
                answer: answer.to_owned(),
                answer_without_features: "Sorry.".to_owned(),
            };
            Renderer::new(&Catalogue::new(vec![intent]).unwrap(), &variables).err()
        };
        assert_eq!(
            check("{{ order.item }} {{ orders[0].total | money }} {% for one in orders %}{{ one.item }}{% endfor %}"),
            None
        );
        let error = check("Your {{ order.itm }}").unwrap();
        assert!(error.contains("names order.itm") && error.contains("order (item, total); orders"), "{error}");
        assert!(check("{{ profile.name }}").unwrap().contains("names profile.name"));
        assert!(check("{% if %}").unwrap().contains("no valid template, line 1"));
    }

    #[test]
    fn a_null_is_never_shown_to_a_customer() {
        let mut templates = Environment::new();
        templates.set_formatter(write_value);
        templates.add_filter("day", day);
        let null = BTreeMap::from([("x", Value::from(()))]);
        for template in ["{{ x }}", "{{ x | day }}"] {
            let error = templates.render_str(template, null.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UndefinedError, "{template}");
        }
        assert_eq!(templates.render_str("{% if x %}{{ x }}{% else %}none{% endif %}", null).unwrap(), "none");
    }

    #[test]
    fn amounts_read_as_money() {
        assert_eq!(money(&Value::from(12.3), None).unwrap(), "EUR 12.30");
        assert_eq!(money(&Value::from(7), Some("¥")).unwrap(), "¥7.00");
    }

    /// Rows as the sample shop has them, for an order in these states.
    fn rows(
        status: &str,
        payment: &str,
        returned: &str,
        tier: &str,
    ) -> BTreeMap<&'static str, BTreeMap<&'static str, Value>> {
        let sent = !matches!(status, "processing" | "cancelled");
        let when_sent = |value: Value| if sent { value } else { Value::from(()) };
        let time = || Value::from(1_793_664_000_000_i64);
        let order = BTreeMap::from([
            ("order_id", Value::from("1000001")),
            ("item", Value::from("lamp")),
            ("quantity", Value::from(2)),
            ("total", Value::from(12.5)),
            ("status", Value::from(status)),
            ("payment_status", Value::from(payment)),
            ("return_status", Value::from(returned)),
            ("carrier", when_sent(Value::from("Post"))),
            ("tracking", when_sent(Value::from("LD1"))),
            ("placed_at", time()),
            ("shipped_at", when_sent(time())),
            ("expected_at", if status == "cancelled" { Value::from(()) } else { time() }),
            ("delivered_at", if status == "delivered" { time() } else { Value::from(()) }),
        ]);
        let profile = BTreeMap::from([
            ("name", Value::from("Ada")),
            ("city", Value::from("Lyon")),
            ("tier", Value::from(tier)),
            ("language", Value::from("en")),
            ("signup_at", time()),
            ("loyalty_points", Value::from(120)),
            ("store_credit", Value::from(if tier == "gold" { 2.5 } else { 0.0 })),
            ("is_business", Value::from(tier == "silver")),
        ]);
        BTreeMap::from([("order", order), ("profile", profile)])
    }

    #[test]
    fn the_sample_shops_templates_render_for_every_state_of_an_order() {
        let fields = |(name, fields): (&str, BTreeMap<&str, Value>)| {
            (name.to_owned(), Some(fields.into_keys().map(str::to_owned).collect()))
        };
        let variables: Variables = rows("delivered", "paid", "none", "gold").into_iter().map(fields).collect();
        let english = include_str!("../../tools/assets/catalogue.toml");
        let chinese = include_str!("../../tools/assets/catalogue-zh.toml");
        for (catalogue, is_chinese) in [(english, false), (chinese, true)] {
            let catalogue = Catalogue::from_toml(catalogue).unwrap();
            let renderer = Renderer::new(&catalogue, &variables).unwrap();
            for status in ["processing", "in_transit", "out_for_delivery", "delayed", "delivered", "cancelled"] {
                for (payment, returned, tier) in
                    [("paid", "none", "basic"), ("pending", "requested", "silver"), ("failed", "received", "gold")]
                        .into_iter()
                        .chain([("paid", "refunded", "gold")])
                {
                    for intent in &catalogue.intents {
                        let template = renderer.templates.get_template(&intent.name).unwrap();
                        let text = template.render(rows(status, payment, returned, tier));
                        let text = text.unwrap_or_else(|error| panic!("{} {status} {payment}: {error}", intent.name));
                        let han = text.chars().any(|letter| ('\u{4e00}'..='\u{9fff}').contains(&letter));
                        assert!(han == is_chinese && !text.contains("none") && !text.contains('{'), "{text}");
                    }
                }
            }
        }
    }
}
