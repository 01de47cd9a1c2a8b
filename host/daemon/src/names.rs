//! Names in JSON bodies, which Docker's daemon takes in any case: Go's decoder does, and clients rely on it.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_json::{Map, Value};

/// Gives the members of an object the names that the fields of `T` have, where only the case differs.
pub(crate) fn settle<T: for<'de> Deserialize<'de>>(object: &mut Map<String, Value>) {
    let fields = fields::<T>();
    let others: Vec<String> =
        object.keys().filter(|name| !fields.contains(&name.as_str())).cloned().collect();
    for other in others {
        let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(&other)) else { continue };
        if let Some(value) = object.remove(&other) {
            object.entry(*field).or_insert(value);
        }
    }
}

/// The names of a structure's fields, as its deserialization asks for them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    let _ = T::deserialize(Listener(&mut found));
    found
}

/// Hears which fields are asked for, and gives none.
struct Listener<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Error::custom("only structures have fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use capsid_api::models::{ExecConfig, HostConfig};
    use serde_json::json;

    use super::*;

    fn settled<T: for<'de> Deserialize<'de>>(mut value: Value) -> Value {
        settle::<T>(value.as_object_mut().unwrap());
        value
    }

    #[test]
    fn names_are_taken_in_any_case_and_the_right_one_counts() {
        let given = json!({ "detachKeys": "ctrl-p", "TTY": true, "cmd": [], "Cmd": ["a"], "other": 1 });
        let wanted = json!({ "DetachKeys": "ctrl-p", "Tty": true, "Cmd": ["a"], "other": 1 });
        assert_eq!(settled::<ExecConfig>(given), wanted);
        assert_eq!(settled::<HostConfig>(json!({ "memory": 1 })), json!({ "Memory": 1 }));
    }
}
