//! A row and its values, before anything is known of its view.

/// A row to be written, or a deletion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// The view's name.
    pub view: String,
    /// Whom it is about.
    pub entity: String,
    /// Unix milliseconds UTC; the newest wins.
    pub event_time_ms: i64,
    /// By name; none is null, and what is left out is null too.
    pub features: Vec<(String, Option<Value>)>,
    /// Whether what is as old or older goes; of a history only the element that the features name, if they name one.
    pub delete: bool,
}

/// A value that is not null.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// An integer of any feature type.
    Int(i64),
    /// A number with a fraction.
    Double(f64),
    /// A text.
    Text(String),
    /// Unix milliseconds UTC.
    TimestampMs(i64),
    /// Several values; null among them.
    List(Vec<Option<Value>>),
}

impl Value {
    /// The kind, as messages call it: by the names of the node's own interface, from which most rows come.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Value::Bool(_) => "a bool_value",
            Value::Int(_) => "an int_value",
            Value::Double(_) => "a double_value",
            Value::Text(_) => "a string_value",
            Value::TimestampMs(_) => "a timestamp_ms",
            Value::List(_) => "a list",
        }
    }
}

/// A row that does not fit its view's declaration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rows[{number}]: {reason}")]
pub struct WrongRow {
    /// Which of the rows, the first being 0.
    pub number: usize,
    /// What is wrong with it, and what is expected; never a value.
    pub reason: String,
}
