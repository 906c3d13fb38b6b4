"""The engines that `nano-batch bench engine` gives the same requests, one a file, and the physical limit."""
