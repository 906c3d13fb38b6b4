//! One step in flight changes no token: the same requests at depth 0 and depth 1.

use std::collections::BTreeMap;

use crate::counts::Counts;
use crate::reporting;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::track::Track;
use crate::world::World;

/// Each sequence's name, its tokens and why it ended.
type Outcome = BTreeMap<String, (Vec<i32>, String)>;

/// Serves the scenario's requests, all there at the start; some are aborted by their driver once
/// they have so many tokens, whenever that is.
fn outcome(case: u64, depth: usize) -> (Outcome, Counts) {
    let mut rng = Rng::new(case);
    let scenario = Scenario { disturb: 0, fork: 0, depth, ..Scenario::random(&mut rng) };
    let setting = scenario.clone();
    reporting(case, &setting, || {
        let mut world = World::new(scenario, rng.next());
        while world.arrived < world.scenario.requests {
            world.add();
        }
        world.abort_at = |track: &Track| {
            let wanted = u32::from(track.hashes[0] as u8) % 20;
            wanted < 12 && track.outputs() == wanted + 1
        };
        world.run();
        let ended = |track: &Track| (track.tokens.clone(), world.ended[&track.name].clone());
        (world.tracks.values().map(|track| (track.name.clone(), ended(track))).collect(), world.counts)
    })
}

#[test]
fn depths_0_and_1_give_the_same_tokens() {
    let mut counts = Counts::default();
    for case in 0..1500 {
        let (at_once, _) = outcome(case, 0);
        let (in_flight, seen) = outcome(case, 1);
        assert_eq!(at_once, in_flight, "case {case}");
        counts += seen;
    }
    let happened =
        [counts.unknown_rows, counts.recomputed, counts.swapped_in, counts.ended_late, counts.discarded];
    assert!(happened.iter().all(|&times| times > 100), "{counts:?}");
}
