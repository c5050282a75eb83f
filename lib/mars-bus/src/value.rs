//! Values of properties.
use zbus::Variant;

/// Type of a property.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// `b`
    Bool,
    /// `t`
    U64,
    /// `x`
    I64,
    /// `d`
    F64,
    /// `s`
    Text,
    /// `as`
    Texts,
    /// `a(ss)`
    Pairs,
    /// `a(sssss)`
    Messages,
    /// `a(sa(st))`
    Splits,
}

impl Type {
    /// As D-Bus writes it.
    pub fn signature(self) -> &'static str {
        match self {
            Type::Bool => "b",
            Type::U64 => "t",
            Type::I64 => "x",
            Type::F64 => "d",
            Type::Text => "s",
            Type::Texts => "as",
            Type::Pairs => "a(ss)",
            Type::Messages => "a(sssss)",
            Type::Splits => "a(sa(st))",
        }
    }
}

/// A message of a resource: class, name, text, since (real time), since (Lamport time).
pub type MessageRow = (String, String, String, String, String);

/// A point of a split brain: last common position, and what each host would lose in bytes.
pub type SplitRow = (String, Vec<(String, u64)>);

/// Value of a property.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Value {
    Bool(bool),
    U64(u64),
    I64(i64),
    F64(f64),
    Text(String),
    Texts(Vec<String>),
    Pairs(Vec<(String, String)>),
    Messages(Vec<MessageRow>),
    Splits(Vec<SplitRow>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::U64(a), Value::U64(b)) => a == b,
            (Value::I64(a), Value::I64(b)) => a == b,
            // A value that differs from itself would be told for ever.
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Texts(a), Value::Texts(b)) => a == b,
            (Value::Pairs(a), Value::Pairs(b)) => a == b,
            (Value::Messages(a), Value::Messages(b)) => a == b,
            (Value::Splits(a), Value::Splits(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Value {
    /// Its type.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Bool(_) => Type::Bool,
            Value::U64(_) => Type::U64,
            Value::I64(_) => Type::I64,
            Value::F64(_) => Type::F64,
            Value::Text(_) => Type::Text,
            Value::Texts(_) => Type::Texts,
            Value::Pairs(_) => Type::Pairs,
            Value::Messages(_) => Type::Messages,
            Value::Splits(_) => Type::Splits,
        }
    }

    /// A text; what D-Bus cannot carry (a NUL) is replaced.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(clean(text.into()))
    }

    /// For a message.
    pub(crate) fn variant(&self) -> Variant<'static> {
        match self {
            Value::Bool(v) => Variant::from(*v),
            Value::U64(v) => Variant::from(*v),
            Value::I64(v) => Variant::from(*v),
            Value::F64(v) => Variant::from(*v),
            Value::Text(v) => Variant::from(v.clone()),
            Value::Texts(v) => Variant::from(v.clone()),
            Value::Pairs(v) => Variant::from(v.clone()),
            Value::Messages(v) => Variant::from(v.clone()),
            Value::Splits(v) => Variant::from(v.clone()),
        }
    }
}

fn clean(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}
