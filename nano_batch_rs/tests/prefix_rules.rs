//! What enters the prefix cache, what is found in it, and what leaves it first.

mod common;

use common::{Driver, config, length, tokens};
use nano_batch_core::config::{Config, Eviction};
use nano_batch_core::request::{Prompt, Request};

fn caching(num_blocks: u32) -> Config {
    Config { enable_prefix_caching: true, ..config(num_blocks) }
}

/// Serves one request alone to its end; the tokens it found cached.
fn serve(driver: &mut Driver, request: Request) -> u32 {
    driver.add(request);
    let step = driver.step();
    let cached = step.admitted[0].cached;
    driver.finish_all();
    cached
}

#[test]
fn the_last_prompt_token_is_always_computed() {
    let mut driver = Driver::new(caching(10));
    let prompt = [1, 2, 3, 4];
    assert_eq!(serve(&mut driver, tokens(&prompt, 1)), 0);
    driver.add(tokens(&prompt, 1));
    let step = driver.step();
    assert_eq!((step.rows[0].start, step.rows[0].count), (2, 2), "its block is found, yet computed again");
    assert_eq!(serve(&mut driver, tokens(&[1, 2, 3, 4, 5], 1)), 4);
}

#[test]
fn outputs_are_found_too() {
    let mut driver = Driver::new(caching(10));
    serve(&mut driver, tokens(&[1, 2], 3));
    assert_eq!(serve(&mut driver, tokens(&[1, 2, 9, 9, 7], 1)), 4, "the second output completed a block");
}

#[test]
fn content_that_is_cached_already_is_not_indexed_twice() {
    let mut driver = Driver::new(caching(10));
    let slots = [driver.add(tokens(&[1, 2, 3], 2)), driver.add(tokens(&[1, 2, 3], 2))];
    driver.step();
    let [first, second] = slots.map(|slot| driver.table(slot)[0]);
    assert!(first != second && driver.is_cached(first) && !driver.is_cached(second));
    driver.finish_all();
    assert_eq!(driver.scheduler.blocks().num_cached(), 2, "[1 2] and [3 9]");
}

#[test]
fn salts_and_lengths_share_nothing() {
    let mut driver = Driver::new(caching(20));
    serve(&mut driver, tokens(&[1, 2, 3], 1));
    let salted = Request { cache_salt: "tenant".to_owned(), ..tokens(&[1, 2, 3], 1) };
    assert_eq!(serve(&mut driver, salted.clone()), 0);
    assert_eq!(serve(&mut driver, salted), 2);
    let cached = driver.scheduler.blocks().num_cached();
    assert_eq!(serve(&mut driver, length(6, 3)), 0);
    assert_eq!(driver.scheduler.blocks().num_cached(), cached, "a length is never cached");
}

#[test]
fn a_traces_blocks_are_found_at_any_block_size() {
    let mut driver = Driver::new(Config { block_size: 4, ..caching(20) });
    let blocks = |ids: Vec<u32>, len| Request::new(Prompt::Blocks { ids, size: 6, len }, 1);
    assert_eq!(serve(&mut driver, blocks(vec![3, 5], 12)), 0);
    assert_eq!(serve(&mut driver, blocks(vec![3, 7], 10)), 4, "6 tokens agree: one block of 4");
    let virtual_tokens: Vec<i32> = (18..24).chain(30..36).chain([1]).collect();
    assert_eq!(serve(&mut driver, tokens(&virtual_tokens, 1)), 12);
}

#[test]
fn the_tail_is_evicted_before_the_head() {
    let mut driver = Driver::new(caching(4));
    serve(&mut driver, tokens(&[1, 2, 3, 4, 5], 1));
    serve(&mut driver, length(6, 1));
    assert_eq!(serve(&mut driver, tokens(&[1, 2, 3, 4, 5], 1)), 2, "[3 4] went, [1 2] stayed");
}

#[test]
fn a_parent_evicted_and_computed_again_makes_its_children_reachable_again() {
    let mut driver = Driver::new(Config { eviction: Eviction::Fifo, ..caching(4) });
    let prompt = [1, 2, 3, 4, 5];
    serve(&mut driver, tokens(&prompt, 1));
    serve(&mut driver, length(6, 1));
    let blocks = driver.scheduler.blocks();
    assert_eq!((blocks.num_cached(), blocks.cache.len()), (1, 2), "the head went; its entry stays for [3 4]");
    let child = (0..4).find(|&block| driver.is_cached(block)).unwrap();
    assert_eq!(serve(&mut driver, tokens(&[1, 2, 8], 1)), 0, "nothing is reachable without the head");
    let slot = driver.add(tokens(&prompt, 1));
    let step = driver.plan();
    assert_eq!(step.admitted[0].cached, 4, "the new head leads to the old child");
    assert_eq!(driver.table(slot)[1], child);
}

#[test]
fn an_entry_without_block_goes_with_the_last_child() {
    let mut driver = Driver::new(Config { eviction: Eviction::Fifo, ..caching(4) });
    serve(&mut driver, tokens(&[1, 2, 3, 4, 5], 1));
    serve(&mut driver, length(8, 1));
    assert_eq!(driver.scheduler.blocks().cache.len(), 0);
}

#[test]
fn a_block_enters_the_cache_when_its_tokens_are_known_and_computed() {
    let mut driver = Driver::new(caching(8));
    let slot = driver.add(tokens(&[1, 2, 3], 4));
    driver.plan();
    let [head, tail] = [driver.table(slot)[0], driver.table(slot)[1]];
    assert!(!driver.is_cached(head), "planned is not computed");
    driver.plan();
    driver.retire();
    assert!(
        driver.is_cached(head) && !driver.is_cached(tail),
        "the tail's token is known, but not yet computed"
    );
    driver.retire();
    assert!(driver.is_cached(tail));
}

#[test]
fn finish_forgets_the_content_behind_what_counts() {
    let mut driver = Driver::new(caching(10));
    let slot = driver.add(tokens(&[1, 2], 9));
    for _ in 0..5 {
        driver.step();
    }
    driver.scheduler.finish(slot, nano_batch_core::request::FinishReason::Stop, Some(1)).unwrap();
    assert_eq!(driver.scheduler.blocks().num_cached(), 1, "3 tokens count: one full block of 2");
    assert_eq!(driver.scheduler.blocks().num_free(), 9);
}

#[test]
fn blocks_released_to_the_window_stay_cached() {
    let mut driver =
        Driver::new(Config { sliding_window: Some(2), max_num_batched_tokens: 2, ..caching(10) });
    let prompt = [1, 2, 3, 4, 5, 6, 7];
    let slot = driver.add(tokens(&prompt, 1));
    driver.step();
    driver.step();
    driver.step();
    assert_eq!(driver.table(slot)[0], -1);
    driver.finish_all();
    assert_eq!(serve(&mut driver, tokens(&prompt, 1)), 6, "the whole chain is there");
}
