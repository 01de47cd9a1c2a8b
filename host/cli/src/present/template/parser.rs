//! The tree of a template.

use super::lexer::Token;
use super::{Result, TemplateError};
use crate::present::value::Value;

/// How deep blocks and parentheses may nest.
const MAX_DEPTH: usize = 64;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    /// Text as it is.
    Text(String),
    /// `{{ … }}`.
    Action(Pipeline),
    /// `{{if}}`, and `{{with}}`, which makes what it looks at the dot.
    If { condition: Pipeline, body: Vec<Node>, otherwise: Vec<Node>, sets_dot: bool },
    /// `{{range}}`.
    Range { over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Variables that are set to the value.
    pub(super) variables: Vec<String>,
    /// Whether they are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// An operand, and the fields that are taken of it.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Constant(Value),
    Parentheses(Pipeline),
}

fn wrong(problem: impl Into<String>) -> TemplateError {
    TemplateError::Parse(problem.into())
}

/// Puts words and signs together.
pub(super) fn parse(tokens: &[Token]) -> Result<Vec<Node>> {
    let mut parser = Parser { tokens, place: 0, depth: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        BlockEnd::Template => Ok(nodes),
        BlockEnd::Whole => Err(wrong("unexpected {{end}}")),
        BlockEnd::Else => Err(wrong("unexpected {{else}}")),
    }
}

/// What ended a block.
enum BlockEnd {
    /// The template's end.
    Template,
    /// `{{end}}`.
    Whole,
    /// `{{else`, after which the action goes on.
    Else,
}

struct Parser<'a> {
    tokens: &'a [Token],
    place: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.place)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.place);
        self.place += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Token::Space) {
            self.place += 1;
        }
    }

    fn close(&mut self) -> Result<()> {
        self.skip_space();
        match self.next() {
            Some(Token::Close) => Ok(()),
            _ => Err(wrong("unexpected words in action")),
        }
    }

    fn block(&mut self) -> Result<(Vec<Node>, BlockEnd)> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(wrong("max depth exceeded"));
        }
        let mut nodes = Vec::new();
        loop {
            match self.next() {
                None => {
                    self.depth -= 1;
                    return if self.depth == 0 {
                        Ok((nodes, BlockEnd::Template))
                    } else {
                        Err(wrong("unexpected EOF"))
                    };
                }
                Some(Token::Text(text)) => nodes.push(Node::Text(text.clone())),
                _ => {
                    self.skip_space();
                    if let Some(end) = self.action(&mut nodes)? {
                        self.depth -= 1;
                        return Ok((nodes, end));
                    }
                }
            }
        }
    }

    /// One action after its `{{`.
    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<Option<BlockEnd>> {
        if let Some(Token::Word(word)) = self.peek() {
            let start = self.place;
            self.place += 1;
            match word.as_str() {
                "end" => {
                    self.close()?;
                    return Ok(Some(BlockEnd::Whole));
                }
                "else" => return Ok(Some(BlockEnd::Else)),
                "if" | "with" => {
                    nodes.push(self.conditional(word == "with")?);
                    return Ok(None);
                }
                "range" => {
                    nodes.push(self.range()?);
                    return Ok(None);
                }
                "break" => {
                    nodes.push(Node::Break);
                    self.close()?;
                    return Ok(None);
                }
                "continue" => {
                    nodes.push(Node::Continue);
                    self.close()?;
                    return Ok(None);
                }
                _ => self.place = start,
            }
        }
        nodes.push(Node::Action(self.pipeline(&Token::Close)?));
        Ok(None)
    }

    fn conditional(&mut self, sets_dot: bool) -> Result<Node> {
        let condition = self.pipeline(&Token::Close)?;
        let (body, end) = self.block()?;
        let otherwise = self.otherwise(&end)?;
        Ok(Node::If { condition, body, otherwise, sets_dot })
    }

    fn range(&mut self) -> Result<Node> {
        let over = self.pipeline(&Token::Close)?;
        let (body, end) = self.block()?;
        let otherwise = self.otherwise(&end)?;
        Ok(Node::Range { over, body, otherwise })
    }

    /// What follows `{{else`: a block, or `if` or `with` and a block that share the `{{end}}`.
    fn otherwise(&mut self, end: &BlockEnd) -> Result<Vec<Node>> {
        match end {
            BlockEnd::Whole => return Ok(Vec::new()),
            BlockEnd::Template => return Err(wrong("unexpected EOF")),
            BlockEnd::Else => {}
        }
        self.skip_space();
        match self.peek() {
            Some(Token::Word(word)) if word == "if" || word == "with" => {
                self.place += 1;
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(wrong("max depth exceeded"));
                }
                let nested = self.conditional(word == "with")?;
                self.depth -= 1;
                Ok(vec![nested])
            }
            _ => {
                self.close()?;
                let (body, end) = self.block()?;
                match end {
                    BlockEnd::Whole => Ok(body),
                    _ => Err(wrong("expected end; found {{else}}")),
                }
            }
        }
    }

    /// A pipeline with the sign that ends it.
    fn pipeline(&mut self, end: &Token) -> Result<Pipeline> {
        self.skip_space();
        let (variables, declares) = self.declaration();
        let mut commands = Vec::new();
        let mut command: Vec<Operand> = Vec::new();
        loop {
            self.skip_space();
            match self.next() {
                Some(token) if token == end => break,
                Some(Token::Pipe) if !command.is_empty() => commands.push(std::mem::take(&mut command)),
                Some(token) => command.push(self.operand(token)?),
                None => return Err(wrong("unclosed action")),
            }
        }
        if command.is_empty() {
            return Err(wrong("missing value for command"));
        }
        commands.push(command);
        Ok(Pipeline { variables, declares, commands })
    }

    /// `$x :=`, `$x =`, `$i, $x :=`.
    fn declaration(&mut self) -> (Vec<String>, bool) {
        let start = self.place;
        let mut names = Vec::new();
        while let Some(Token::Variable(name)) = self.peek() {
            names.push(name.clone());
            self.place += 1;
            self.skip_space();
            match self.next() {
                Some(Token::Comma) => self.skip_space(),
                Some(Token::Declare) => return (names, true),
                Some(Token::Assign) => return (names, false),
                _ => break,
            }
        }
        self.place = start;
        (Vec::new(), false)
    }

    fn operand(&mut self, token: &Token) -> Result<Operand> {
        let mut fields = Vec::new();
        let base = match token {
            Token::Field(name) => {
                if !name.is_empty() {
                    fields.push(name.clone());
                }
                Base::Dot
            }
            Token::Variable(name) => Base::Variable(name.clone()),
            Token::Word(word) => match word.as_str() {
                "true" => Base::Constant(Value::Bool(true)),
                "false" => Base::Constant(Value::Bool(false)),
                "nil" => Base::Constant(Value::Null),
                name => Base::Function(name.to_owned()),
            },
            Token::Quoted(text) => Base::Constant(Value::Text(text.clone())),
            Token::Integer(number) => Base::Constant(Value::Integer(*number)),
            Token::Float(number) => Base::Constant(Value::Float(*number)),
            Token::Left => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(wrong("max depth exceeded"));
                }
                let inner = self.pipeline(&Token::Right)?;
                self.depth -= 1;
                Base::Parentheses(inner)
            }
            _ => return Err(wrong("unexpected sign in operand")),
        };
        while let Some(Token::Field(name)) = self.peek() {
            if name.is_empty() {
                return Err(wrong("unexpected . after term"));
            }
            fields.push(name.clone());
            self.place += 1;
        }
        Ok(Operand { base, fields })
    }
}
