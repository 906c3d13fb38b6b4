"""What `nano-batch bench attention` is made of: its cases, the device's times, and what they must be."""
