//! Templates of `--format`, in the language of Go's `text/template` as far as people use it with Docker: fields,
//! variables, pipes, `if`, `range`, `with`, Go's functions and Docker's.
//!
//! ```text
//!  text ─▶ lexer: words and signs ─▶ parser: a tree ─▶ run: the tree over a value
//! ```

mod functions;
mod lexer;
mod parser;
mod print;
mod run;
#[cfg(test)]
mod tests;

use self::parser::Node;
pub(crate) use self::print::quote;
use self::run::Run;
use super::value::Value;

/// Why a template is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// It is no template.
    #[error("template parsing error: template: :1: {0}")]
    Parse(String),
    /// It cannot be carried out over what it is given.
    #[error("template parsing error: template: :1: executing \"\" at <{at}>: {problem}")]
    Execute {
        /// The part of the template.
        at: String,
        /// What is wrong.
        problem: String,
    },
}

type Result<T> = std::result::Result<T, TemplateError>;

/// A template, parsed.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// What a template is carried out over.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// What `.` is.
    pub(crate) value: Option<&'a Value>,
    /// What `.Label "name"` finds.
    pub(crate) labels: &'a [(String, Value)],
    /// Whether the values are a table's headings, which functions leave as they are.
    pub(crate) headings: bool,
}

impl Template {
    /// Parses.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Parse`].
    pub(crate) fn parse(text: &str) -> Result<Template> {
        let tokens = lexer::lex(text)?;
        Ok(Template { nodes: parser::parse(&tokens)? })
    }

    /// Carries it out.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Execute`].
    pub(crate) fn run(&self, subject: Subject<'_>) -> Result<String> {
        Run::new(subject).text(&self.nodes)
    }

    /// Carries it out over one value.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Execute`].
    pub(crate) fn of(&self, value: &Value) -> Result<String> {
        self.run(Subject { value: Some(value), ..Subject::default() })
    }
}
