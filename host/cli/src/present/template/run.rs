//! A template's tree over a value.

use super::functions;
use super::parser::{Base, Node, Operand, Pipeline};
use super::print::print;
use super::{Result, Subject, TemplateError};
use crate::present::value::Value;

/// What Go prints for a key that a map does not have.
const NO_VALUE: &str = "<no value>";
/// Fields of the API whose names are anybody's: one that is missing is no mistake of the template's.
const FREE_MAPS: &[&str] = &[
    "Annotations",
    "Attributes",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
    "Config",
];
/// The most text that a template may make.
const MAX_TEXT: usize = 64 << 20;

/// How a block ended.
enum Flow {
    On,
    Break,
    Continue,
}

/// A value in the course of a command.
enum Got {
    Value(Value),
    /// A key that is not there.
    Missing,
}

impl Got {
    fn value(self) -> Value {
        match self {
            Got::Value(value) => value,
            Got::Missing => Value::Null,
        }
    }
}

/// A template under way.
pub(super) struct Run<'a> {
    subject: Subject<'a>,
    root: Value,
    dot: Value,
    variables: Vec<(String, Value)>,
    output: String,
}

impl<'a> Run<'a> {
    pub(super) fn new(subject: Subject<'a>) -> Run<'a> {
        let root = subject.value.cloned().unwrap_or_default();
        Run { subject, dot: root.clone(), root, variables: Vec::new(), output: String::new() }
    }

    pub(super) fn text(mut self, nodes: &[Node]) -> Result<String> {
        self.block(nodes)?;
        Ok(self.output)
    }

    fn block(&mut self, nodes: &[Node]) -> Result<Flow> {
        let scope = self.variables.len();
        let flow = self.nodes(nodes);
        self.variables.truncate(scope);
        flow
    }

    fn nodes(&mut self, nodes: &[Node]) -> Result<Flow> {
        for node in nodes {
            if self.output.len() > MAX_TEXT {
                return Err(failed("range", "the text is too long"));
            }
            match node {
                Node::Text(text) => self.output.push_str(text),
                Node::Action(pipeline) => {
                    let got = self.pipeline(pipeline)?;
                    if pipeline.variables.is_empty() {
                        match got {
                            Got::Value(value) => self.output.push_str(&print(&value)),
                            Got::Missing => self.output.push_str(NO_VALUE),
                        }
                    }
                }
                Node::If { condition, body, otherwise, sets_dot } => {
                    match self.conditional(condition, body, otherwise, *sets_dot)? {
                        Flow::On => {}
                        flow => return Ok(flow),
                    }
                }
                Node::Range { over, body, otherwise } => self.range(over, body, otherwise)?,
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::On)
    }

    fn conditional(
        &mut self,
        condition: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        sets_dot: bool,
    ) -> Result<Flow> {
        let scope = self.variables.len();
        let value = self.pipeline(condition)?.value();
        let truth = functions::truth(&value);
        let dot = (sets_dot && truth).then(|| std::mem::replace(&mut self.dot, value));
        let flow = self.block(if truth { body } else { otherwise });
        if let Some(dot) = dot {
            self.dot = dot;
        }
        self.variables.truncate(scope);
        flow
    }

    fn range(&mut self, over: &Pipeline, body: &[Node], otherwise: &[Node]) -> Result<()> {
        let scope = self.variables.len();
        // The variables are those of the turns, not of the whole.
        let value = self.commands(over)?.value();
        let turns = turns(&value)?;
        if turns.is_empty() {
            self.block(otherwise)?;
        }
        let dot = self.dot.clone();
        for (key, element) in turns {
            match over.variables.as_slice() {
                [element_name] => self.variables.push((element_name.clone(), element.clone())),
                [key_name, element_name, ..] => {
                    self.variables.push((key_name.clone(), key));
                    self.variables.push((element_name.clone(), element.clone()));
                }
                [] => {}
            }
            self.dot = element;
            let flow = self.block(body)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        self.dot = dot;
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline) -> Result<Got> {
        let got = self.commands(pipeline)?;
        if let Some(name) = pipeline.variables.first() {
            let value = got.value();
            if pipeline.declares {
                self.variables.push((name.clone(), value));
            } else if let Some(known) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                known.1 = value;
            } else {
                return Err(failed(&format!("${name}"), "undefined variable"));
            }
            return Ok(Got::Missing);
        }
        Ok(got)
    }

    fn commands(&mut self, pipeline: &Pipeline) -> Result<Got> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last)?);
        }
        Ok(last.unwrap_or(Got::Missing))
    }

    fn command(&mut self, command: &[Operand], last: Option<Got>) -> Result<Got> {
        let Some((first, rest)) = command.split_first() else { return Ok(Got::Missing) };
        if let Base::Function(name) = &first.base {
            return self.call(name, rest, last, &first.fields);
        }
        if rest.is_empty() && last.is_none() {
            return self.operand(first);
        }
        if matches!(first.base, Base::Dot) && first.fields == ["Label"] {
            return self.label(rest, last);
        }
        Err(failed(&shown(first), "can't give argument to non-function"))
    }

    /// `.Label "name"`.
    fn label(&mut self, rest: &[Operand], last: Option<Got>) -> Result<Got> {
        let name = match (rest, last) {
            ([name], None) => self.operand(name)?.value(),
            ([], Some(name)) => name.value(),
            _ => return Err(failed(".Label", "wrong number of args for Label: want 1")),
        };
        if self.subject.headings {
            return Ok(Got::Value(name));
        }
        let found = self.subject.labels.iter().find(|(known, _)| known == name.text());
        Ok(Got::Value(found.map_or(Value::from(""), |(_, value)| value.clone())))
    }

    fn call(&mut self, name: &str, rest: &[Operand], last: Option<Got>, fields: &[String]) -> Result<Got> {
        // These two need not look at all of their arguments.
        if matches!(name, "and" | "or") {
            return self.shortcut(name == "and", rest, last);
        }
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand)?.value());
        }
        arguments.extend(last.map(Got::value));
        let result = if self.subject.headings && functions::is_dockers(name) {
            Ok(arguments.into_iter().find(|argument| matches!(argument, Value::Text(_))).unwrap_or_default())
        } else {
            functions::call(name, &arguments)
        };
        let value = result.map_err(|problem| failed(name, &problem))?;
        self.fields(Got::Value(value), fields, name)
    }

    fn shortcut(&mut self, wants_truth: bool, rest: &[Operand], last: Option<Got>) -> Result<Got> {
        let mut value = Value::Null;
        for operand in rest {
            value = self.operand(operand)?.value();
            if functions::truth(&value) != wants_truth {
                return Ok(Got::Value(value));
            }
        }
        Ok(Got::Value(last.map_or(value, Got::value)))
    }

    fn operand(&mut self, operand: &Operand) -> Result<Got> {
        let base = match &operand.base {
            Base::Dot => Got::Value(self.dot.clone()),
            Base::Variable(name) if name.is_empty() => Got::Value(self.root.clone()),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let undefined = || TemplateError::Parse(format!("undefined variable \"${name}\""));
                Got::Value(found.map(|(_, value)| value.clone()).ok_or_else(undefined)?)
            }
            Base::Function(name) => return self.call(name, &[], None, &operand.fields),
            Base::Constant(value) => Got::Value(value.clone()),
            Base::Parentheses(pipeline) => self.pipeline(pipeline)?,
        };
        self.fields(base, &operand.fields, "")
    }

    fn fields(&self, base: Got, names: &[String], of: &str) -> Result<Got> {
        let mut got = base;
        let mut path = of.to_owned();
        let mut free = false;
        for name in names {
            path.push('.');
            path.push_str(name);
            got = match got {
                Got::Value(value @ Value::Map(_)) => match value.field(name) {
                    Some(found) => Got::Value(found.clone()),
                    None if free => Got::Missing,
                    None => return Err(failed(&path, &format!("map has no entry for key {name:?}"))),
                },
                // What is null has fields that are null: Docker's types have them all.
                Got::Value(Value::Null) | Got::Missing => Got::Missing,
                Got::Value(other) => {
                    let problem = format!("can't evaluate field {name} in type {}", type_name(&other));
                    return Err(failed(&path, &problem));
                }
            };
            free = FREE_MAPS.contains(&name.as_str());
        }
        Ok(got)
    }
}

/// Keys and elements of what is ranged over.
fn turns(value: &Value) -> Result<Vec<(Value, Value)>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::List(list) => {
            let number = |index: usize| Value::Integer(i128::try_from(index).unwrap_or(0));
            Ok(list.iter().enumerate().map(|(index, element)| (number(index), element.clone())).collect())
        }
        Value::Map(fields) => {
            let mut sorted: Vec<_> =
                fields.iter().map(|(name, value)| (Value::from(name.as_str()), value.clone())).collect();
            sorted.sort_by(|one, other| one.0.text().cmp(other.0.text()));
            Ok(sorted)
        }
        other => Err(failed("range", &format!("range can't iterate over {}", print(other)))),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Integer(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
    }
}

fn shown(operand: &Operand) -> String {
    let base = match &operand.base {
        Base::Variable(name) => format!("${name}"),
        Base::Function(name) => name.clone(),
        Base::Constant(value) => print(value),
        Base::Dot | Base::Parentheses(_) => String::new(),
    };
    operand.fields.iter().fold(base, |text, field| format!("{text}.{field}"))
}

fn failed(at: &str, problem: &str) -> TemplateError {
    TemplateError::Execute { at: at.to_owned(), problem: problem.to_owned() }
}
