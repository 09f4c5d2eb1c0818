"""`python -m pkd_utils encoders list | verify NAME PATH`: the table of encoders, and whether a download is right."""

import argparse
import sys
import textwrap
import warnings

from pkd_utils.encoders.facts import ImageFacts
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs.errors import DataError

WIDTH = 120  # characters a line of the table


def row(facts) -> dict[str, str]:
    """One encoder's line in the table."""
    if isinstance(facts, ImageFacts):
        feature = next(iter(facts.features.values()))
        rows, columns = feature.grid
        shape = {
            "architecture": facts.architecture,
            "input": f"{next(iter(facts.preprocessing.values())).crop} px",
            "tokens": f"{rows * columns} x {feature.width}",
        }
    else:
        cased = "uncased" if facts.lowercase else "cased"
        shape = {
            "architecture": f"BERT, {facts.layers} layers, {cased}",
            "input": "text",
            "tokens": f"up to {facts.longest} x {facts.width}",
        }
    parameters = f"{facts.parameters / 1e6:.1f} M" if facts.parameters else "?"
    files = ["Hugging Face folder" if file == "folder" else file for file in facts.files]
    return {"name": facts.name, **shape, "params": parameters, "licence": facts.licence, "file": " or ".join(files),
            "where": facts.source}  # fmt: skip


def table() -> str:
    """Every encoder: one line of what it is, then its files, where they come from and their licence."""
    columns = ("name", "architecture", "input", "tokens", "params")
    rows = [row(facts) for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values())]
    wide = {name: max(len(name), *(len(line[name]) for line in rows)) + 2 for name in columns}

    def line(values: dict[str, str]) -> str:
        return "".join(values[name].ljust(wide[name]) for name in columns).rstrip()

    indent = " " * wide["name"]
    lines = [line({name: name for name in columns}), "-" * WIDTH]
    for values in rows:
        lines.append(line(values))
        rest = f"{values['file']}; {values['where']}; licence: {values['licence']}"
        lines += textwrap.wrap(rest, WIDTH, initial_indent=indent, subsequent_indent=indent,
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
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
    print(verify.report_text(report))
    return 1 if report["problems"] else 0
