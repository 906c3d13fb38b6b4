"""The length tables of `data/workloads`: what real services were asked, as fitted quantiles.

They are compiled into the library, so that an installed package has them. Each table names the trace, the
facts it was fitted to and how well it meets them.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal

from nano_batch import _core
from nano_batch._choices import check_choice

TraceName = Literal["azure_conv", "azure_code", "mooncake_conversation", "mooncake_synthetic"]


@cache
def _texts() -> dict[str, str]:
    return dict(_core.length_tables())


def table(name: TraceName) -> dict[str, Any]:
    """The table as its JSON file has it: `prompt` and `output` (facts, fitted, probabilities, tokens),
    `arrivals`.

    Raises:
        UnknownOptionError: there is no such table; the nearest is named.
    """
    check_choice("table", name, TraceName)
    content: dict[str, Any] = json.loads(_texts()[name])
    return content
