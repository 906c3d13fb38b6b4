//! Random configurations, random requests, random disturbances.

use crate::counts::Counts;
use crate::reporting;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::world::World;

fn run(case: u64) -> World {
    let mut rng = Rng::new(case);
    let scenario = Scenario::random(&mut rng);
    let setting = scenario.clone();
    reporting(case, &setting, || {
        let mut world = World::new(scenario, rng.next());
        world.run();
        world
    })
}

fn operations_wanted() -> u64 {
    let set = std::env::var("NANO_BATCH_PROPERTY_OPERATIONS").ok();
    let wanted = set.map_or(5_000_000, |text| text.replace('_', "").parse().expect("a number of operations"));
    wanted.max(1_000_000)
}

#[test]
fn random_runs_keep_every_rule() {
    let mut counts = Counts::default();
    let mut case = 0;
    while counts.operations < operations_wanted() {
        counts += run(case).counts;
        case += 1;
    }
    println!("{case} cases: {counts:#?}");
    assert!(counts.operations >= 1_000_000);
    let happened = [
        ("recomputed", counts.recomputed),
        ("swapped out", counts.swapped_out),
        ("swapped in", counts.swapped_in),
        ("fallbacks of a full host pool", counts.swap_fallbacks),
        ("copies on write", counts.copies),
        ("shared blocks", counts.shared),
        ("hits", counts.hits),
        ("hits of a resumed sequence", counts.resumed_hits),
        ("evictions", counts.evictions),
        ("window releases", counts.released),
        ("forks", counts.forks),
        ("splits", counts.splits),
        ("aborts", counts.aborts),
        ("finishes", counts.finishes),
        ("kept", counts.kept),
        ("late ends", counts.ended_late),
        ("discarded tokens", counts.discarded),
        ("rows with an awaited token", counts.unknown_rows),
        ("chunks", counts.chunks),
        ("keyframes", counts.keyframes),
        ("stalled prefills", counts.stalls),
        ("refused requests", counts.refused),
        ("empty steps", counts.empty_steps),
    ];
    for (what, times) in happened {
        assert!(times >= 50, "{what} happened {times} times only");
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    for case in 0..60 {
        let (first, second) = (run(case), run(case));
        assert_eq!(first.digest, second.digest);
        assert_eq!(first.counts, second.counts);
        assert_eq!(first.ended, second.ended);
    }
}
