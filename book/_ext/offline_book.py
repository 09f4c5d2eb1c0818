"""Sphinx extension of this book: pages that read offline, and docstrings that are plain text with code.

Two small things that configuration cannot do:

- Jupyter Book always loads sphinx-thebe, whose script points at a CDN and, declared twice by Jupyter Book, is an
  error in the browser's console. Its files are taken off every page.
- Docstrings are prose that names things like x*, p_1 or |a|. To reStructuredText a lone `*`, `|` or a trailing `_` is
  markup; outside literals they are escaped before they are parsed. Single backquotes mean code, as in Markdown.
"""

import re

LITERAL = re.compile(r"(``[^`]+``|:\w+:`[^`]+`|(?<!`)`[^`\n]+`(?!`)|\*\*[^*\n]+\*\*)")
OPTION_LINE = re.compile(r"^\s*(\.\. |:\w+|\.\. math::)")


def escape_line(line: str) -> str:
    """One docstring line as reStructuredText that prints the same characters."""
    if OPTION_LINE.match(line):
        return line
    parts = LITERAL.split(line)
    for i, part in enumerate(parts):
        if i % 2:  # a literal: `name` becomes ``name``, everything else stays
            if part.startswith("`") and not part.startswith("``"):
                parts[i] = f"`{part}`"
        else:
            part = re.sub(r"(?<!\\)([*|])", r"\\\1", part)
            parts[i] = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", part)
    return "".join(parts)


def escape_docstring(app, what, name, obj, options, lines):
    """Handler of `autodoc-process-docstring`, before napoleon: leave indented literal blocks and doctests alone."""
    literal_indent = None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal_indent is not None:
            if not line.strip() or indent > literal_indent:
                continue
            literal_indent = None
        if line.lstrip().startswith(">>>"):
            continue
        if line.rstrip().endswith("::") or line.lstrip().startswith(".. math::"):
            literal_indent = indent
            continue
        lines[i] = escape_line(line)


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


def setup(app):
    app.connect("autodoc-process-docstring", escape_docstring, priority=100)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
