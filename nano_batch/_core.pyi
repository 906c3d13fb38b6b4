import numpy as np
from numpy.typing import NDArray

__version__: str
SAMPLER_VERSION: str

def poisson_arrivals(count: int, *, rate: float, seed: int) -> NDArray[np.float64]: ...
def bursty_arrivals(count: int, *, rate: float, cv: float, seed: int) -> NDArray[np.float64]: ...
def uniform_lengths(count: int, *, low: int, high: int, seed: int, outputs: bool) -> NDArray[np.int64]: ...
def log_normal_lengths(
    count: int, *, mu: float, sigma: float, low: int, high: int, seed: int, outputs: bool
) -> NDArray[np.int64]: ...
def quantile_lengths(
    count: int, *, probabilities: list[float], tokens: list[float], seed: int, outputs: bool
) -> NDArray[np.int64]: ...
def family_prompts(
    own_tokens: NDArray[np.int64],
    *,
    count: int,
    prefix_blocks: int,
    block_size: int,
    share: float,
    skew: float,
    seed: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]: ...
def length_tables() -> list[tuple[str, str]]: ...
def nearest(word: str, choices: list[str]) -> str | None: ...
