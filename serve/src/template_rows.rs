//! One user's rows as a template sees them: objects that read a column where the template looks, and nothing else. A history of twenty
//! orders costs an answer that names one field of the newest no more than that field.

use std::sync::Arc;

use arrow::array::AsArray;
use larder_store::{Fetched, Status, ViewKind};
use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};

use crate::assemble::{ServiceLayout, ViewLayout, newest_name};
use crate::cell::{Cell, cell, elements};

/// A template's variables: the views that have a row for this user, by name, and the newest element of each history by its singular.
#[derive(Debug)]
pub(crate) struct UserRows {
    pub(crate) layout: Arc<ServiceLayout>,
    pub(crate) fetched: Arc<Fetched>,
    pub(crate) row: usize,
}

/// A history, newest first.
#[derive(Debug)]
struct History {
    rows: Arc<UserRows>,
    /// Its position among the layout's views.
    view: usize,
}

/// The row of a `latest` view, or one element of a history.
#[derive(Debug)]
struct Fields {
    rows: Arc<UserRows>,
    view: usize,
    /// The element's position from the newest; none for a `latest` view.
    nth: Option<usize>,
}

impl UserRows {
    /// The number of elements of a history. All columns of a view share their offsets.
    fn count(&self, view: &ViewLayout) -> usize {
        let columns = &self.fetched.views[view.view].columns;
        view.columns.first().map_or(0, |(_, first)| elements(columns[*first].as_list(), self.row).len())
    }

    fn present(&self, view: &ViewLayout) -> bool {
        self.fetched.views[view.view].status[self.row] == Status::Present
    }
}

impl Object for UserRows {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        // Of two views with one name between them the later one has it.
        for (at, layout) in self.layout.views.iter().enumerate().rev().filter(|(_, layout)| self.present(layout)) {
            let view = &self.fetched.views[layout.view];
            let fields = |nth| Value::from_object(Fields { rows: self.clone(), view: at, nth });
            match view.kind {
                ViewKind::Latest if view.name == name => return Some(fields(None)),
                ViewKind::LastN if view.name == name => {
                    return Some(Value::from_object(History { rows: self.clone(), view: at }));
                }
                ViewKind::LastN if newest_name(&view.name) == Some(name) && self.count(layout) > 0 => {
                    return Some(fields(Some(0)));
                }
                ViewKind::Latest | ViewKind::LastN => {}
            }
        }
        None
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let views = self.layout.views.iter().filter(|layout| self.present(layout));
        Enumerator::Values(views.map(|layout| Value::from(self.fetched.views[layout.view].name.as_str())).collect())
    }
}

impl Object for History {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let nth = key.as_usize().filter(|nth| *nth < self.rows.count(&self.rows.layout.views[self.view]))?;
        Some(Value::from_object(Fields { rows: self.rows.clone(), view: self.view, nth: Some(nth) }))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.rows.count(&self.rows.layout.views[self.view]))
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        let layout = &self.rows.layout.views[self.view];
        let (_, column) = layout.columns.iter().find(|(field, _)| field == name)?;
        let (column, row) = (&self.rows.fetched.views[layout.view].columns[*column], self.rows.row);
        Some(match self.nth {
            None => value(cell(column.as_ref(), row)),
            Some(nth) => {
                let list = column.as_list::<i32>();
                value(cell(list.values().as_ref(), elements(list, row).start + nth))
            }
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let fields = self.rows.layout.views[self.view].columns.iter();
        Enumerator::Values(fields.map(|(field, _)| Value::from(field.as_str())).collect())
    }
}

fn value(cell: Cell<'_>) -> Value {
    match cell {
        Cell::Null => Value::from(()),
        Cell::Bool(flag) => Value::from(flag),
        Cell::Int(number) => Value::from(number),
        Cell::Float(number) => Value::from(number),
        Cell::Text(text) => Value::from(text),
        Cell::Time(time_ms) => Value::from(time_ms),
        Cell::Floats(numbers) => Value::from(numbers.into_iter().map(Value::from).collect::<Vec<_>>()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, ListArray, StringArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field};
    use larder_store::{FetchStats, FetchedView, Tier};
    use minijinja::{Environment, UndefinedBehavior};

    use super::*;
    use crate::config::NodeConfig;

    const TOML: &str = r#"
[[view]]
name = "profile"
id = 1
kind = "latest"
entity_key = "user_id"
event_time = "updated_at"
features = [ { name = "name", type = "utf8" }, { name = "tier", type = "utf8" } ]
[[view]]
name = "orders"
id = 2
kind = "last_n"
n = 5
element_key = "order_id"
entity_key = "user_id"
event_time = "updated_at"
features = [ { name = "order_id", type = "utf8" }, { name = "item", type = "utf8" } ]
[[service]]
name = "answers"
features = [ { feature = "profile:name" }, { feature = "profile:tier" }, { feature = "orders:order_id" }, { feature = "orders:item" } ]
[[tenant]]
name = "demo"
id = 1
catalogue = "c"
service = "answers"
"#;

    fn view(name: &str, kind: ViewKind, status: Vec<Status>, columns: Vec<(&str, ArrayRef)>) -> FetchedView {
        let rows = status.len();
        let (features, columns) = columns.into_iter().map(|(name, column)| (name.to_owned(), column)).unzip();
        let (name, tier) = (name.to_owned(), vec![Tier::Hot; rows]);
        FetchedView {
            name,
            kind,
            features,
            columns,
            status,
            tier,
            event_time_ms: vec![0; rows],
            generation: vec![1; rows],
        }
    }

    /// Three users: one with everything, one without orders but with a history, one of whom nothing is known.
    fn fetched() -> Fetched {
        use Status::{NotFound, Present};
        let texts = |texts: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
        let lists = |texts: &[&str]| -> ArrayRef {
            let field = Arc::new(Field::new("item", DataType::Utf8, true));
            let values = Arc::new(StringArray::from(texts.to_vec()));
            Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([2, 0, 0]), values, None))
        };
        let profile =
            vec![("name", texts(&[Some("Ada"), Some("Bob"), None])), ("tier", texts(&[None, Some("gold"), None]))];
        let orders = vec![("order_id", lists(&["2", "1"])), ("item", lists(&["lamp", "chair"]))];
        Fetched {
            views: vec![
                view("profile", ViewKind::Latest, vec![Present, Present, NotFound], profile),
                view("orders", ViewKind::LastN, vec![Present, Present, NotFound], orders),
            ],
            stats: FetchStats::default(),
        }
    }

    #[test]
    fn a_template_sees_this_users_rows_and_nothing_that_is_not_there() {
        let config = NodeConfig::parse(TOML).unwrap();
        let layout = Arc::new(ServiceLayout::of_views(config.service("answers").unwrap(), &["profile", "orders"]));
        let fetched = Arc::new(fetched());
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        let check = |row: usize, template: &str| {
            let rows = UserRows { layout: layout.clone(), fetched: fetched.clone(), row };
            templates.render_str(template, Value::from_object(rows)).map_err(|error| error.kind())
        };
        let undefined = Err(minijinja::ErrorKind::UndefinedError);
        assert_eq!(
            check(0, "{{ profile.name }} {{ order.item }} {{ orders[1].item }} {{ orders[-1].order_id }}"),
            Ok("Ada lamp chair 1".into())
        );
        assert_eq!(
            check(0, "{% for one in orders %}{{ one.order_id }}{{ one['item'] }};{% endfor %}"),
            Ok("2lamp;1chair;".into())
        );
        assert_eq!(
            check(0, "{{ orders | length }} {{ (orders | first).item }} {{ orders[:1] | length }}"),
            Ok("2 lamp 1".into())
        );
        assert_eq!(
            check(0, "{% if profile.tier is none %}none{% endif %} {{ profile | items | length }}"),
            Ok("none 2".into())
        );
        assert_eq!(check(0, "{{ orders[2].item }}"), undefined);
        assert_eq!(check(0, "{{ profile.item }}"), undefined);
        assert_eq!(
            check(1, "{{ profile.name }} {{ profile.tier }}{% if orders %} some{% endif %}"),
            Ok("Bob gold".into())
        );
        assert_eq!(check(1, "{{ order.item }}"), undefined);
        assert_eq!(
            check(2, "{% if profile is defined %}known{% endif %}{% if order is defined %}known{% endif %}"),
            Ok(String::new())
        );
        assert_eq!(check(2, "{{ profile.name }}"), undefined);
    }
}
