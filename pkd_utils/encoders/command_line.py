"""`python -m pkd_utils encoders list | verify NAME PATH`: the table of encoders, and whether a download is right."""

import argparse
import math
import sys
import textwrap
import warnings

from pkd_utils.encoders.facts import ImageFacts, TextFacts
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs.errors import DataError

WIDTH = 120  # characters a line of the table


def row(facts: ImageFacts | TextFacts) -> tuple[str, ...]:
    """An encoder's name, architecture, input, tokens and parameters."""
    size = f"{facts.parameters / 1e6:.1f} M"
    if isinstance(facts, ImageFacts):
        feature, steps = next(iter(facts.features.values())), next(iter(facts.preprocessing.values()))
        return facts.name, facts.architecture, f"{steps.crop} px", f"{math.prod(feature.grid)} x {feature.width}", size
    shape = f"BERT, {facts.layers} layers, {'uncased' if facts.lowercase else 'cased'}"
    return facts.name, shape, "text", f"up to {facts.longest} x {facts.width}", size


def table() -> str:
    """Every encoder: one line of what it is, then its files, where they come from and their licence."""
    encoders = (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values())
    rows = [("name", "architecture", "input", "tokens", "params"), *map(row, encoders)]
    wide = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    head, *shapes = ["".join(map(str.ljust, values, wide)).rstrip() for values in rows]
    lines, indent = [head, "-" * WIDTH], " " * wide[0]
    for facts, shape in zip(encoders, shapes, strict=True):
        files = " or ".join("Hugging Face folder" if file == "folder" else file for file in facts.files)
        lines += [shape, *textwrap.wrap(f"{files}; {facts.source}; licence: {facts.licence}", WIDTH,
                                        initial_indent=indent, subsequent_indent=indent,
                                        break_long_words=False, break_on_hyphens=False)]  # fmt: skip
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command; 0 if all is right, 1 if a file is not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m pkd_utils encoders", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the table of encoders")
    check = commands.add_parser("verify", help="load a file, report its keys, its hash and a fingerprint of its tokens")
    check.add_argument("name", help="as in the table")
    check.add_argument("path", help='file or folder as downloaded, or "random"')
    check.add_argument("--feature", help="where an image encoder's tokens are read (default: the table's)")
    check.add_argument("--preprocessing", help='"paper" or "native" (default: the first that there is)')
    check.add_argument("--no-upsample", action="store_true", help="GLoRIA: leave the input at 224 px")
    check.add_argument("--layer", default="last", help="of a text encoder: last, sum_last_4 or a number")
    check.add_argument("--record", action="store_true", help="keep the fingerprint in the package's fingerprints.json")
    options = parser.parse_args(arguments[1:])
    if options.command == "list":
        print(table())
        return 0

    from pkd_utils.encoders import verify  # the table needs neither timm nor transformers

    layer = int(options.layer) if options.layer.lstrip("-").isdigit() else options.layer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a loader warns of stands in the report
            report = verify.verify(
                options.name, options.path, options.feature, options.preprocessing, not options.no_upsample, layer
            )
        if options.record:
            verify.record(report)
    except (DataError, OSError) as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 1
    print(report)
    return 1 if report.problems else 0
