//! Words and signs of a template.

use super::{Result, TemplateError};

/// A word or a sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// What stands outside of actions.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.Name`; `.` alone has no name.
    Field(String),
    /// `$name`; `$` alone has no name.
    Variable(String),
    /// A function's or a keyword's name.
    Word(String),
    /// A string, or a character in single quotes as its number.
    Quoted(String),
    /// A whole number.
    Integer(i128),
    /// Another number.
    Float(f64),
    /// `|`.
    Pipe,
    /// `(`.
    Left,
    /// `)`.
    Right,
    /// `,`.
    Comma,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    /// White space between words, which decides what a field belongs to.
    Space,
}

fn wrong(problem: impl Into<String>) -> TemplateError {
    TemplateError::Parse(problem.into())
}

/// Takes a template apart. Comments are gone, and the white space that `{{-` and `-}}` take away.
pub(super) fn lex(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trims = false;
    while let Some((before, inside)) = rest.split_once("{{") {
        let trimmed = if trims { before.trim_start() } else { before };
        let (trims_before, inside) = match inside.strip_prefix('-') {
            Some(after) if after.starts_with(char::is_whitespace) => (true, after),
            _ => (false, inside),
        };
        let before = if trims_before { trimmed.trim_end() } else { trimmed };
        if !before.is_empty() {
            tokens.push(Token::Text(before.to_owned()));
        }
        (rest, trims) = action(inside, &mut tokens)?;
    }
    let last = if trims { rest.trim_start() } else { rest };
    if !last.is_empty() {
        tokens.push(Token::Text(last.to_owned()));
    }
    Ok(tokens)
}

/// One action; what follows it, and whether white space is taken off that.
fn action<'a>(inside: &'a str, tokens: &mut Vec<Token>) -> Result<(&'a str, bool)> {
    if let Some(comment) = inside.trim_start().strip_prefix("/*") {
        let (_, after) = comment.split_once("*/").ok_or_else(|| wrong("unclosed comment"))?;
        let trims = after.trim_start().starts_with("-}}");
        let (_, after) =
            after.split_once("}}").ok_or_else(|| wrong("comment ends before closing delimiter"))?;
        return Ok((after, trims));
    }
    tokens.push(Token::Open);
    let mut rest = inside;
    loop {
        if let Some(after) = rest.strip_prefix("}}") {
            tokens.push(Token::Close);
            return Ok((after, false));
        }
        let Some(first) = rest.chars().next() else { return Err(wrong("unclosed action")) };
        if first.is_whitespace() {
            let after = rest.trim_start();
            if let Some(after) = after.strip_prefix("-}}") {
                tokens.push(Token::Close);
                return Ok((after, true));
            }
            tokens.push(Token::Space);
            rest = after;
            continue;
        }
        let (token, after) = word(first, rest)?;
        tokens.push(token);
        rest = after;
    }
}

fn word(first: char, rest: &str) -> Result<(Token, &str)> {
    let after_first = &rest[first.len_utf8()..];
    for (sign, token) in [
        (":=", Token::Declare),
        ("=", Token::Assign),
        ("|", Token::Pipe),
        ("(", Token::Left),
        (")", Token::Right),
        (",", Token::Comma),
    ] {
        if let Some(after) = rest.strip_prefix(sign) {
            return Ok((token, after));
        }
    }
    match first {
        '"' => quoted(after_first),
        '`' => {
            let (raw, after) =
                after_first.split_once('`').ok_or_else(|| wrong("unterminated raw quoted string"))?;
            Ok((Token::Quoted(raw.to_owned()), after))
        }
        '\'' => character(after_first),
        '.' if !after_first.starts_with(|next: char| next.is_ascii_digit()) => {
            let (name, after) = name(after_first);
            Ok((Token::Field(name.to_owned()), after))
        }
        '$' => {
            let (name, after) = name(after_first);
            Ok((Token::Variable(name.to_owned()), after))
        }
        '0'..='9' | '.' | '-' | '+' => number(rest),
        _ if is_name(first) => {
            let (name, after) = name(rest);
            Ok((Token::Word(name.to_owned()), after))
        }
        other => Err(wrong(format!("unexpected {other:?} in action"))),
    }
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn name(text: &str) -> (&str, &str) {
    text.split_at(text.find(|character| !is_name(character)).unwrap_or(text.len()))
}

fn number(text: &str) -> Result<(Token, &str)> {
    let end = text
        .char_indices()
        .skip(1)
        .find(|(_, character)| !(is_name(*character) || *character == '.'))
        .map_or(text.len(), |(index, _)| index);
    let (digits, after) = text.split_at(end);
    if let Ok(number) = digits.parse::<i64>() {
        return Ok((Token::Integer(number.into()), after));
    }
    let number = digits.parse::<f64>().map_err(|_| wrong(format!("bad number syntax: {digits:?}")))?;
    Ok((Token::Float(number), after))
}

/// A string after its first quote.
fn quoted(text: &str) -> Result<(Token, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let Some(first) = rest.chars().next() else { return Err(wrong("unterminated quoted string")) };
        rest = &rest[first.len_utf8()..];
        match first {
            '"' => return Ok((Token::Quoted(value), rest)),
            '\n' => return Err(wrong("unterminated quoted string")),
            '\\' => {
                let (character, after) = escape(rest)?;
                value.push(character);
                rest = after;
            }
            other => value.push(other),
        }
    }
}

fn character(text: &str) -> Result<(Token, &str)> {
    let unterminated = || wrong("unterminated character constant");
    let first = text.chars().next().ok_or_else(unterminated)?;
    let after = &text[first.len_utf8()..];
    let (character, after) = if first == '\\' { escape(after)? } else { (first, after) };
    let after = after.strip_prefix('\'').ok_or_else(unterminated)?;
    Ok((Token::Integer(i128::from(u32::from(character))), after))
}

/// What follows a backslash.
fn escape(text: &str) -> Result<(char, &str)> {
    let invalid = || wrong("invalid syntax");
    let first = text.chars().next().ok_or_else(invalid)?;
    let rest = &text[first.len_utf8()..];
    let hexadecimal = |digits: usize| {
        let number = rest.get(..digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let character = number.and_then(char::from_u32).ok_or_else(invalid)?;
        Ok((character, &rest[digits..]))
    };
    let character = match first {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '"' | '\'' => first,
        'x' => return hexadecimal(2),
        'u' => return hexadecimal(4),
        'U' => return hexadecimal(8),
        _ => return Err(invalid()),
    };
    Ok((character, rest))
}
