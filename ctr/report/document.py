"""The frame of an HTML page that is one file and loads nothing."""

import html
from pathlib import Path

from ctr.files import atomic_write_text


def write(path: Path, title: str, style: str, body: str) -> None:
    """Writes the page whole or not at all; ``body`` is HTML, the title text."""
    atomic_write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
""",
    )
