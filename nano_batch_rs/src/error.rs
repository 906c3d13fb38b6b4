//! Everything that can go wrong, by name: what was given, and the limit it broke.

use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A number outside its range; of which request, where it is one's.
    InvalidArgument {
        request: Option<String>,
        name: &'static str,
        value: String,
        limit: String,
    },
    /// A word that is not one of the choices.
    UnknownOption {
        name: &'static str,
        value: String,
        choices: Vec<String>,
    },
    DuplicateRequest {
        id: String,
    },
    UnknownRequest {
        id: String,
    },
    /// The id has the form kept for the sequences of an `n > 1` request.
    ReservedRequestId {
        id: String,
    },
    EmptyPrompt {
        id: String,
    },
    /// The request could never be served, however empty the engine is.
    RequestTooLarge {
        id: String,
        what: &'static str,
        value: u64,
        limit: u64,
    },
    InvalidToken {
        id: String,
        value: String,
    },
    /// `update` names a request whose step did not end with a token.
    NotSampled {
        id: String,
    },
    MissingTokens {
        ids: Vec<String>,
    },
    /// The tokens given for a request are not as many as its step sampled.
    WrongTokenCount {
        id: String,
        given: usize,
        expected: usize,
    },
    /// A step was asked for while the tokens of earlier ones are awaited.
    StepPending {
        outstanding: usize,
        limit: usize,
    },
    /// `update` was called for a step that is not the oldest outstanding one.
    WrongStep {
        given: u64,
        expected: Option<u64>,
    },
    CannotFork {
        id: String,
        reason: &'static str,
    },
    /// The caller's buffers are not as `bind` needs them.
    InvalidBuffer {
        name: String,
        problem: String,
    },
    NotBound,
    Overflow {
        what: &'static str,
    },
    /// Unfinished requests, and no step that schedules any of them.
    Stalled {
        waiting: usize,
        running: usize,
        empty: u32,
        limit: u32,
    },
    /// Whoever watched a simulation ended it.
    Stopped {
        now_s: f64,
    },
}

pub type Result<T> = std::result::Result<T, Error>;

/// The largest token id: ids travel as int32 and −1 has a meaning of its own.
pub const MAX_TOKEN_ID: i64 = i32::MAX as i64;

impl Error {
    pub fn invalid(name: &'static str, value: impl fmt::Display, limit: impl Into<String>) -> Self {
        Error::InvalidArgument { request: None, name, value: value.to_string(), limit: limit.into() }
    }

    pub fn token(id: impl Into<String>, value: impl fmt::Display) -> Self {
        Error::InvalidToken { id: id.into(), value: value.to_string() }
    }

    /// The same, said of request `id`.
    pub fn in_request(mut self, id: &str) -> Self {
        if let Error::InvalidArgument { request, .. } = &mut self {
            *request = Some(id.to_owned());
        }
        self
    }

    /// The same, where an error about a request names it.
    pub fn renamed(mut self, name: &str) -> Self {
        match &mut self {
            Error::InvalidArgument { request: Some(id), .. }
            | Error::RequestTooLarge { id, .. }
            | Error::EmptyPrompt { id }
            | Error::InvalidToken { id, .. } => *id = name.to_owned(),
            Error::InvalidArgument { request, .. } => *request = Some(name.to_owned()),
            _ => {}
        }
        self
    }
}

/// The choice closest to a misspelt word (Damerau-Levenshtein distance; the first of equals).
pub fn nearest<'a>(word: &str, choices: &'a [String]) -> Option<&'a str> {
    choices.iter().min_by_key(|choice| strsim::damerau_levenshtein(word, choice)).map(String::as_str)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidArgument { request, name, value, limit } => {
                if let Some(id) = request {
                    write!(f, "request {id:?}: ")?;
                }
                write!(f, "{name} is {value}; it must be {limit}")
            }
            Error::UnknownOption { name, value, choices } => {
                write!(
                    f,
                    "{name} is {value:?}; did you mean {:?}? (choices: {})",
                    nearest(value, choices).unwrap_or(""),
                    choices.join(", ")
                )
            }
            Error::DuplicateRequest { id } => {
                write!(f, "request {id:?} is already being served; an id can be used again once it ended")
            }
            Error::UnknownRequest { id } => write!(f, "request {id:?} is not being served"),
            Error::ReservedRequestId { id } => write!(
                f,
                "request id {id:?} ends in /<number>, a form kept for the sequences of a request with n > 1"
            ),
            Error::EmptyPrompt { id } => {
                write!(f, "request {id:?} has a prompt of 0 tokens; it needs at least 1")
            }
            Error::RequestTooLarge { id, what, value, limit } => {
                write!(f, "request {id:?} needs {value} {what}; the limit is {limit}")
            }
            Error::InvalidToken { id, value } => {
                write!(f, "request {id:?} has token id {value}; token ids lie between 0 and {MAX_TOKEN_ID}")
            }
            Error::NotSampled { id } => write!(
                f,
                "request {id:?} got a token, but its last step did not end with one (see sampled_requests)"
            ),
            Error::MissingTokens { ids } => {
                write!(f, "{} of the sampled requests got no token: {}", ids.len(), shorten(ids))
            }
            Error::WrongTokenCount { id, given, expected } => {
                write!(f, "request {id:?} got {given} tokens; its step sampled {expected}")
            }
            Error::StepPending { outstanding, limit } => {
                write!(f, "outstanding steps: {outstanding}; the limit is {limit}: call update first")
            }
            Error::WrongStep { given, expected: Some(expected) } => {
                write!(f, "tokens were given for step {given}; the oldest outstanding step is {expected}")
            }
            Error::WrongStep { given, expected: None } => {
                write!(f, "tokens were given for step {given}, but no step is outstanding")
            }
            Error::CannotFork { id, reason } => write!(f, "request {id:?} cannot be forked: {reason}"),
            Error::InvalidBuffer { name, problem } => write!(f, "buffer {name:?} {problem}"),
            Error::NotBound => write!(f, "no buffers are bound: call bind first"),
            Error::Stalled { waiting, running, empty, limit } => write!(
                f,
                "{waiting} requests wait and {running} run, but {empty} steps in a row scheduled none \
                 (limit {limit})"
            ),
            Error::Stopped { now_s } => write!(f, "the simulation was ended at {now_s} s of its time"),
            Error::Overflow { what } => write!(f, "{what} would exceed its 32-bit range"),
        }
    }
}

fn shorten(ids: &[String]) -> String {
    let shown: Vec<_> = ids.iter().take(5).map(String::as_str).collect();
    let more = if ids.len() > 5 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

impl std::error::Error for Error {}
