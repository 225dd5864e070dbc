//! What a piece of SQL text asks for, found with SQLite's own lexical rules and without a parser.
//!
//! The engine wants to know more than a client usually says: a write that yields a row wedges the
//! server when it is sent as EXEC, several statements have to go one by one, and a text of comments
//! must not go at all. Everything here errs to the safe side: text that SQLite will refuse is
//! called row-yielding, so that it travels by PREPARE and comes back as SQLite's own syntax error.

mod pragma;
mod token;

use crate::error::Result;
use crate::limits;
use crate::memory;
use token::{Class, Token, Tokens};

/// One statement of a text.
#[derive(Clone, Debug)]
pub(crate) struct Statement<'a> {
    /// From its first token to its last; nothing inside is changed.
    pub(crate) text: &'a str,
    pub(crate) kind: Kind<'a>,
    /// Stepping it may yield rows. May be true for a statement without rows, never false for one
    /// with rows.
    pub(crate) rows: bool,
    /// It reads nothing that belongs to one connection only, so any connection of the session may
    /// run it.
    pub(crate) spare: bool,
    taints: bool,
}

impl Statement<'_> {
    /// After it, this connection may see what another connection of the same session does not:
    /// temporary objects, attached databases, settings.
    pub(crate) fn taints_session(&self) -> bool {
        self.taints
    }

    /// It begins or ends a transaction or savepoint: it has no parameters and no rows, and is not worth preparing.
    pub(super) fn controls_transaction(&self) -> bool {
        match self.kind {
            Kind::Begin | Kind::Commit | Kind::Rollback => true,
            Kind::Savepoint(_) | Kind::Release(_) | Kind::RollbackTo(_) => true,
            Kind::Read | Kind::Insert | Kind::Change | Kind::Pragma | Kind::Other => false,
        }
    }

    /// The same text, where only what it reads counts.
    pub(super) fn as_read(&self) -> Self {
        Self {
            kind: Kind::Read,
            ..self.clone()
        }
    }

    /// The same without the text, so that it can be put together again. Savepoints have their name in it.
    fn detached(&self) -> Option<Statement<'static>> {
        let kind = match self.kind {
            Kind::Read => Kind::Read,
            Kind::Insert => Kind::Insert,
            Kind::Change => Kind::Change,
            Kind::Begin => Kind::Begin,
            Kind::Commit => Kind::Commit,
            Kind::Rollback => Kind::Rollback,
            Kind::Pragma => Kind::Pragma,
            Kind::Other => Kind::Other,
            Kind::Savepoint(_) | Kind::Release(_) | Kind::RollbackTo(_) => return None,
        };
        Some(Statement {
            text: "",
            kind,
            rows: self.rows,
            spare: self.spare,
            taints: self.taints,
        })
    }
}

/// A statement with its text.
pub(super) struct OwnedStatement {
    text: String,
    /// None where it is made from the text each time.
    detached: Option<Statement<'static>>,
}

impl OwnedStatement {
    pub(super) fn new(statement: &Statement<'_>) -> Result<Self> {
        Ok(Self {
            text: memory::copy_text(statement.text, "a statement")?,
            detached: statement.detached(),
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn get(&self) -> Statement<'_> {
        let detached = match &self.detached {
            Some(detached) => detached.clone(),
            None => statements(&self.text).next().unwrap_or(NOTHING),
        };
        Statement {
            text: &self.text,
            ..detached
        }
    }
}

/// What stands for a statement that is none.
const NOTHING: Statement<'static> = Statement {
    text: "",
    kind: Kind::Other,
    rows: true,
    spare: false,
    taints: false,
};

/// The names of a statement's parameters in the order of their index; None for those that are numbers or a bare `?`.
///
/// SQLite's rules: a bare `?` takes the index behind the largest one so far, `?7` is the seventh, a name takes the next
/// index the first time and the same one afterwards.
pub(super) fn parameters(sql: &str) -> Vec<Option<String>> {
    let mut names: Vec<Option<String>> = Vec::new();
    for token in Tokens::new(sql).filter(|token| token.class == Class::Other) {
        match token.text.as_bytes() {
            b"?" => names.push(None),
            [b'?', ..] => {
                let number = token.text[1..].parse().unwrap_or(0).min(limits::PARAMETERS);
                names.resize(names.len().max(number), None);
            }
            [b':' | b'@' | b'$', _, ..] => {
                let known = names.iter().flatten().any(|known| known == token.text);
                if !known {
                    names.push(Some(token.text.to_owned()));
                }
            }
            _ => {}
        }
    }
    names
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// SELECT, VALUES, the same behind WITH, and EXPLAIN of anything.
    Read,
    /// INSERT or REPLACE, also behind WITH.
    Insert,
    /// UPDATE or DELETE, also behind WITH.
    Change,
    Begin,
    /// COMMIT or END.
    Commit,
    Rollback,
    Savepoint(Name<'a>),
    Release(Name<'a>),
    RollbackTo(Name<'a>),
    Pragma,
    /// DDL, VACUUM, ANALYZE, REINDEX, ATTACH, DETACH, and what is no SQL.
    Other,
}

/// The name of a savepoint as it was written; equal to another one if SQLite takes them for the
/// same. Empty where the statement lacks it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a>(&'a str);

impl Name<'_> {
    /// The form to keep when the text goes away: equal names have equal keys.
    pub(crate) fn key(&self) -> String {
        String::from_utf8_lossy(&self.folded().collect::<Vec<_>>()).into_owned()
    }

    fn folded(&self) -> impl Iterator<Item = u8> {
        let quote = match self.0.as_bytes().first() {
            Some(b'[') => Some(b']'),
            Some(&q @ (b'"' | b'`' | b'\'')) => Some(q),
            _ => None,
        };
        let inner = match quote {
            Some(_) => self.0.get(1..self.0.len() - 1).unwrap_or_default(),
            None => self.0,
        };
        let mut open = false;
        inner.bytes().filter_map(move |b| {
            // Inside quotes the quote itself is written twice.
            open = Some(b) == quote && !open;
            (!open).then(|| b.to_ascii_lowercase())
        })
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.folded().eq(other.folded())
    }
}

impl Eq for Name<'_> {}

/// The statements of `sql`, without the empty ones.
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = Statement<'_>> {
    Statements {
        sql,
        tokens: Tokens::new(sql),
    }
}

struct Statements<'a> {
    sql: &'a str,
    tokens: Tokens<'a>,
}

impl<'a> Iterator for Statements<'a> {
    type Item = Statement<'a>;

    fn next(&mut self) -> Option<Statement<'a>> {
        let first = self.tokens.find(|t| t.class != Class::Semicolon)?;
        let verb = main_verb(first, self.tokens.clone());
        let mut seen = Seen::default();
        seen.note(&first);
        let end = if is_trigger(first, self.tokens.clone()) {
            self.through_trigger(first, &mut seen)
        } else {
            self.through_plain(first, &mut seen)
        };
        let text = &self.sql[first.start..end];
        let rest = Tokens::new(text).skip(1);
        Some(Statement {
            text,
            rows: match verb {
                Verb::Select | Verb::Explain | Verb::Pragma | Verb::Unknown => true,
                Verb::Insert | Verb::Change => seen.returning,
                _ => false,
            },
            spare: verb == Verb::Select && !seen.own_to_connection,
            taints: match verb {
                Verb::Attach => true,
                Verb::Pragma => pragma::sets_connection(rest.clone()),
                Verb::Create => seen.temp_schema || makes_temp(rest.clone()),
                _ => false,
            },
            kind: kind(verb, rest),
        })
    }
}

impl<'a> Statements<'a> {
    /// Where the statement ends; its semicolon, if there is one, is used up.
    fn through_plain(&mut self, first: Token<'a>, seen: &mut Seen) -> usize {
        let mut end = first.end();
        for token in self.tokens.by_ref().take_while(|t| t.class != Class::Semicolon) {
            seen.note(&token);
            end = token.end();
        }
        end
    }

    /// The statements in a trigger's body end in semicolons too. None of them can begin with END,
    /// so the END right behind a semicolon is the trigger's; other ENDs (of CASE) never stand
    /// there.
    fn through_trigger(&mut self, first: Token<'a>, seen: &mut Seen) -> usize {
        let mut end = first.end();
        let (mut fresh, mut done) = (false, false);
        for token in self.tokens.by_ref() {
            let semicolon = token.class == Class::Semicolon;
            if semicolon && done {
                break;
            }
            seen.note(&token);
            done |= fresh && token.is("END");
            fresh = semicolon;
            end = token.end();
        }
        end
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Select,
    Explain,
    With,
    Insert,
    Change,
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Release,
    Pragma,
    Attach,
    Create,
    Schema,
    Unknown,
}

const VERBS: [(&str, Verb); 23] = [
    ("SELECT", Verb::Select),
    ("INSERT", Verb::Insert),
    ("UPDATE", Verb::Change),
    ("DELETE", Verb::Change),
    ("BEGIN", Verb::Begin),
    ("COMMIT", Verb::Commit),
    ("END", Verb::Commit),
    ("ROLLBACK", Verb::Rollback),
    ("WITH", Verb::With),
    ("VALUES", Verb::Select),
    ("REPLACE", Verb::Insert),
    ("EXPLAIN", Verb::Explain),
    ("SAVEPOINT", Verb::Savepoint),
    ("RELEASE", Verb::Release),
    ("PRAGMA", Verb::Pragma),
    ("CREATE", Verb::Create),
    ("DROP", Verb::Schema),
    ("ALTER", Verb::Schema),
    ("VACUUM", Verb::Schema),
    ("ANALYZE", Verb::Schema),
    ("REINDEX", Verb::Schema),
    ("ATTACH", Verb::Attach),
    // Like ATTACH, it changes what this connection sees and no other.
    ("DETACH", Verb::Attach),
];

fn verb_of(token: &Token<'_>) -> Verb {
    VERBS
        .iter()
        .find(|(word, _)| token.is(word))
        .map_or(Verb::Unknown, |(_, verb)| *verb)
}

/// The verb that decides: the first word, or behind WITH the one after the list of common tables.
/// There, names may look like verbs (`WITH replace AS ...`), so the place decides: a word right
/// behind a closing parenthesis of the outermost level is the verb, unless it is the AS behind a
/// list of columns.
fn main_verb(first: Token<'_>, rest: Tokens<'_>) -> Verb {
    let verb = verb_of(&first);
    if verb != Verb::With {
        return verb;
    }
    let mut depth = 0_usize;
    let mut closed = false;
    for token in rest.take_while(|t| t.class != Class::Semicolon) {
        match token.class {
            Class::Open => depth += 1,
            Class::Close if depth == 0 => return Verb::Unknown,
            Class::Close => depth -= 1,
            Class::Word if closed && !token.is("AS") => {
                let verb = verb_of(&token);
                let fits = matches!(verb, Verb::Select | Verb::Insert | Verb::Change);
                return if fits { verb } else { Verb::Unknown };
            }
            _ => {}
        }
        closed = depth == 0 && token.class == Class::Close;
    }
    Verb::Unknown
}

fn is_trigger<'a>(first: Token<'a>, mut rest: Tokens<'a>) -> bool {
    let mut token = Some(first);
    if first.is("EXPLAIN") {
        token = rest.next();
        if token.is_some_and(|t| t.is("QUERY")) {
            rest.next();
            token = rest.next();
        }
    }
    if !token.is_some_and(|t| t.is("CREATE")) {
        return false;
    }
    token = rest.next();
    if token.is_some_and(|t| t.is("TEMP") || t.is("TEMPORARY")) {
        token = rest.next();
    }
    token.is_some_and(|t| t.is("TRIGGER"))
}

fn makes_temp<'a>(mut rest: impl Iterator<Item = Token<'a>>) -> bool {
    rest.next().is_some_and(|t| t.is("TEMP") || t.is("TEMPORARY"))
}

fn kind<'a>(verb: Verb, mut rest: impl Iterator<Item = Token<'a>>) -> Kind<'a> {
    match verb {
        Verb::Select | Verb::Explain => Kind::Read,
        Verb::Insert => Kind::Insert,
        Verb::Change => Kind::Change,
        Verb::Begin => Kind::Begin,
        Verb::Commit => Kind::Commit,
        // A transaction may be given a name, which SQLite ignores, but TO is never a name.
        Verb::Rollback if rest.any(|t| t.is("TO")) => Kind::RollbackTo(savepoint(rest)),
        Verb::Rollback => Kind::Rollback,
        Verb::Savepoint => Kind::Savepoint(Name(rest.next().map_or("", |t| t.text))),
        Verb::Release => Kind::Release(savepoint(rest)),
        Verb::Pragma => Kind::Pragma,
        Verb::With | Verb::Attach | Verb::Create | Verb::Schema | Verb::Unknown => Kind::Other,
    }
}

/// `[SAVEPOINT] name`
fn savepoint<'a>(mut rest: impl Iterator<Item = Token<'a>>) -> Name<'a> {
    let name = rest
        .next()
        .and_then(|t| if t.is("SAVEPOINT") { rest.next() } else { Some(t) });
    Name(name.map_or("", |t| t.text))
}

/// What is worth knowing about the words of a statement, wherever they stand.
#[derive(Default)]
struct Seen {
    returning: bool,
    /// A name of which each connection has its own meaning.
    own_to_connection: bool,
    /// The schema `temp.` is named.
    temp_schema: bool,
    temp_before: bool,
}

/// Names whose meaning differs between connections. A column called like one of them costs the
/// statement no more than a wait for its own connection.
const OWN_TO_CONNECTION: [&str; 7] = [
    "last_insert_rowid",
    "changes",
    "total_changes",
    "temp",
    "temporary",
    "sqlite_temp_master",
    "sqlite_temp_schema",
];

impl Seen {
    fn note(&mut self, token: &Token<'_>) {
        let name = match token.class {
            Class::Word => token.text,
            // Also '...', which SQLite takes for a name where a value makes no sense.
            Class::Quoted => token.text.get(1..token.text.len() - 1).unwrap_or_default(),
            _ => {
                self.temp_schema |= self.temp_before && token.class == Class::Dot;
                self.temp_before = false;
                return;
            }
        };
        self.returning |= token.is("RETURNING");
        self.temp_before = name.eq_ignore_ascii_case("temp");
        self.own_to_connection |= OWN_TO_CONNECTION.iter().any(|own| own.eq_ignore_ascii_case(name))
            // Table-valued pragmas tell the settings of the connection.
            || name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("pragma_"));
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
