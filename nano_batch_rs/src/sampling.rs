//! Seeded samplers of synthetic workloads: a seed gives the same requests on every system.
//!
//! Only integer arithmetic, the four IEEE operations and `libm`'s functions are used: the platform's
//! own `exp`, `ln` and `pow` differ in their last bits. Every kind of draw has a stream of its
//! own, so that other prompt lengths leave the arrivals as they were.

mod arrivals;
mod families;
mod generator;
mod lengths;
mod tables;

pub use arrivals::Arrivals;
pub use families::{Families, Prompts};
pub use generator::{Generator, Stream};
pub use lengths::{Lengths, MAX_TOKENS};
pub use tables::TABLES;

use crate::error::{Error, Result};

/// Names the generator and the samplers' algorithms: it changes whenever a seed would give other
/// requests than before.
pub const VERSION: &str = "xoshiro256++/splitmix64/libm/1";

/// The most requests drawn at once: their columns are allocated whole.
pub const MAX_REQUESTS: usize = 100_000_000;

fn check_count(requests: usize) -> Result<()> {
    if requests > MAX_REQUESTS {
        return Err(Error::invalid("number of requests", requests, format!("at most {MAX_REQUESTS}")));
    }
    Ok(())
}

/// `value`, if it is a finite number above 0.
fn positive(name: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(Error::invalid(name, value, "a finite number above 0"))
    }
}
