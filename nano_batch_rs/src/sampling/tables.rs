//! The length tables of `data/workloads`, compiled in, so that an installed package has them.

/// (name, JSON text), by name.
pub const TABLES: [(&str, &str); 4] = [
    ("azure_code", include_str!("../../../data/workloads/azure_code.json")),
    ("azure_conv", include_str!("../../../data/workloads/azure_conv.json")),
    ("mooncake_conversation", include_str!("../../../data/workloads/mooncake_conversation.json")),
    ("mooncake_synthetic", include_str!("../../../data/workloads/mooncake_synthetic.json")),
];
