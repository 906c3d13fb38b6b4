//! Property tests of the core against naive models, over seeded random cases.
//!
//! `NANO_BATCH_PROPERTY_OPERATIONS` sets how many operations the random runs make (default 5 × 10^6).

mod admission;
mod allocator;
mod arrays;
mod checks;
mod counts;
mod disturb;
mod in_flight;
mod memory;
mod model;
mod random_runs;
mod replay;
mod rng;
mod rows;
mod scenario;
mod track;
mod world;

/// Runs a case; if it fails, says which one it was.
fn reporting<T>(case: u64, setting: &dyn std::fmt::Debug, run: impl FnOnce() -> T) -> T {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    outcome.unwrap_or_else(|failure| {
        eprintln!("case {case} failed: {setting:?}");
        std::panic::resume_unwind(failure)
    })
}
