//! xoshiro256++ (Blackman and Vigna, 2019), seeded by splitmix64 (Steele, Lea and Flood, 2014).

/// What a stream of random numbers is drawn for. The numbers are part of [`super::VERSION`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Arrivals = 1,
    Prompts = 2,
    Outputs = 3,
    Families = 4,
}

#[derive(Debug, Clone)]
pub struct Generator {
    state: [u64; 4],
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Generator {
    /// The stream's own generator. Seed and stream are mixed one after the other, so that no
    /// stream of one seed starts where a stream of a neighbouring seed does.
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut root = seed;
        let mut mixed = splitmix64(&mut root) ^ (stream as u64);
        Self::from_splitmix(&mut mixed)
    }

    fn from_splitmix(state: &mut u64) -> Self {
        Self { state: std::array::from_fn(|_| splitmix64(state)) }
    }

    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in (0, 1), symmetric about a half: safe to take the logarithm of.
    pub fn open_unit(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// Uniform in [0, bound), without bias (Lemire, 2019). `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        let mut product = u128::from(self.next_u64()) * u128::from(bound);
        let threshold = bound.wrapping_neg() % bound;
        while (product as u64) < threshold {
            product = u128::from(self.next_u64()) * u128::from(bound);
        }
        (product >> 64) as u64
    }

    /// Exponential of mean 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.open_unit())
    }

    /// Standard normal, by Marsaglia's polar method; the second value of a pair is dropped, so
    /// that each draw depends on the state alone.
    pub fn normal(&mut self) -> f64 {
        loop {
            let x = 2.0 * self.open_unit() - 1.0;
            let y = 2.0 * self.open_unit() - 1.0;
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                return x * libm::sqrt(-2.0 * libm::log(square) / square);
            }
        }
    }

    /// Gamma of the given shape and scale 1 (Marsaglia and Tsang, 2000). Below shape 1 a draw of
    /// shape + 1 is multiplied by U^(1 / shape).
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boosted = self.gamma(shape + 1.0);
            return boosted * libm::pow(self.open_unit(), 1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / libm::sqrt(9.0 * d);
        loop {
            let x = self.normal();
            let root = 1.0 + c * x;
            if root <= 0.0 {
                continue;
            }
            let v = root * root * root;
            if libm::log(self.open_unit()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(n: usize, mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let values: Vec<f64> = (0..n).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
        (mean, variance)
    }

    fn close(got: f64, want: f64, tolerance: f64) {
        assert!((got - want).abs() <= tolerance, "{got} is not within {tolerance} of {want}");
    }

    /// The first outputs that both algorithms' authors' reference programs print.
    #[test]
    fn reference_vectors() {
        let mut state = 1_234_567;
        assert_eq!(splitmix64(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut state), 3_203_168_211_198_807_973);
        let mut generator = Generator { state: [1, 2, 3, 4] };
        let first: Vec<u64> = (0..4).map(|_| generator.next_u64()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = |seed, stream| Generator::new(seed, stream).next_u64();
        let mut seen = std::collections::HashSet::new();
        for seed in 0..64 {
            for stream in [Stream::Arrivals, Stream::Prompts, Stream::Outputs, Stream::Families] {
                assert!(seen.insert(first(seed, stream)));
            }
        }
    }

    #[test]
    fn uniform_bounds_and_moments() {
        let mut generator = Generator::new(1, Stream::Prompts);
        let (mean, variance) = moments(200_000, || {
            let u = generator.open_unit();
            assert!(u > 0.0 && u < 1.0);
            u
        });
        close(mean, 0.5, 0.003);
        close(variance, 1.0 / 12.0, 0.001);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[generator.below(7) as usize] += 1);
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
    }

    #[test]
    fn normal_and_exponential_moments() {
        let mut generator = Generator::new(2, Stream::Prompts);
        let (mean, variance) = moments(400_000, || generator.normal());
        close(mean, 0.0, 0.007);
        close(variance, 1.0, 0.01);
        let (mean, variance) = moments(400_000, || generator.exponential());
        close(mean, 1.0, 0.007);
        close(variance, 1.0, 0.02);
    }

    #[test]
    fn gamma_moments_on_both_sides_of_shape_one() {
        for shape in [0.05, 0.5, 1.0, 4.0, 30.0] {
            let mut generator = Generator::new(3, Stream::Arrivals);
            let (mean, variance) = moments(400_000, || generator.gamma(shape));
            close(mean / shape, 1.0, 0.03);
            close(variance / shape, 1.0, 0.06);
        }
    }
}
