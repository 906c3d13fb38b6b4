//! What happened in all cases together: a property test that met nothing interesting proves nothing.

use std::ops::AddAssign;

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $(pub $name: u64),* }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Counts) { $(self.$name += other.$name;)* }
        }
    };
}

counts! {
    operations, steps, rows, requests, refused, forks, splits, aborts, finishes, kept, tokens, discarded,
    recomputed, swapped_out, swapped_in, swap_fallbacks, copies, shared, hits, resumed_hits,
    evictions, released, ended_late, unknown_rows, keyframes, stalls, chunks, empty_steps, checked_slots,
    lost_chains,
}
