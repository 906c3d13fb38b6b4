"""nano_batch: the laboratory for LLM serving."""
