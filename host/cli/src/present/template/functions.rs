//! What templates can call: Go's functions, and those that Docker adds (docker/cli, `templates`).

use std::cmp::Ordering;

use super::print::{print, printf};
use crate::present::value::Value;

type Result = std::result::Result<Value, String>;

/// Whether Docker adds the function to Go's: in a table's headings these do nothing.
pub(super) fn is_dockers(name: &str) -> bool {
    matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper" | "pad" | "truncate")
}

/// Whether a value counts as true: what is not empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Integer(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::List(list) => !list.is_empty(),
        Value::Map(fields) => !fields.is_empty(),
    }
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result {
    match (name, arguments) {
        ("json", [value]) => Ok(json(value)),
        ("lower", [text]) => Ok(print(text).to_lowercase().into()),
        ("upper", [text]) => Ok(print(text).to_uppercase().into()),
        ("title", [text]) => Ok(title(&print(text)).into()),
        ("split", [text, separator]) => Ok(split(text.text(), separator.text())),
        ("join", [list, separator]) => {
            let texts: Vec<String> = list.list().iter().map(print).collect();
            Ok(texts.join(separator.text()).into())
        }
        ("pad", [text, before, after]) => Ok(pad(text.text(), before.number(), after.number()).into()),
        ("truncate", [text, length]) => {
            let length = usize::try_from(length.number()).unwrap_or(0);
            Ok(text.text().chars().take(length).collect::<String>().into())
        }
        ("print", values) => Ok(spaced(values).into()),
        ("println", values) => {
            let texts: Vec<String> = values.iter().map(print).collect();
            Ok(format!("{}\n", texts.join(" ")).into())
        }
        ("printf", [format, values @ ..]) => Ok(printf(format.text(), values).into()),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("not", [value]) => Ok((!truth(value)).into()),
        ("eq", [value, others @ ..]) if !others.is_empty() => {
            Ok(others.iter().any(|other| compare(value, other) == Some(Ordering::Equal)).into())
        }
        ("ne", [one, other]) => Ok((compare(one, other) != Some(Ordering::Equal)).into()),
        ("lt", [one, other]) => ordered(one, other, |order| order == Ordering::Less),
        ("le", [one, other]) => ordered(one, other, |order| order != Ordering::Greater),
        ("gt", [one, other]) => ordered(one, other, |order| order == Ordering::Greater),
        ("ge", [one, other]) => ordered(one, other, |order| order != Ordering::Less),
        ("html", values) => Ok(html(&spaced(values)).into()),
        (known, _) if is_dockers(known) || is_gos(known) => {
            Err(format!("wrong number of args for {known}: got {}", arguments.len()))
        }
        (unknown, _) => Err(format!("function {unknown:?} not defined")),
    }
}

fn is_gos(name: &str) -> bool {
    matches!(name, "printf" | "len" | "index" | "slice" | "not" | "eq" | "ne" | "lt" | "le" | "gt" | "ge")
}

/// Without a line's end, as Docker's.
fn json(value: &Value) -> Value {
    value.to_json().into()
}

/// Spaces between operands of which neither is a string (Go's `fmt.Sprint`).
fn spaced(values: &[Value]) -> String {
    let mut text = String::new();
    let mut before: Option<&Value> = None;
    for value in values {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if before.is_some_and(|before| !is_text(before) && !is_text(value)) {
            text.push(' ');
        }
        text.push_str(&print(value));
        before = Some(value);
    }
    text
}

fn title(text: &str) -> String {
    let mut starts = true;
    let mut title = String::new();
    for character in text.chars() {
        if starts {
            title.extend(character.to_uppercase())
        } else {
            title.push(character)
        }
        starts = character.is_whitespace();
    }
    title
}

fn split(text: &str, separator: &str) -> Value {
    if separator.is_empty() {
        return Value::List(text.chars().map(|character| character.to_string().into()).collect());
    }
    Value::List(text.split(separator).map(Value::from).collect())
}

/// Spaces at both sides, unless there is nothing between them.
fn pad(text: &str, before: i64, after: i64) -> String {
    if text.is_empty() {
        return String::new();
    }
    let spaces = |count: i64| " ".repeat(usize::try_from(count).unwrap_or(0).min(1000));
    format!("{}{text}{}", spaces(before), spaces(after))
}

fn length(value: &Value) -> Result {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(fields) => fields.len(),
        Value::Null => 0,
        other => return Err(format!("error calling len: len of type {}", print(other))),
    };
    Ok(Value::Integer(i128::try_from(length).unwrap_or(0)))
}

fn index(value: &Value, key: &Value) -> Result {
    match (value, key) {
        // A map of Docker's types gives an empty value for a key that it does not have.
        (Value::Map(fields), Value::Text(key)) => {
            let found = fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
            let texts = fields.iter().all(|(_, value)| matches!(value, Value::Text(_)));
            Ok(found.unwrap_or(if texts { Value::from("") } else { Value::Null }))
        }
        (Value::Null, Value::Text(_)) => Ok(Value::from("")),
        (Value::List(list), Value::Integer(index)) => {
            let element = usize::try_from(*index).ok().and_then(|index| list.get(index));
            element
                .cloned()
                .ok_or_else(|| format!("error calling index: reflect: slice index out of range: {index}"))
        }
        (Value::Null, _) => Err("error calling index: index of nil pointer".to_owned()),
        _ => Err(format!("error calling index: cannot index {} with {}", print(value), print(key))),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result {
    let bound = |place: usize, missing: usize| match bounds.get(place) {
        None => Ok(missing),
        Some(bound) => {
            usize::try_from(bound.number()).map_err(|_| "error calling slice: index out of range".to_owned())
        }
    };
    let out_of_range = || "error calling slice: index out of range".to_owned();
    match value {
        Value::Text(text) => {
            let range = bound(0, 0)?..bound(1, text.len())?;
            text.get(range).map(Value::from).ok_or_else(out_of_range)
        }
        Value::List(list) => {
            let range = bound(0, 0)?..bound(1, list.len())?;
            list.get(range).map(|part| Value::List(part.to_vec())).ok_or_else(out_of_range)
        }
        other => Err(format!("error calling slice: can't slice item of type {}", print(other))),
    }
}

fn ordered(one: &Value, other: &Value, wanted: impl Fn(Ordering) -> bool) -> Result {
    match compare(one, other) {
        Some(order) => Ok(wanted(order).into()),
        None => Err("incompatible types for comparison".to_owned()),
    }
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    // Comparisons need no more digits than a float has.
    #[allow(clippy::cast_precision_loss)]
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => Some(one.cmp(other)),
        (Value::Float(one), Value::Float(other)) => one.partial_cmp(other),
        (Value::Integer(one), Value::Float(other)) => (*one as f64).partial_cmp(other),
        (Value::Float(one), Value::Integer(other)) => one.partial_cmp(&(*other as f64)),
        (Value::Text(one), Value::Text(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        (one, other) => (one == other).then_some(Ordering::Equal),
    }
}

fn html(text: &str) -> String {
    let escape = |character: char| match character {
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        '"' => "&#34;".to_owned(),
        '\'' => "&#39;".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}
