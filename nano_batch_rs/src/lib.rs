//! The core of nano_batch: which request runs, which block it owns, which block is evicted.
//!
//! The core has no clock, no randomness of its own and no I/O: the same inputs give the same
//! outputs, bit for bit. Only the module `python` knows PyO3.

pub mod sampling;

#[cfg(feature = "python")]
mod python;
