"""The command `nano-batch`: the lab, the demo, simulations and sweeps, the benchmarks, the notebooks.

Each subcommand imports what it needs when it runs, so that the command line itself starts at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nano_batch import __version__
from nano_batch._choices import unknown_option
from nano_batch.errors import InvalidArgumentError, NanoBatchError

QUICKSTART = "00_quickstart.ipynb"
MEMORY_TOKENS = 524_288
OF_A_MODEL = ("engine", "kv_cache", "step")
NOT_BENCHMARKS = {"dummy_nano_batch_benchmark", "memory", "report"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when it did what was asked, 1 after a named error, 2 for a bad argument."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (NanoBatchError, OSError) as error:
        print(f"nano-batch: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nano-batch", description="The laboratory for LLM serving.")
    parser.add_argument("--version", action="version", version=f"nano-batch {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    lab = commands.add_parser("lab", help="open the notebooks in JupyterLab, as a copy of your own in lab/")
    lab.add_argument("--in-place", action="store_true", help="open notebooks/ itself (for authors)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.set_defaults(run=_lab)

    demo = commands.add_parser("demo", help="the core from end to end: schedule, attend, release")
    demo.set_defaults(run=_demo)

    _add_simulate(commands.add_parser("simulate", help="serve a trace in virtual time and print its numbers"))
    _add_sweep(commands.add_parser("sweep", help="simulate the product of parameter lists into a table"))

    bench = commands.add_parser("bench", help="measure on this machine")
    bench.add_argument("name", metavar="NAME", help="which benchmark, such as scheduler")
    bench.add_argument("--model", metavar="NAME", help="of engine, kv_cache and step, such as tiny")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(run=_bench)

    profile = commands.add_parser(
        "profile", help="measure this machine's GPU for the simulator (torch's kernels)"
    )
    profile.add_argument("--model", default="mistral-7b-v0.3", help="whose shape; default: mistral-7b-v0.3")
    profile.add_argument("--out", type=Path, required=True, metavar="FILE", help="a profile (docs/costs.md)")
    profile.set_defaults(run=_profile)

    export = commands.add_parser("export", help="write a static page of each notebook, live without a kernel")
    export.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all of notebooks/")
    export.add_argument("--out", type=Path, default=Path("site"), metavar="FOLDER", help="default: site/")
    export.set_defaults(run=_export)

    notebooks = commands.add_parser("notebooks", help="for authors")
    actions = notebooks.add_subparsers(metavar="ACTION", required=True)
    refresh = actions.add_parser("refresh", help="execute notebooks and take the posters of their views")
    refresh.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all of notebooks/")
    refresh.set_defaults(run=_refresh)
    return parser


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a trace; its format is recognised")
    parser.add_argument("--requests", type=int, metavar="N", help="only the first N")
    parser.add_argument("--rate", type=float, metavar="R", help="stretch the times to R requests/s")
    parser.add_argument("--block-size", type=int, default=16, metavar="TOKENS", help="default: 16")
    memory = f"KV memory in tokens (default: what the GPU holds beside the model, else {MEMORY_TOKENS:,})"
    parser.add_argument("--memory-tokens", type=int, metavar="TOKENS", help=memory)
    parser.add_argument("--max-num-seqs", type=int, default=256, metavar="N", help="default: 256")
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192, metavar="N", help="default: 8192")
    parser.add_argument("--policy", default="fcfs", help="default: fcfs")
    parser.add_argument("--step-time", type=float, metavar="S", help="seconds a step (default: 0.02)")
    gpu = "a GPU's card, such as h200: a step takes what the roofline says"
    parser.add_argument("--hardware", metavar="GPU", help=gpu)
    parser.add_argument("--model", default="mistral-7b-v0.3", help="its card (default: mistral-7b-v0.3)")
    parser.add_argument("--ttft", type=float, metavar="S", help="objective, for goodput")
    parser.add_argument("--tpot", type=float, metavar="S", help="objective, for goodput")
    parser.add_argument("--out", type=Path, metavar="RUN", help="also write the run's records (RUN.npz)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_simulate)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file (docs/sweeps.md)")
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE", help="a .parquet or .csv file")
    parser.add_argument("--jobs", type=int, metavar="N", help="workers (default: one a core)")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where finished points are kept")
    parser.add_argument("--keep-errors", action="store_true", help="keep a refused point as a row")
    parser.set_defaults(run=_sweep)


def _simulate(options: argparse.Namespace) -> int:
    from nano_batch.sweeps.command import run_simulate

    return run_simulate(options)


def _sweep(options: argparse.Namespace) -> int:
    from nano_batch.sweeps.command import run_sweep

    return run_sweep(options)


def _lab(options: argparse.Namespace) -> int:
    import webbrowser

    from nano_batch.jupyter.server import serve
    from nano_batch.jupyter.working_copy import make_working_copy, notebooks_folder

    folder = notebooks_folder()
    if not options.in_place:
        original, folder = folder, folder.parent / "lab"
        for name in make_working_copy(original, folder):
            print(f"lab/{name} has changes of yours: it stays as it is")
    try:
        webbrowser.get()
        browser = not options.no_browser
    except webbrowser.Error:
        browser = False
    return serve(folder, QUICKSTART, browser=browser)


def _demo(_: argparse.Namespace) -> int:
    from nano_batch.examples import core_engine_demo

    return core_engine_demo.main()


def _bench(options: argparse.Namespace) -> int:
    import importlib
    import json
    import pkgutil

    from nano_batch import benchmarks

    modules = [module for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg]
    names = sorted({module.name for module in modules} - NOT_BENCHMARKS)
    if options.name not in names:
        raise unknown_option("benchmark", options.name, tuple(names))
    if options.model is not None and options.name not in OF_A_MODEL:
        takers = " and ".join(OF_A_MODEL)
        raise InvalidArgumentError(
            f"--model={options.model} is for the benchmarks {takers}, not {options.name}"
        )
    given = {} if options.model is None else {"model": options.model}
    result = importlib.import_module(f"nano_batch.benchmarks.{options.name}").run(**given)
    if options.json:
        print(json.dumps(result))
    else:
        for row in result["rows"]:
            print("  ".join(f"{name}={value}" for name, value in row.items()))
    return 0


def _profile(options: argparse.Namespace) -> int:
    from nano_batch.profiling import measure_profile

    profile = measure_profile(options.model)
    profile.save(options.out)
    print(f"{options.out}: {profile!r}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from nano_batch.export import export
    from nano_batch.jupyter.working_copy import notebooks_folder

    paths = options.paths or sorted(notebooks_folder().glob("*.ipynb"))
    for path in export(paths, options.out):
        print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from nano_batch.jupyter.refresh import refresh
    from nano_batch.jupyter.working_copy import notebooks_folder

    refresh(options.paths or sorted(notebooks_folder().glob("*.ipynb")))
    return 0
