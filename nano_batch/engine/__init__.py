"""The inference engine: requests in, sampled tokens and text out."""
