//! Lists of things: a table with headings, or what `--format` makes of each.

use std::io::{self, Write};

use super::table;
use super::template::{Subject, Template, TemplateError};
use super::value::Value;

/// One thing: the fields that templates and tables have, and the labels that `.Label` finds.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// A map of texts.
    pub(crate) fields: Value,
    pub(crate) labels: Vec<(String, Value)>,
}

impl Row {
    /// A row of these fields, in the order of their names, as Docker's JSON has them.
    pub(crate) fn new<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Row {
        let mut fields: Vec<_> =
            fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        Row { fields: Value::Map(fields), labels: Vec::new() }
    }
}

/// How a kind of thing is listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// The template of the table that nobody asked for differently.
    pub(crate) table: &'static str,
    /// Each field with its heading.
    pub(crate) headings: &'static [(&'static str, &'static str)],
    /// What `--quiet` shows.
    pub(crate) quiet: &'static str,
}

/// How a list is to be shown.
#[derive(Debug)]
pub(crate) struct Form {
    template: Template,
    /// The line of headings.
    headings: Option<String>,
}

impl Form {
    /// As `--format` and `--quiet` ask.
    ///
    /// # Errors
    ///
    /// When the template is none.
    pub(crate) fn new(kind: Kind, format: Option<&str>, quiet: bool) -> Result<Form, TemplateError> {
        let format = unescape(format.unwrap_or("table"));
        let format = match format.as_str() {
            "table" if quiet => kind.quiet.to_owned(),
            "" | "table" => format!("table {}", kind.table),
            "json" => "{{json .}}".to_owned(),
            other => other.to_owned(),
        };
        let Some(columns) = format.strip_prefix("table ") else {
            return Ok(Form { template: Template::parse(&format)?, headings: None });
        };
        let template = Template::parse(columns.trim_start())?;
        let headings = Row::new(kind.headings.iter().map(|(field, heading)| (*field, (*heading).to_owned())));
        let subject = Subject { value: Some(&headings.fields), labels: &[], headings: true };
        let line = template.run(subject)?;
        Ok(Form { template, headings: Some(line) })
    }

    /// The list as text.
    ///
    /// # Errors
    ///
    /// When the template asks for what there is not.
    pub(crate) fn text(&self, rows: &[Row]) -> Result<String, TemplateError> {
        let mut lines: Vec<String> = self.headings.iter().cloned().collect();
        for row in rows {
            let subject = Subject { value: Some(&row.fields), labels: &row.labels, headings: false };
            lines.push(self.template.run(subject)?);
        }
        if self.headings.is_some() {
            return Ok(table::lay_out(&lines));
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }
}

/// `\t` and `\n` as shells leave them.
pub(crate) fn unescape(format: &str) -> String {
    format.trim().replace("\\t", "\t").replace("\\n", "\n")
}

/// Prints to standard output. Whoever closed it wants no more.
///
/// # Errors
///
/// Those of writing, but for a closed pipe.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        table: "{{.ID}}\t{{.Names}}",
        headings: &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("State", "STATE")],
        quiet: "{{.ID}}",
    };

    fn shown(format: Option<&str>, quiet: bool) -> String {
        let row = |id: &str, name: &str| {
            Row::new([("Names", name.to_owned()), ("ID", id.to_owned()), ("State", "running".to_owned())])
        };
        let rows = [row("0123456789ab", "web"), row("ba9876543210", "database")];
        Form::new(KIND, format, quiet).unwrap().text(&rows).unwrap()
    }

    #[test]
    fn lists_are_tables_templates_or_json() {
        assert_eq!(shown(None, false), "CONTAINER ID   NAMES\n0123456789ab   web\nba9876543210   database\n");
        assert_eq!(shown(None, true), "0123456789ab\nba9876543210\n");
        assert_eq!(
            shown(Some("table {{.Names}}\\t{{upper .State}}"), false),
            "NAMES      STATE\nweb        RUNNING\ndatabase   RUNNING\n"
        );
        assert_eq!(shown(Some("{{.Names}}\\t{{.State}}"), false), "web\trunning\ndatabase\trunning\n");
        assert_eq!(
            shown(Some("json"), false).lines().next().unwrap(),
            r#"{"ID":"0123456789ab","Names":"web","State":"running"}"#
        );
        assert!(Form::new(KIND, Some("table {{.Nope}}"), false).is_err());
    }
}
