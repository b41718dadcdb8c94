"""A screen of the terminal as an SVG that needs nothing from elsewhere: no font, no image.

Rich's own template names fonts on another host. This one names those that systems have; each
text has the width of its cells, so another font moves nothing.
"""

import io
import re
from xml.etree import ElementTree

from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme

SVG = "http://www.w3.org/2000/svg"
#: What may fetch or run something when a picture is looked at.
_ACTIVE = ("script", "image", "use", "a", "foreignObject", "iframe", "animate", "set")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>)]*|@import|url\((?!#)", re.IGNORECASE)

_SPACE, _CELL = "&#160;", 12.2  # a space in a text, and the width of each of its cells
_TEXT = re.compile(r'(<text [^>]*\bx=")([^"]*)("[^>]*\btextLength=")([^"]*)("[^>]*>)([^<]*)')

#: Dark, with a frame around it, so that it can be read on a light page and on a dark one.
_THEME = TerminalTheme(
    background=(13, 17, 23),
    foreground=(230, 237, 243),
    normal=[
        (110, 118, 129),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (177, 186, 196),
    ],
)

_TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
     width="{width}" height="{height}" role="img">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 18px system-ui, "DejaVu Sans", sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def picture(*shown: RenderableType, title: str, columns: int) -> str:
    """What `shown` looks like in a terminal of so many columns."""
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        no_color=False,  # whatever the environment says
    )
    for each in shown:
        console.print(each)
    drawn = console.export_svg(title=title, theme=_THEME, code_format=_TEMPLATE, unique_id="screen")
    drawn = _TEXT.sub(_stripped, drawn).replace("</text><text", "</text>\n<text")
    return "\n".join(line.strip() for line in drawn.splitlines() if line.strip()) + "\n"


def _stripped(text: re.Match[str]) -> str:
    """A text without the spaces around it, which not all programs that show an SVG keep."""
    before, x, between, length, after, shown = text.groups()
    words = re.sub(f"({_SPACE})+$", "", shown)
    indented = len(words)
    words = re.sub(f"^({_SPACE})+", "", words)
    indent = _CELL * ((indented - len(words)) // len(_SPACE))
    dropped = _CELL * ((len(shown) - len(words)) // len(_SPACE))
    return f"{before}{float(x) + indent:g}{between}{float(length) - dropped:g}{after}{words}"


def needs_from_elsewhere(svg: str) -> list[str]:
    """The addresses and active elements in a picture, beside its namespace."""
    root = ElementTree.fromstring(svg)
    found = [each for each in _ADDRESS.findall(svg) if each != SVG]
    found += [
        tag for each in root.iter() if (tag := each.tag.removeprefix(f"{{{SVG}}}")) in _ACTIVE
    ]
    return found + [name for each in root.iter() for name in each.attrib if "href" in name]
