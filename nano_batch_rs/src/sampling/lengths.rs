//! How many tokens prompts and outputs have.

use super::{Generator, Stream, check_count, positive};
use crate::error::{Error, Result};

/// The longest prompt or output that is ever drawn.
pub const MAX_TOKENS: i64 = i32::MAX as i64;

#[derive(Debug, Clone, PartialEq)]
pub enum Lengths {
    /// Whole numbers from `low` to `high`, both included.
    Uniform { low: i64, high: i64 },
    /// exp(mu + sigma Z), rounded, then clipped to [`low`, `high`].
    LogNormal { mu: f64, sigma: f64, low: i64, high: i64 },
    /// Inverse of a piecewise-linear distribution function: at `probabilities[i]` it has
    /// `tokens[i]`. Rounded to whole tokens.
    Quantiles { probabilities: Vec<f64>, tokens: Vec<f64> },
}

impl Lengths {
    /// `count` lengths of at least 1, from the seed's stream.
    pub fn sample(&self, count: usize, seed: u64, stream: Stream) -> Result<Vec<i64>> {
        self.check()?;
        check_count(count)?;
        let mut generator = Generator::new(seed, stream);
        Ok((0..count).map(|_| self.draw(&mut generator)).collect())
    }

    fn draw(&self, generator: &mut Generator) -> i64 {
        match self {
            Lengths::Uniform { low, high } => low + generator.below((high - low + 1) as u64) as i64,
            Lengths::LogNormal { mu, sigma, low, high } => {
                let value = libm::exp(mu + sigma * generator.normal());
                // The cast saturates, so that an overflow to infinity is clipped like any other.
                (libm::floor(value + 0.5) as i64).clamp(*low, *high)
            }
            Lengths::Quantiles { probabilities, tokens } => {
                let value = interpolate(probabilities, tokens, generator.open_unit());
                (libm::floor(value + 0.5) as i64).max(1)
            }
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Lengths::Uniform { low, high } => check_range(*low, *high),
            Lengths::LogNormal { mu, sigma, low, high } => {
                if !mu.is_finite() {
                    return Err(Error::invalid("mu", mu, "a finite number"));
                }
                positive("sigma", *sigma)?;
                check_range(*low, *high)
            }
            Lengths::Quantiles { probabilities, tokens } => check_table(probabilities, tokens),
        }
    }
}

fn check_range(low: i64, high: i64) -> Result<()> {
    if low < 1 {
        return Err(Error::invalid("low", low, "at least 1"));
    }
    if high < low || high > MAX_TOKENS {
        return Err(Error::invalid("high", high, format!("between low ({low}) and {MAX_TOKENS}")));
    }
    Ok(())
}

fn check_table(probabilities: &[f64], tokens: &[f64]) -> Result<()> {
    let points = probabilities.len();
    if points < 2 || points != tokens.len() {
        let given = format!("{points} long beside {} tokens", tokens.len());
        return Err(Error::invalid("probabilities", given, "as long as tokens, at least 2"));
    }
    if probabilities[0] != 0.0 || probabilities[points - 1] != 1.0 {
        let given = format!("from {} to {}", probabilities[0], probabilities[points - 1]);
        return Err(Error::invalid("probabilities", given, "from 0 to 1"));
    }
    let ascends = |left: f64, right: f64| right.is_finite() && right > left;
    if let Some(i) = (1..points).find(|&i| !ascends(probabilities[i - 1], probabilities[i])) {
        let given = format!("{} at index {i}", probabilities[i]);
        return Err(Error::invalid("probabilities", given, "strictly ascending"));
    }
    let valid = |v: f64| (0.5..=MAX_TOKENS as f64).contains(&v);
    if let Some(i) = (0..points).find(|&i| !valid(tokens[i]) || i > 0 && tokens[i] < tokens[i - 1]) {
        let given = format!("{} at index {i}", tokens[i]);
        return Err(Error::invalid("tokens", given, format!("ascending, from 0.5 to {MAX_TOKENS}")));
    }
    Ok(())
}

fn interpolate(xs: &[f64], ys: &[f64], x: f64) -> f64 {
    let right = xs.partition_point(|&p| p <= x).clamp(1, xs.len() - 1);
    let left = right - 1;
    let share = (x - xs[left]) / (xs[right] - xs[left]);
    ys[left] + share * (ys[right] - ys[left])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(lengths: &Lengths, count: usize) -> Vec<i64> {
        lengths.sample(count, 11, Stream::Prompts).unwrap()
    }

    fn mean(values: &[i64]) -> f64 {
        values.iter().sum::<i64>() as f64 / values.len() as f64
    }

    #[test]
    fn uniform_reaches_both_ends_and_nothing_beyond() {
        let values = draw(&Lengths::Uniform { low: 3, high: 7 }, 50_000);
        assert_eq!((values.iter().min(), values.iter().max()), (Some(&3), Some(&7)));
        assert!((mean(&values) - 5.0).abs() < 0.03);
        assert_eq!(draw(&Lengths::Uniform { low: 9, high: 9 }, 3), [9, 9, 9]);
    }

    #[test]
    fn log_normal_has_its_median_and_spread_and_is_clipped() {
        let free = Lengths::LogNormal { mu: 6.0, sigma: 0.5, low: 1, high: MAX_TOKENS };
        let logs: Vec<f64> = draw(&free, 200_000).iter().map(|&v| (v as f64).ln()).collect();
        let mu = logs.iter().sum::<f64>() / logs.len() as f64;
        let sigma = (logs.iter().map(|l| (l - mu) * (l - mu)).sum::<f64>() / logs.len() as f64).sqrt();
        assert!((mu - 6.0).abs() < 0.005 && (sigma - 0.5).abs() < 0.005, "{mu} {sigma}");
        let clipped = draw(&Lengths::LogNormal { mu: 6.0, sigma: 3.0, low: 100, high: 900 }, 10_000);
        assert_eq!((clipped.iter().min(), clipped.iter().max()), (Some(&100), Some(&900)));
        let huge = Lengths::LogNormal { mu: 800.0, sigma: 1.0, low: 1, high: 5 };
        assert_eq!(draw(&huge, 3), [5, 5, 5]);
    }

    #[test]
    fn quantiles_are_met() {
        let table = Lengths::Quantiles {
            probabilities: vec![0.0, 0.5, 0.9, 1.0],
            tokens: vec![1.0, 100.0, 1000.0, 5000.0],
        };
        let mut values = draw(&table, 200_000);
        values.sort_unstable();
        assert!((values[100_000] - 100).abs() <= 5, "{}", values[100_000]);
        assert!((values[180_000] - 1000).abs() <= 40, "{}", values[180_000]);
        assert!(values[0] >= 1 && values[199_999] <= 5000);
        assert!((mean(&values) - (0.5 * 50.5 + 0.4 * 550.0 + 0.1 * 3000.0)).abs() < 10.0);
    }

    #[test]
    fn streams_are_independent() {
        let lengths = Lengths::Uniform { low: 1, high: 1000 };
        let prompts = lengths.sample(2000, 5, Stream::Prompts).unwrap();
        let outputs = lengths.sample(2000, 5, Stream::Outputs).unwrap();
        let covariance = |a: &[i64], b: &[i64]| {
            let products: Vec<i64> = a.iter().zip(b).map(|(x, y)| x * y).collect();
            mean(&products) - mean(a) * mean(b)
        };
        let correlation = covariance(&prompts, &outputs)
            / (covariance(&prompts, &prompts) * covariance(&outputs, &outputs)).sqrt();
        assert!(correlation.abs() < 0.08, "{correlation}");
        assert_eq!(lengths.sample(100, 5, Stream::Prompts).unwrap(), prompts[..100]);
    }

    #[test]
    fn bad_numbers_are_refused_by_name() {
        let message = |lengths: Lengths| lengths.sample(1, 0, Stream::Prompts).unwrap_err().to_string();
        assert_eq!(message(Lengths::Uniform { low: 0, high: 4 }), "low is 0; it must be at least 1");
        assert!(message(Lengths::Uniform { low: 5, high: 4 }).starts_with("high is 4"));
        let log_normal = |mu, sigma| Lengths::LogNormal { mu, sigma, low: 1, high: 9 };
        assert!(message(log_normal(f64::NAN, 1.0)).starts_with("mu is NaN"));
        assert!(message(log_normal(1.0, 0.0)).starts_with("sigma is 0"));
        let table = |probabilities: &[f64], tokens: &[f64]| Lengths::Quantiles {
            probabilities: probabilities.to_vec(),
            tokens: tokens.to_vec(),
        };
        for (probabilities, tokens) in [
            (vec![0.0], vec![1.0]),
            (vec![0.0, 1.0], vec![1.0]),
            (vec![0.1, 1.0], vec![1.0, 2.0]),
            (vec![0.0, 0.0, 1.0], vec![1.0, 2.0, 3.0]),
            (vec![0.0, f64::NAN, 1.0], vec![1.0, 2.0, 3.0]),
        ] {
            assert!(message(table(&probabilities, &tokens)).starts_with("probabilities"));
        }
        for tokens in [[2.0, 1.0], [0.0, 1.0], [f64::NAN, 1.0], [1.0, 3e9]] {
            assert!(message(table(&[0.0, 1.0], &tokens)).starts_with("tokens"), "{tokens:?}");
        }
    }
}
