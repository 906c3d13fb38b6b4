//! Quantiles of a stream in bounded memory: counts in bins whose edges grow by a constant factor.
//!
//! The idea is DDSketch's (Masson, Rim and Lee, VLDB 2019): with edges γⁱ the middle of a bin is
//! within a relative error of (γ − 1) / (γ + 1) of every value in it.

const RELATIVE_ERROR: f64 = 0.005;
const GAMMA: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);
/// Values below count as zero.
const SMALLEST: f64 = 1e-9;
const BINS: usize = 4096;

#[derive(Debug, Clone)]
pub struct Quantiles {
    bins: Vec<u64>,
    zeros: u64,
    count: u64,
    sum: f64,
    per_log: f64,
    /// Runs of equal values are common and cost a logarithm only once.
    last: f64,
    last_bin: usize,
}

impl Default for Quantiles {
    fn default() -> Self {
        Quantiles {
            bins: Vec::new(),
            zeros: 0,
            count: 0,
            sum: 0.0,
            per_log: 1.0 / libm::log(GAMMA),
            last: f64::NAN,
            last_bin: 0,
        }
    }
}

impl Quantiles {
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        if value < SMALLEST {
            self.zeros += 1;
            return;
        }
        if value != self.last {
            self.last = value;
            self.last_bin = ((libm::log(value / SMALLEST) * self.per_log) as usize).min(BINS - 1);
            if self.bins.is_empty() {
                self.bins = vec![0; BINS];
            }
        }
        self.bins[self.last_bin] += 1;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// NaN where nothing was added.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum / self.count as f64 }
    }

    /// The value below which a share `q` lies, within half a percent of it; NaN where nothing was
    /// added.
    pub fn quantile(&self, q: f64) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        let rank = (q.clamp(0.0, 1.0) * (self.count - 1) as f64) as u64;
        let mut below = self.zeros;
        if rank < below {
            return 0.0;
        }
        for (bin, &count) in self.bins.iter().enumerate() {
            below += count;
            if rank < below {
                return SMALLEST * libm::pow(GAMMA, bin as f64) * (1.0 + GAMMA) / 2.0;
            }
        }
        f64::NAN
    }
}

/// What is counted as it occurs, in seconds.
#[derive(Debug, Default, Clone)]
pub struct Streamed {
    /// Gaps between a request's tokens.
    pub inter_token: Quantiles,
    /// Of steps.
    pub durations: Quantiles,
    pub ttft: Quantiles,
    pub tpot: Quantiles,
    pub end_to_end: Quantiles,
}

impl Streamed {
    /// A request ended at `at` with `outputs` tokens.
    pub fn ended(&mut self, arrival: f64, first_token: f64, at: f64, outputs: u32) {
        self.end_to_end.add(at - arrival);
        if outputs > 1 {
            self.tpot.add((at - first_token) / f64::from(outputs - 1));
        }
    }
}
