//! Values as Go's `fmt` prints them.

use std::fmt::Write as _;

use crate::present::value::Value;

/// As `%v` prints it.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => float(*number),
        Value::Text(text) => text.clone(),
        Value::List(list) => format!("[{}]", list.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Map(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|one, other| one.0.cmp(&other.0));
            let fields: Vec<_> =
                sorted.iter().map(|(name, value)| format!("{name}:{}", print(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

/// The shortest that says it, with an exponent from 10 to the 21st on (Go's `%v`).
fn float(number: f64) -> String {
    if number == 0.0 || (1e-5..1e21).contains(&number.abs()) {
        number.to_string()
    } else {
        format!("{number:e}")
    }
}

/// As `%q` prints it: in quotes, with escapes.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            control if control.is_control() && u32::from(control) < 0x80 => {
                // Writing to a string does not fail.
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// `printf`: the verbs that make sense for what comes out of JSON.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut text = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let end = after.find(|character: char| !matches!(character, '-' | '+' | '#' | ' ' | '.' | '0'..='9'));
        let (flags, after) = after.split_at(end.unwrap_or(after.len()));
        let mut characters = after.chars();
        rest = match characters.next() {
            Some('%') => {
                text.push('%');
                characters.as_str()
            }
            Some(verb) => {
                match arguments.next() {
                    Some(value) => text.push_str(&padded(&formatted(verb, flags, value), flags)),
                    None => {
                        let _ = write!(text, "%!{verb}(MISSING)");
                    }
                }
                characters.as_str()
            }
            None => {
                text.push_str("%!(NOVERB)");
                ""
            }
        };
    }
    text.push_str(rest);
    let extra: Vec<_> = arguments.map(print).collect();
    if !extra.is_empty() {
        let _ = write!(text, "%!(EXTRA {})", extra.join(", "));
    }
    text
}

fn formatted(verb: char, flags: &str, value: &Value) -> String {
    let precision = flags
        .split_once('.')
        .and_then(|(_, digits)| digits.parse::<usize>().ok())
        .map(|digits| digits.min(40));
    match (verb, value) {
        ('v', _) | ('d', Value::Integer(_)) | ('t', Value::Bool(_)) => print(value),
        ('s', _) => {
            let text = print(value);
            precision.map_or(text.clone(), |most| text.chars().take(most).collect())
        }
        ('q', _) => quote(&print(value)),
        ('x', Value::Integer(number)) => format!("{number:x}"),
        ('X', Value::Integer(number)) => format!("{number:X}"),
        ('o', Value::Integer(number)) => format!("{number:o}"),
        ('b', Value::Integer(number)) => format!("{number:b}"),
        ('c', Value::Integer(number)) => u32::try_from(*number)
            .ok()
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER)
            .to_string(),
        ('f' | 'F', Value::Float(number)) => format!("{number:.*}", precision.unwrap_or(6)),
        ('g', Value::Float(number)) => float(*number),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        _ => format!("%!{verb}({})", print(value)),
    }
}

/// To the width that the flags tell, at most a terminal's.
fn padded(text: &str, flags: &str) -> String {
    let width = flags.split('.').next().unwrap_or_default().trim_start_matches(['-', '+', '#', ' ']);
    let zeros = width.starts_with('0');
    let width = width.parse::<usize>().unwrap_or(0).min(1000);
    let missing = width.saturating_sub(text.chars().count());
    let left = flags.contains('-');
    match (left, zeros) {
        (true, _) => format!("{text}{}", " ".repeat(missing)),
        (false, true) => format!("{}{text}", "0".repeat(missing)),
        (false, false) => format!("{}{text}", " ".repeat(missing)),
    }
}
