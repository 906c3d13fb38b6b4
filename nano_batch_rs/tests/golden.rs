//! The scenarios of `tests/golden`, which can be checked by hand; `tests/test_golden.py` runs them
//! through Python.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use nano_batch_core::arrays::TokenArrays;
use nano_batch_core::config::{Choice, Config, Preemption};
use nano_batch_core::engine::{Engine, Finished};
use nano_batch_core::policy::parse_policy;
use nano_batch_core::request::{Prompt, Request};
use serde_json::{Map, Value, json};

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).expect("a number")
}

fn engine_of(options: &Map<String, Value>) -> Engine {
    let mut config = Config::default();
    for (name, value) in options {
        match name.as_str() {
            "num_blocks" => config.num_blocks = number(value),
            "block_size" => config.block_size = number(value),
            "max_num_batched_tokens" => config.max_num_batched_tokens = number(value),
            "num_swap_blocks" => config.num_swap_blocks = number(value),
            "sliding_window" => config.sliding_window = Some(number(value)),
            "watermark" => config.watermark = value.as_f64().expect("a share"),
            "enable_prefix_caching" => config.enable_prefix_caching = value.as_bool().expect("a bool"),
            "preemption" => {
                config.preemption = Preemption::parse(value.as_str().expect("a word")).expect("known")
            }
            "policy" => {
                (config.policy, config.batching) =
                    parse_policy(value.as_str().expect("a word")).expect("known");
            }
            other => panic!("option {other} is not known here"),
        }
    }
    Engine::new(config).expect("a valid configuration")
}

fn request_of(wanted: &Value) -> Request {
    let tokens =
        wanted["prompt"].as_array().expect("tokens").iter().map(|token| number(token) as i32).collect();
    let mut request = Request::new(Prompt::Tokens(tokens), number(&wanted["max_tokens"]));
    request.n = wanted.get("n").map_or(1, number);
    request.cache_salt =
        wanted.get("cache_salt").map_or("", |salt| salt.as_str().expect("a word")).to_owned();
    request
}

/// Plans a step and gives every sample the token 9; what a scenario says of it.
fn step(engine: &mut Engine) -> Value {
    engine.plan().expect("no step is outstanding");
    let step = engine.scheduler().newest_step().expect("the step just planned").clone();
    let scheduler = engine.scheduler();
    let mut sampled: Vec<&str> = step.samples.iter().map(|s| engine.name_in(&step, s.slot)).collect();
    let mut given: HashMap<String, Vec<i64>> = HashMap::new();
    for name in &sampled {
        given.entry((*name).to_owned()).or_default().push(9);
    }
    sampled.dedup();
    let mut said = json!({
        "scheduled": step.rows.iter().map(|row| engine.name_in(&step, row.slot)).collect::<Vec<_>>(),
        "tokens": step.rows.iter().map(|row| row.count).collect::<Vec<_>>(),
        "start": step.rows.iter().map(|row| row.start).collect::<Vec<_>>(),
        "cached": step.rows.iter().map(|row| step.cached_tokens(row)).collect::<Vec<_>>(),
        "tables": step.rows.iter().map(|row| scheduler.sequence(row.slot).table()).collect::<Vec<_>>(),
        "slots": TokenArrays::of(scheduler, &step).slot_mapping,
        "sampled": sampled,
        "preempted": step.preempted.iter().map(|p| engine.name(p.slot)).collect::<Vec<_>>(),
        "swap_out": step.swap_out,
        "swap_in": step.swap_in,
        "copies": step.copies,
    });
    let pair = |ended: Finished| json!([ended.id, ended.reason]);
    said["ends"] = engine.update(given).expect("tokens for all").into_iter().map(pair).collect();
    said
}

/// What a scenario does not mention did not happen.
fn complete(expected: &Value) -> Value {
    let mut expected = expected.clone();
    for name in ["preempted", "swap_out", "swap_in", "copies", "ends"] {
        if expected.get(name).is_none() {
            expected[name] = json!([]);
        }
    }
    expected
}

#[test]
fn golden_scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut scenarios = 0;
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a readable file");
        let scenario: Value = serde_json::from_str(&text).expect("valid JSON");
        let mut engine = engine_of(scenario["engine"].as_object().expect("options"));
        for (at, expected) in scenario["steps"].as_array().expect("steps").iter().enumerate() {
            for request in scenario["requests"].as_array().expect("requests") {
                if number(&request["step"]) as usize == at + 1 {
                    let id = request["id"].as_str().expect("an id");
                    engine.add_request(id, request_of(request)).expect("servable");
                }
            }
            assert_eq!(step(&mut engine), complete(expected), "{} step {}", path.display(), at + 1);
        }
        assert!(!engine.scheduler().has_unfinished(), "{} goes on", path.display());
        scenarios += 1;
    }
    assert!(scenarios >= 7);
}
