"""What the site shows beside the pages in docs/: pages of the root, notebooks, the public names.

A text stands in one place and reads well both on a code host and on the site: README.md is the
site's first page, and links that leave docs/ lead to the page on the site or become plain text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import w2sdefense

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Page of the root -> its name on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and a page for each notebook."""
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](", text).replace(".ipynb)", ".md)")
        files.append(File.generated(config, page, content=text))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            page = file.src_uri.removesuffix("ipynb") + "md"
            text = notebook_page(json.loads(file.content_string), file.name)
            files.append(File.generated(config, page, content=text))
    return files


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook without outputs as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    parts.insert(1, f"[Download the notebook]({name}.ipynb)")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend links that leave docs/, and list the public names on the API page."""
    if page.file.src_uri == "api.md":
        markdown = markdown.replace("<!-- public names -->", public_names())
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"(!?)\[([^]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)", _inside, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from the network."""
    if loaded := re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?https?:[^>]*", output):
        raise PluginError(f"{page.file.src_uri} loads from the network: {loaded[0]}")
    return output


def _inside(link: re.Match[str]) -> str:
    _, text, target, anchor = link.groups()
    if target in ROOT_PAGES:
        return f"[{text}]({ROOT_PAGES[target]}{anchor or ''})"
    if not (ROOT / target).exists():
        raise PluginError(f"A link leads to {target}, which is not in the repository.")
    return text


def public_names() -> str:
    """What `from w2sdefense import ...` offers, each described by its docstring."""
    return "\n\n".join(
        f"::: w2sdefense.{module}.{name}" for name, module in sorted(w2sdefense._EXPORTS.items())
    )
