//! How long a step takes: from what it asks of host and device to seconds.

mod features;
mod profile;
mod roofline;

pub use features::Features;
pub use profile::{Grid, Profile};
pub use roofline::Roofline;

use crate::error::{Error, Result};

/// Seconds of the host before a step can start, and of the device while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepTime {
    pub host_s: f64,
    pub device_s: f64,
}

impl StepTime {
    /// Refuses times that are none.
    pub fn checked(self) -> Result<Self> {
        for (name, value) in [("host time of a step", self.host_s), ("device time of a step", self.device_s)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(name, value, "a finite number of seconds, at least 0"));
            }
        }
        Ok(self)
    }
}

pub trait CostModel: Send {
    fn step_time(&mut self, features: &Features) -> Result<StepTime>;
}

/// Every step takes the same.
impl CostModel for StepTime {
    fn step_time(&mut self, _: &Features) -> Result<StepTime> {
        Ok(*self)
    }
}
