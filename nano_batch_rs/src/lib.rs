//! The core of nano_batch: which request runs, which block it owns, which block is evicted.
//!
//! The core has no clock, no randomness of its own and no I/O: the same inputs give the same
//! outputs, bit for bit. Only the module `python` knows PyO3.

pub mod arrays;
pub mod belady;
pub mod block_allocator;
pub mod block_cache;
pub mod cards;
pub mod config;
pub mod cpu;
pub mod engine;
pub mod error;
pub mod events;
pub mod evictor;
pub mod policy;
pub mod prefix_cache;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod simulator;
pub mod step;

#[cfg(feature = "python")]
mod python;
