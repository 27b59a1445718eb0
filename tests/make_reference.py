"""What the transformers classes themselves say about configs: parameters, cache bytes, matmul FLOPs.

Run by hand when transformers is upgraded; writes tests/data/reference.jsonl. Classes are built and run by
``kvplan.validate.huggingface``, which an import contract keeps from every formula of kvplan, so that the numbers are
somebody else's: on the meta device, with no weights, no memory, no download.

    python tests/make_reference.py [CONFIG.json ...] [--tokens 4224] [--print]
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import transformers

from kvplan.validate.huggingface import Unrunnable, observe

DATA = Path(__file__).parent / "data"


def measure(raw: dict[str, Any], tokens: int, *, flops: bool = True) -> dict[str, Any]:
    """Parameters always; cache after a prefill of ``tokens`` and after one more token, and FLOPs, where the class runs on meta.

    Raises Unrunnable where the class cannot be built.
    """
    (run,) = observe(raw, [tokens])
    result: dict[str, Any] = {"class": run.class_name, "parameters": run.parameters}
    if isinstance(run, Unrunnable):
        return result | {"not_run": run.reason}
    result |= {"tokens": tokens, "cache_bytes": run.cache_bytes}
    if flops:
        result["flops_full_all"] = run.prefill_flops
    return result | {"cache_bytes_next": run.cache_bytes_next}


def main() -> None:
    """Measures every config named, or all of tests/data/configs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--tokens", type=int, default=4224)
    parser.add_argument("--print", action="store_true", help="print, do not write")
    args = parser.parse_args()
    rows = []
    for path in args.configs or sorted((DATA / "configs").glob("*.json")):
        row: dict[str, Any] = {"file": path.name, "transformers": transformers.__version__}
        try:
            row |= measure(json.loads(path.read_text()), args.tokens)
        except Unrunnable as e:
            row["no_class"] = e.reason
            if args.print:
                traceback.print_exc()
        rows.append(row)
        print(json.dumps(row), file=sys.stdout if args.print else sys.stderr, flush=True)
    if not args.print:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        partial = DATA / "reference.jsonl.partial"
        partial.write_text(text)
        partial.rename(DATA / "reference.jsonl")


if __name__ == "__main__":
    main()
