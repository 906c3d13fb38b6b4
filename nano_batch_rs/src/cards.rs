//! The cards of `data/hardware` and `data/models`, and profiles of `data/measured`, compiled in, so that
//! an installed package has them.

/// (kind, name, JSON text), by kind and name.
pub const CARDS: [(&str, &str, &str); 17] = [
    ("hardware", "a10", include_str!("../../data/hardware/a10.json")),
    ("hardware", "a100", include_str!("../../data/hardware/a100.json")),
    ("hardware", "h100", include_str!("../../data/hardware/h100.json")),
    ("hardware", "h200", include_str!("../../data/hardware/h200.json")),
    ("hardware", "l4", include_str!("../../data/hardware/l4.json")),
    ("hardware", "l40s", include_str!("../../data/hardware/l40s.json")),
    ("hardware", "rtx4090", include_str!("../../data/hardware/rtx4090.json")),
    ("hardware", "t4", include_str!("../../data/hardware/t4.json")),
    ("model", "llama-2-7b", include_str!("../../data/models/llama-2-7b.json")),
    ("model", "llama-3.1-8b", include_str!("../../data/models/llama-3.1-8b.json")),
    ("model", "mistral-7b-v0.1", include_str!("../../data/models/mistral-7b-v0.1.json")),
    ("model", "mistral-7b-v0.3", include_str!("../../data/models/mistral-7b-v0.3.json")),
    ("model", "opt-125m", include_str!("../../data/models/opt-125m.json")),
    ("model", "opt-13b", include_str!("../../data/models/opt-13b.json")),
    ("model", "tinyllama-1.1b", include_str!("../../data/models/tinyllama-1.1b.json")),
    ("profile", "h100-mistral-7b", include_str!("../../data/measured/profile_h100_mistral-7b.json")),
    ("profile", "h200-mistral-7b", include_str!("../../data/measured/profile_h200_mistral-7b.json")),
];
