"""Sphinx extension of this book: pages that read offline, and docstrings that always render.

Five small things that configuration cannot do:

- Jupyter Book always loads sphinx-thebe, whose script points at a CDN and, declared twice by Jupyter Book, is an
  error in the browser's console. Its files are taken off every page.
- Docstrings are prose that names things like x*, p_1 or |a|. To reStructuredText a lone `*`, `|` or a trailing `_` is
  markup; outside literals they are escaped before they are parsed. Single backquotes mean code, as in Markdown.
- A docstring that still is no valid reStructuredText is shown word for word, in a block of code, rather than stop
  the build.
- What `make pages` has written into book/_generated/announcement.txt stands above every page.
- A link to the page of a run that this build does not have leads to what its study has beside the paper, or is text.
"""

import posixpath
import re
from pathlib import Path

import docutils.core
import docutils.nodes
from sphinx import addnodes
from sphinx.util import logging

logger = logging.getLogger(__name__)

LITERAL = re.compile(r"(``[^`]+``|:\w+:`[^`]+`|(?<!`)`[^`]+`(?!`)|\*\*[^*\n]+\*\*)")
DIRECTIVE = re.compile(r"^\s*(\.\. |:\w+)")


def escape(paragraph: str) -> str:
    """A paragraph as reStructuredText that prints the same characters."""
    parts = LITERAL.split(paragraph)
    for i, part in enumerate(parts):
        if i % 2:  # a literal: `name` becomes ``name``, everything else stays
            if part.startswith("`") and not part.startswith("``"):
                parts[i] = f"`{part}`"
        else:
            part = re.sub(r"(?<!\\)([*|])", r"\\\1", part)
            parts[i] = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", part)
    return "".join(parts)


def escape_docstring(app, what, name, obj, options, lines):
    """Handler of `autodoc-process-docstring`, before napoleon: leaves literal blocks, doctests, directives alone."""
    result: list[str] = []
    paragraph: list[str] = []
    literal_indent = None

    def flush():
        result.extend(escape("\n".join(paragraph)).split("\n") if paragraph else [])
        paragraph.clear()

    for line in lines:
        indent = len(line) - len(line.lstrip())
        if literal_indent is not None and line.strip() and indent <= literal_indent:
            literal_indent = None
        if literal_indent is not None or not line.strip() or line.lstrip().startswith(">>>") or DIRECTIVE.match(line):
            flush()
            result.append(line)
        else:
            paragraph.append(line)
        if literal_indent is None and (line.rstrip().endswith("::") or line.lstrip().startswith(".. math::")):
            flush()
            literal_indent = indent
    flush()
    lines[:] = result


def keep_valid(app, what, name, obj, options, lines):
    """Handler of `autodoc-process-docstring`, after napoleon: what does not parse is shown as it was written."""
    settings = {"env": app.env, "report_level": 5, "halt_level": 5, "warning_stream": False}
    tree = docutils.core.publish_doctree("\n".join(lines), settings_overrides=settings)
    faults = [node for node in tree.findall(docutils.nodes.system_message) if node["level"] >= 2]
    if faults:
        logger.info("docstring of %s is shown as plain text: %s", name, faults[0].astext().replace("\n", " "))
        lines[:] = [
            ".. code-block:: text",
            "",
            *(f"   {line}" for line in (obj.__doc__ or "").expandtabs().splitlines()),
        ]


def skip_fields(app, what, name, obj, skip, options):
    """Handler of `autodoc-skip-member`: fields of named tuples that say no more than their number."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def lead_elsewhere(app, doctree):
    """Handler of `doctree-read`: links to runs that are not among the pages of this build."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        target = link["reftarget"]
        if link.get("reftype") != "myst" or "_generated/" not in target:
            continue
        if link.get("refdomain") != "doc":
            target = posixpath.normpath(posixpath.join(posixpath.dirname(app.env.docname), target))
        instead = posixpath.join(posixpath.dirname(target), "beside-the-paper")
        if target.removesuffix(".md") in app.env.found_docs:
            continue
        if instead in app.env.found_docs:
            link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", instead, None
        else:
            link.replace_self(link.children)


def drop_thebe(app, pagename, templatename, context, doctree):
    """Handler of `html-page-context`: no thebe script, style sheet or settings on any page."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script) or "").lower()
        and "THEBE_JS_URL" not in str(getattr(script, "attributes", {}).get("body", ""))
    ]
    context["css_files"] = [
        sheet
        for sheet in context.get("css_files", [])
        if "thebe" not in str(getattr(sheet, "filename", sheet) or "").lower()
    ]


def announce(app, config):
    """Handler of `config-inited`: what must stand above every page."""
    file = Path(app.srcdir, "book", "_generated", "announcement.txt")
    if file.exists():
        config.html_theme_options["announcement"] = file.read_text().strip()


def setup(app):
    app.connect("config-inited", announce, priority=100)
    app.connect("autodoc-process-docstring", escape_docstring, priority=100)
    app.connect("autodoc-process-docstring", keep_valid, priority=900)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", lead_elsewhere)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
