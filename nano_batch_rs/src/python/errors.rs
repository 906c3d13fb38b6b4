//! The core's errors as the exceptions of `nano_batch.errors`.

use pyo3::prelude::*;

use crate::error::Error;

/// The name of the exception class that stands for an error.
fn class_name(error: &Error) -> &'static str {
    match error {
        Error::InvalidArgument { .. } => "InvalidArgumentError",
        Error::UnknownOption { .. } => "UnknownOptionError",
        Error::DuplicateRequest { .. } => "DuplicateRequestError",
        Error::UnknownRequest { .. } => "UnknownRequestError",
        Error::ReservedRequestId { .. } => "ReservedRequestIdError",
        Error::EmptyPrompt { .. } => "EmptyPromptError",
        Error::RequestTooLarge { .. } => "RequestTooLargeError",
        Error::InvalidToken { .. } => "InvalidTokenError",
        Error::NotSampled { .. } => "NotSampledError",
        Error::MissingTokens { .. } => "MissingTokensError",
        Error::WrongTokenCount { .. } => "WrongTokenCountError",
        Error::StepPending { .. } => "StepPendingError",
        Error::WrongStep { .. } => "WrongStepError",
        Error::CannotFork { .. } => "CannotForkError",
        Error::InvalidBuffer { .. } => "InvalidBufferError",
        Error::NotBound => "NotBoundError",
        Error::Overflow { .. } => "CapacityError",
        Error::Stalled { .. } => "StalledError",
        Error::Stopped { .. } => "SimulationStoppedError",
    }
}

/// Wraps a core error, to be used with `?` in functions that return `PyResult`.
pub struct Raised(pub Error);

impl From<Error> for Raised {
    fn from(error: Error) -> Self {
        Raised(error)
    }
}

impl From<Raised> for PyErr {
    fn from(Raised(error): Raised) -> PyErr {
        raise(error)
    }
}

/// The exception for a core error.
pub fn raise(error: Error) -> PyErr {
    Python::attach(|py| {
        let class = py.import("nano_batch.errors").and_then(|errors| errors.getattr(class_name(&error)));
        match class.and_then(|class| class.call1((error.to_string(),))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(failure) => failure,
        }
    })
}

/// The choice closest to a misspelt word, or None where there is none.
#[pyfunction]
pub fn nearest(word: &str, choices: Vec<String>) -> Option<String> {
    crate::error::nearest(word, &choices).map(str::to_owned)
}
