//! When requests arrive, in seconds since the run's start.

use super::{Generator, Stream, check_count, positive};
use crate::error::Result;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Independent requests: exponential gaps, `rate` a second.
    Poisson { rate: f64 },
    /// Gamma-distributed gaps of mean 1 / `rate` and coefficient of variation `cv`: above 1 they
    /// come in bursts, 1 is Poisson's distribution, towards 0 they become regular.
    Bursty { rate: f64, cv: f64 },
}

impl Arrivals {
    /// `count` times, ascending; the first is one gap after 0.
    pub fn sample(&self, count: usize, seed: u64) -> Result<Vec<f64>> {
        check_count(count)?;
        let mut generator = Generator::new(seed, Stream::Arrivals);
        match *self {
            Arrivals::Poisson { rate } => {
                let mean = 1.0 / positive("rate", rate)?;
                Ok(cumulate(count, || generator.exponential() * mean))
            }
            Arrivals::Bursty { rate, cv } => {
                let mean = 1.0 / positive("rate", rate)?;
                let shape = 1.0 / (positive("cv", cv)? * cv);
                let scale = mean / positive("1 / cv\u{b2}", shape)?;
                Ok(cumulate(count, || generator.gamma(shape) * scale))
            }
        }
    }
}

fn cumulate(count: usize, mut gap: impl FnMut() -> f64) -> Vec<f64> {
    let mut now = 0.0;
    (0..count)
        .map(|_| {
            now += gap();
            now
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_and_cv(times: &[f64]) -> (f64, f64) {
        let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|g| (g - mean) * (g - mean)).sum::<f64>() / n;
        (1.0 / mean, variance.sqrt() / mean)
    }

    #[test]
    fn poisson_has_its_rate_and_a_cv_of_one() {
        let times = Arrivals::Poisson { rate: 14.0 }.sample(200_000, 7).unwrap();
        let (rate, cv) = rate_and_cv(&times);
        assert!((rate / 14.0 - 1.0).abs() < 0.01, "{rate}");
        assert!((cv - 1.0).abs() < 0.01, "{cv}");
        assert!(times[0] > 0.0 && times.windows(2).all(|w| w[0] <= w[1]));
    }

    #[test]
    fn bursty_has_its_rate_and_cv() {
        for wanted in [0.3, 1.0, 3.0, 13.2] {
            let times = Arrivals::Bursty { rate: 2.57, cv: wanted }.sample(1_000_000, 7).unwrap();
            let (rate, cv) = rate_and_cv(&times);
            assert!((rate / 2.57 - 1.0).abs() < 0.05, "{rate}");
            assert!((cv / wanted - 1.0).abs() < 0.08, "{cv} for {wanted}");
        }
    }

    #[test]
    fn bad_numbers_are_refused_by_name() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = Arrivals::Poisson { rate }.sample(1, 0).unwrap_err().to_string();
            assert!(error.starts_with("rate is "), "{error}");
        }
        assert!(Arrivals::Poisson { rate: 1.0 }.sample(usize::MAX, 0).is_err());
        for cv in [0.0, f64::NAN, 1e200, 1e-200] {
            assert!(Arrivals::Bursty { rate: 1.0, cv }.sample(1, 0).is_err());
        }
    }
}
