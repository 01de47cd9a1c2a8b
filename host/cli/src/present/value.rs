//! JSON whose objects keep their order: what the daemon says is shown as it said it, also what no model here knows.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Value {
    /// `null`, and what is not there.
    #[default]
    Null,
    /// A truth.
    Bool(bool),
    /// A whole number; 64 bits of either sign.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Map(Vec<(String, Value)>),
}

/// What [`Value::get`] gives for what is not there.
static NOTHING: Value = Value::Null;

impl Value {
    /// The field of an object, by its name or else in any case: Docker's types and its JSON differ in `ID` and `Id`.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let Value::Map(fields) = self else { return None };
        let exact = fields.iter().find(|(known, _)| known == name);
        exact
            .or_else(|| fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value)
    }

    /// The value at a path of fields, `Null` if there is none.
    pub(crate) fn at(&self, path: &[&str]) -> &Value {
        path.iter().try_fold(self, |value, name| value.field(name)).unwrap_or(&NOTHING)
    }

    /// As [`Value::at`], for one field.
    pub(crate) fn get(&self, name: &str) -> &Value {
        self.at(&[name])
    }

    /// The text, or none for what is no text.
    pub(crate) fn text(&self) -> &str {
        if let Value::Text(text) = self { text } else { "" }
    }

    /// The number; 0 for what is no whole number.
    pub(crate) fn number(&self) -> i64 {
        match self {
            Value::Integer(number) => i64::try_from(*number).unwrap_or(i64::MAX),
            _ => 0,
        }
    }

    /// Whether it is `true`.
    pub(crate) fn is_true(&self) -> bool {
        *self == Value::Bool(true)
    }

    /// The elements of a list.
    pub(crate) fn list(&self) -> &[Value] {
        if let Value::List(list) = self { list } else { &[] }
    }

    /// The fields of an object.
    pub(crate) fn fields(&self) -> &[(String, Value)] {
        if let Value::Map(fields) = self { fields } else { &[] }
    }

    /// The texts of a list.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.list().iter().map(Value::text)
    }

    /// As JSON in one line.
    pub(crate) fn to_json(&self) -> String {
        // Texts as keys and plain numbers cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As JSON over several lines, indented by four spaces.
    pub(crate) fn to_pretty_json(&self) -> String {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        let _ = self.serialize(&mut serializer);
        String::from_utf8(text).unwrap_or_default()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Value {
        Value::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(number.into())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(truth) => serializer.serialize_bool(*truth),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => serializer.serialize_i128(*number),
            },
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(list) => {
                let mut sequence = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|value| sequence.serialize_element(value))?;
                sequence.end()
            }
            Value::Map(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = sequence.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_it_was_read() {
        for text in [
            r#"{"b":1,"a":[true,null,-3,1.5,"x"],"A":{}}"#,
            r#"{"most":18446744073709551615,"least":-9223372036854775808}"#,
        ] {
            assert_eq!(serde_json::from_str::<Value>(text).unwrap().to_json(), text);
        }
        let nested: Value = serde_json::from_str(r#"{"a":[1],"b":{}}"#).unwrap();
        assert_eq!(nested.to_pretty_json(), "{\n    \"a\": [\n        1\n    ],\n    \"b\": {}\n}");
    }

    #[test]
    fn fields_are_found_by_their_name_before_any_case() {
        let value: Value = serde_json::from_str(r#"{"id":1,"Id":2,"State":{"Pid":3}}"#).unwrap();
        assert_eq!(value.get("Id").number(), 2);
        assert_eq!(value.get("ID").number(), 1);
        assert_eq!(value.at(&["State", "pid"]).number(), 3);
        assert_eq!(*value.at(&["State", "Pid", "more"]), Value::Null);
    }
}
