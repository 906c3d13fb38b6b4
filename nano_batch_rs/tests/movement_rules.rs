//! In which order data moves, what is copied out, and what comes back.

mod common;

use common::{Driver, config, length, swapping, tokens, with_policy};
use nano_batch_core::config::Config;
use nano_batch_core::request::Request;

/// Two sequences of two blocks fill the memory; the first one's fifth token preempts the second.
fn preempting(config: Config) -> (Driver, [u32; 2]) {
    let mut driver = Driver::new(config);
    let slots = [driver.add(length(3, 6)), driver.add(length(3, 6))];
    (driver, slots)
}

#[test]
fn a_device_block_freed_by_a_swap_out_is_reused_in_the_same_step() {
    let (mut driver, [first, second]) = preempting(swapping(4, 4));
    driver.step();
    let before = driver.table(second);
    let step = driver.step_until(|step| !step.preempted.is_empty());
    assert_eq!(step.preempted[0].slot, second);
    let sources: Vec<i32> = step.swap_out.iter().map(|pair| pair.0).collect();
    assert_eq!(sources, before);
    assert!(sources.contains(driver.table(first).last().unwrap()), "the freed block serves at once");
}

#[test]
fn a_host_block_freed_by_a_swap_in_is_free_from_the_next_step_on() {
    let (mut driver, [_, second]) = preempting(swapping(4, 2));
    let out = driver.step_until(|step| !step.swap_out.is_empty());
    assert_eq!(driver.scheduler.num_host_free(), 0);
    let back = driver.step_until(|step| !step.swap_in.is_empty());
    assert!(back.swap_out.is_empty(), "no step swaps both ways, so no host block is reused in its step");
    assert_eq!(
        back.swap_in.iter().map(|pair| pair.0).collect::<Vec<_>>(),
        vec![out.swap_out[0].1, out.swap_out[1].1]
    );
    assert_eq!(driver.table(second)[..2], [back.swap_in[0].1, back.swap_in[1].1]);
    assert_eq!(driver.scheduler.num_host_free(), 2);
}

#[test]
fn a_sequence_swapped_in_goes_on_where_it_was() {
    let (mut driver, [_, second]) = preempting(swapping(4, 2));
    driver.step_until(|step| !step.preempted.is_empty());
    let back = driver.step_until(|step| Driver::slots(step).contains(&second));
    let row = back.rows.iter().find(|row| row.slot == second).unwrap();
    assert_eq!((row.start, row.count), (4, 1), "its four stored tokens came back, the fifth is computed");
}

#[test]
fn a_full_host_pool_falls_back_to_recompute() {
    let (mut driver, [_, second]) = preempting(swapping(4, 1));
    let step = driver.step_until(|step| !step.preempted.is_empty());
    assert!(step.swap_out.is_empty());
    assert_eq!(driver.scheduler.num_host_free(), 1);
    let back = driver.step_until(|step| Driver::slots(step).contains(&second));
    assert_eq!((back.rows[0].start, back.rows[0].count), (0, 5), "prompt and outputs are computed again");
}

#[test]
fn swap_out_copies_only_what_the_cache_does_not_keep() {
    let mut driver = Driver::new(Config { enable_prefix_caching: true, ..swapping(5, 5) });
    let first = driver.add(length(4, 5));
    let second = driver.add(tokens(&[1, 2, 3, 4, 5], 3));
    driver.step();
    let before = driver.table(second);
    let step = driver.step_until(|step| !step.preempted.is_empty());
    assert_eq!(step.preempted[0].slot, second);
    assert_eq!(
        step.swap_out.iter().map(|pair| pair.0).collect::<Vec<_>>(),
        [before[2]],
        "two full blocks are cached"
    );
    // The first takes the copied block, then evicts the second's tail; its head is still there.
    let back = driver.step_until(|step| Driver::slots(step).contains(&second));
    assert!(driver.table(first).is_empty(), "the first ended");
    assert_eq!((back.admitted[0].cached, back.rows[0].start), (2, 2), "behind the gap all is computed again");
    assert!(back.swap_in.is_empty());
    driver.finish_all();
    assert_eq!(driver.scheduler.num_host_free(), 5);
}

#[test]
fn swap_in_first_matches_the_prefix_cache() {
    let mut driver = Driver::new(Config { enable_prefix_caching: true, ..swapping(5, 5) });
    driver.add(length(4, 3));
    let second = driver.add(tokens(&[1, 2, 3, 4, 5], 4));
    driver.step();
    let before = driver.table(second);
    let out = driver.step_until(|step| !step.preempted.is_empty());
    assert_eq!(out.swap_out.len(), 1);
    let back = driver.step_until(|step| !step.swap_in.is_empty());
    assert_eq!(back.swap_in.len(), 1);
    assert_eq!(driver.table(second)[..2], before[..2], "what the cache kept is taken from it");
    assert_eq!(back.admitted[0].cached, 4);
}

#[test]
fn swap_out_does_not_copy_what_another_sequence_holds() {
    let mut driver = Driver::new(swapping(4, 4));
    let parent = driver.add(length(4, 5));
    driver.step();
    let child = driver.scheduler.fork(parent, "test").unwrap();
    driver.step();
    let own = driver.table(child)[2];
    let step = driver.step_until(|step| !step.preempted.is_empty());
    assert_eq!(step.preempted[0].slot, child);
    assert_eq!(step.swap_out.iter().map(|pair| pair.0).collect::<Vec<_>>(), [own]);
    let back = driver.step_until(|step| Driver::slots(step).contains(&child));
    let row = back.rows.iter().find(|row| row.slot == child).unwrap();
    assert_eq!(row.start, 0, "the shared blocks were neither copied nor kept: it is computed again");
}

#[test]
fn a_shared_partial_block_is_copied_by_the_first_writer_and_written_in_place_by_the_last() {
    let mut driver = Driver::new(config(8));
    let parent = driver.add(length(3, 9));
    driver.step();
    let children =
        [driver.scheduler.fork(parent, "test").unwrap(), driver.scheduler.fork(parent, "test").unwrap()];
    let shared = driver.table(parent);
    let step = driver.step();
    assert_eq!(step.copies.len(), 2, "three owners, two copies");
    assert!(step.copies.iter().all(|&(source, _)| source == shared[1]));
    let tails: Vec<i32> = [parent, children[0], children[1]].map(|slot| driver.table(slot)[1]).to_vec();
    assert_eq!(
        tails.iter().filter(|&&block| block == shared[1]).count(),
        1,
        "the last owner writes in place"
    );
    assert!([parent, children[0], children[1]].iter().all(|&slot| driver.table(slot)[0] == shared[0]));
}

#[test]
fn a_preempted_sequence_keeps_its_outstanding_token() {
    for host_blocks in [2, 1] {
        let (mut driver, [_, second]) = preempting(swapping(4, host_blocks));
        driver.plan();
        while driver.plan().preempted.is_empty() {
            driver.retire();
        }
        let outputs = driver.scheduler.sequence(second).outputs;
        assert_eq!(driver.scheduler.sequence(second).pending, 1);
        driver.retire();
        assert_eq!(driver.scheduler.sequence(second).outputs, outputs + 1);
        driver.retire();
        driver.finish_all();
    }
}

/// A copy-on-write planned for a sequence that is preempted in the same step never happens: what
/// it would have copied must not be swapped out either.
#[test]
fn a_preempted_writer_takes_its_copy_back() {
    let config = Config { max_num_batched_tokens: 9, max_num_seqs: 8, ..swapping(8, 8) };
    let mut driver = Driver::new(with_policy("priority", config));
    let parent = driver.add(Request { priority: 5, ..length(2, 6) });
    driver.step();
    let prompt = driver.add(length(12, 1));
    driver.step();
    let copies =
        [driver.scheduler.fork(parent, "test").unwrap(), driver.scheduler.fork(parent, "test").unwrap()];
    let shared = driver.table(parent)[1];
    let step = driver.step();
    assert_eq!(
        step.preempted.iter().map(|preempted| preempted.slot).collect::<Vec<_>>(),
        [copies[1], copies[0]]
    );
    assert_eq!(step.copies, [(shared, driver.table(parent)[1])], "only the parent's copy is left");
    assert_eq!(step.swap_out.iter().map(|pair| pair.0).collect::<Vec<_>>(), [shared], "the last owner's");
    assert_eq!(Driver::slots(&step), [parent, prompt]);
    assert_eq!(step.num_decodes, 1);
    driver.finish_all();
}
