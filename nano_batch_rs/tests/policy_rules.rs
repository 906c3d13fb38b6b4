//! Who goes first, who makes room, and what the baselines do.

mod common;

use common::{Driver, config, length, tokens, with_policy};
use nano_batch_core::config::Config;
use nano_batch_core::request::Request;

fn one_at_a_time(policy: &str) -> Driver {
    Driver::new(with_policy(policy, Config { max_num_seqs: 1, ..config(50) }))
}

/// The order in which requests, added in this order, get their first row.
fn order_of_service(driver: &mut Driver, requests: Vec<Request>) -> Vec<usize> {
    let slots: Vec<u32> = requests.into_iter().map(|request| driver.add(request)).collect();
    let mut order = Vec::new();
    while driver.scheduler.has_unfinished() {
        for admitted in driver.step().admitted {
            order.push(slots.iter().position(|&slot| slot == admitted.slot).unwrap());
        }
    }
    order
}

#[test]
fn fcfs_goes_by_arrival_then_by_number() {
    let at = |arrival| Request { arrival, ..length(2, 2) };
    assert_eq!(
        order_of_service(&mut one_at_a_time("fcfs"), vec![at(2.0), at(1.0), at(2.0), at(0.5)]),
        [3, 1, 0, 2]
    );
}

#[test]
fn priority_goes_by_the_smallest_number_then_by_arrival() {
    let of = |priority, arrival| Request { priority, arrival, ..length(2, 2) };
    let requests = vec![of(5, 0.0), of(-1, 9.0), of(5, -1.0), of(0, 3.0)];
    assert_eq!(order_of_service(&mut one_at_a_time("priority"), requests), [1, 3, 2, 0]);
}

#[test]
fn sjf_goes_by_remaining_tokens_and_ages() {
    let of = |len, max_tokens, arrival| Request { arrival, ..length(len, max_tokens) };
    let requests = vec![of(9, 9, 0.0), of(2, 2, 0.0), of(2, 9, 0.0)];
    assert_eq!(order_of_service(&mut one_at_a_time("sjf"), requests), [1, 2, 0]);
    // Ten tokens a second: 1.5 s later, the short one (4 + 15) comes behind the long one (18).
    let requests = vec![of(9, 9, 0.0), of(2, 2, 1.5)];
    assert_eq!(order_of_service(&mut one_at_a_time("sjf"), requests), [0, 1]);
}

#[test]
fn lpm_goes_by_the_longest_cached_prefix() {
    let mut driver = one_at_a_time("lpm");
    driver = Driver::new(Config { enable_prefix_caching: true, ..driver.scheduler.config().clone() });
    driver.add(tokens(&[1, 2, 3, 4, 5, 6], 1));
    driver.finish_all();
    let requests = vec![tokens(&[7, 8, 9], 1), tokens(&[1, 2, 9, 9, 9], 1), tokens(&[1, 2, 3, 4, 9], 1)];
    assert_eq!(order_of_service(&mut driver, requests), [2, 1, 0]);
}

#[test]
fn lpm_looks_at_the_first_128_only() {
    let mut driver = one_at_a_time("lpm");
    driver = Driver::new(Config { enable_prefix_caching: true, ..driver.scheduler.config().clone() });
    driver.add(tokens(&[1, 2, 3, 4, 5, 6], 1));
    driver.finish_all();
    let mut requests: Vec<Request> = (0..129).map(|at| tokens(&[100 + at], 1)).collect();
    requests[128] = tokens(&[1, 2, 3, 4, 5], 1);
    assert_eq!(
        order_of_service(&mut driver, requests)[..3],
        [0, 128, 1],
        "the 129th is seen once one has gone"
    );
}

#[test]
fn the_victim_is_the_lowest_ranked() {
    for (policy, victim) in [("fcfs", 2), ("priority", 0), ("sjf", 1)] {
        let mut driver = Driver::new(with_policy(policy, config(6)));
        let requests = [
            Request { priority: 2, ..length(3, 9) },
            Request { priority: 1, arrival: 0.5, ..length(3, 10) },
            Request { priority: 0, arrival: 0.6, ..length(3, 3) },
        ];
        let slots = requests.map(|request| driver.add(request));
        let step = driver.step_until(|step| !step.preempted.is_empty());
        assert_eq!(step.preempted[0].slot, slots[victim], "{policy}");
    }
}

#[test]
fn the_watermark_binds_only_while_something_runs() {
    let mut driver = Driver::new(Config { watermark: 0.3, ..config(10) });
    driver.add(length(18, 3));
    assert_eq!(driver.step().rows.len(), 1, "9 of 10 blocks: nothing runs, so 3 need not stay free");
    driver.finish_all();
    driver.add(length(8, 9));
    driver.add(length(8, 9));
    driver.add(length(6, 1));
    driver.add(length(5, 1));
    assert_eq!(driver.step().rows.len(), 1, "4 + 4 + 3 is more than 10");
}

#[test]
fn prefill_and_decode_share_a_step_decodes_first() {
    let mut driver = Driver::new(Config { max_num_batched_tokens: 5, ..config(50) });
    let first = driver.add(length(3, 9));
    driver.step();
    let second = driver.add(length(9, 2));
    let step = driver.step();
    assert_eq!((Driver::slots(&step), step.num_decodes), (vec![first, second], 1));
    assert_eq!((step.rows[1].count, step.samples.len()), (4, 1), "a chunk of what the budget leaves");
    let step = driver.step();
    assert_eq!((step.rows[1].start, step.rows[1].count), (4, 4));
}

#[test]
fn prefill_first_computes_whole_prompts_before_any_decode() {
    let mut driver =
        Driver::new(with_policy("prefill_first", Config { max_num_batched_tokens: 10, ..config(50) }));
    driver.add(length(6, 3));
    driver.step();
    driver.add(length(8, 3));
    driver.add(length(7, 3));
    for count in [8, 7] {
        let step = driver.step();
        assert_eq!((step.num_decodes, step.rows.len(), step.rows[0].count), (0, 1, count));
    }
    assert_eq!(driver.step().num_decodes, 3);
}

#[test]
fn a_static_batch_reserves_its_memory_and_runs_until_its_longest_member_ends() {
    let mut driver = Driver::new(with_policy("static", config(12)));
    let [short, long, third] = [driver.add(length(3, 2)), driver.add(length(4, 9)), driver.add(length(9, 5))];
    let step = driver.step();
    assert_eq!(Driver::slots(&step), [short, long], "2 + 6 blocks; 7 more are not there");
    assert_eq!([driver.table(short).len(), driver.table(long).len()], [2, 6], "prompt + max_tokens - 1");
    for _ in 1..9 {
        assert!(driver.step().admitted.is_empty(), "nobody joins, though the short one ended");
    }
    assert_eq!(Driver::slots(&driver.step()), [third]);
}

/// A fork once shared the blocks reserved for its parent's later tokens: both wrote to them.
#[test]
fn a_fork_out_of_a_static_batch_leaves_the_reservation_to_its_parent() {
    let mut driver = Driver::new(with_policy("static", config(12)));
    let parent = driver.add(length(3, 6));
    driver.step();
    let child = driver.scheduler.fork(parent, "test").unwrap();
    assert_eq!([driver.table(parent).len(), driver.table(child).len()], [4, 2]);
    for _ in 0..3 {
        driver.step();
    }
    let own = driver.table(child);
    assert!(driver.table(parent)[1..].iter().all(|block| !own[1..].contains(block)), "blocks of their own");
}

/// A prompt that found no room once kept the decodes of a static batch from freeing it.
#[test]
fn a_stalled_prompt_does_not_stop_a_static_batch() {
    let config = Config { max_num_batched_tokens: 4, ..with_policy("static", config(6)) };
    let mut driver = Driver::new(config);
    let first = driver.add(length(2, 3));
    let long = driver.add(length(6, 3));
    driver.step();
    assert_eq!(driver.scheduler.sequence(first).outputs, 1);
    let child = driver.scheduler.fork(long, "test").unwrap();
    assert_eq!(driver.table(child).len(), 1, "2 of 6 prompt tokens; the rest finds no room beside the batch");
    driver.finish_all();
}

#[test]
fn a_request_with_n_takes_n_lanes_from_the_start() {
    let mut driver = Driver::new(Config { max_num_seqs: 3, max_num_batched_tokens: 2, ..config(50) });
    driver.add(Request { n: 3, ..length(4, 2) });
    let other = driver.add(length(1, 1));
    assert_eq!(driver.step().rows.len(), 1, "no lane is left for the other");
    let step = driver.step();
    assert_eq!(
        (step.samples.len(), step.forks.len()),
        (3, 2),
        "the step that ends the prompt takes three tokens"
    );
    assert_eq!(driver.step().rows.len(), 2, "the budget serves two of three");
    driver.step_until(|step| Driver::slots(step).contains(&other));
}

/// The copies of a prompt whose last chunks were in flight once counted only the newest as computed.
#[test]
fn the_sequences_of_a_split_count_all_chunks_in_flight() {
    let config = Config { max_num_batched_tokens: 4, enable_prefix_caching: true, ..config(50) };
    let mut driver = Driver::new(config);
    let parent = driver.add(Request { n: 2, ..tokens(&[1, 2, 3, 4, 5, 6, 7], 4) });
    driver.plan();
    let child = driver.plan().forks[0].1;
    driver.retire();
    driver.retire();
    for slot in [parent, child] {
        assert_eq!(driver.scheduler.sequence(slot).computed, 7);
    }
}

#[test]
fn a_window_admits_prompts_longer_than_the_memory() {
    let window = Config { sliding_window: Some(4), max_num_batched_tokens: 6, ..config(6) };
    assert_eq!(window.blocks_held(40, 6), 6, "ceil((4 + 6) / 2) + 1");
    let mut driver = Driver::new(window);
    let slot = driver.add(length(40, 3));
    driver.step();
    driver.step();
    // The first query of the next step is 12: it sees 9 and later, so block 4 (8, 9) is needed.
    driver.plan();
    assert_eq!(driver.table(slot).iter().take_while(|&&block| block < 0).count(), 4);
    driver.retire();
    driver.finish_all();
}

#[test]
fn an_end_by_max_tokens_wastes_no_row() {
    let mut driver = Driver::new(config(10));
    driver.add(length(2, 2));
    driver.plan();
    driver.plan();
    driver.retire();
    let step = driver.plan();
    assert!(step.rows.is_empty(), "its last token is on the way");
    driver.retire();
    assert!(!driver.scheduler.has_unfinished());
}
