"""The style of all pages. Colours of charts also differ in lightness, so they can be told apart without their hue."""

import base64
import hashlib
import re

_CSS = """
:root { color-scheme: light dark;
  --page: #f5f6f8; --panel: #ffffff; --sunk: #f3f5f7; --text: #171c22; --faint: #55606b; --grid: #e4e8ec;
  --edge: #dce1e6; --link: #1d54a6; --soft: #e9f0fb; --user: #eaf2fd; --user-edge: #c5daf5;
  --bad: #b3261e; --bad-soft: #fcecea; --note: #7a4a00; --note-soft: #fdf3df; --note-edge: #eed7a6;
  --c0: #2563b0; --c1: #d9780f; --c2: #16876a; --c3: #b2457e; --c4: #7a6bd0; --c5: #8a6d3b; --c6: #2b8fb3;
  --other: #8b959f; }
@media (prefers-color-scheme: dark) { :root {
  --page: #111417; --panel: #191d21; --sunk: #14181b; --text: #e6e9ec; --faint: #9ba6b0; --grid: #2a3036;
  --edge: #2b3238; --link: #8ab8f5; --soft: #1d2a3a; --user: #172638; --user-edge: #27405e;
  --bad: #f2958d; --bad-soft: #35201f; --note: #f0c780; --note-soft: #2e2617; --note-edge: #4d3f22;
  --c0: #6aa5ee; --c1: #f2a54a; --c2: #45c79d; --c3: #e07fb3; --c4: #a99cf0; --c5: #c7a46a; --c6: #70cbe6;
  --other: #828d97; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; border-radius: 4px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 12px; top: 8px; background: var(--panel); padding: 6px 10px; z-index: 1; }
.top { background: var(--panel); border-bottom: 1px solid var(--edge); }
.top div { max-width: 1232px; margin: 0 auto; padding: 10px 24px; display: flex; gap: 4px 22px; flex-wrap: wrap;
  align-items: baseline; }
.top b { font-weight: 600; margin-right: auto; letter-spacing: -.01em; }
.top nav { display: flex; gap: 20px; }
.top a { padding: 2px 0; color: var(--faint); }
.top a[aria-current] { color: var(--text); box-shadow: 0 2px 0 var(--c0); }
main { max-width: 1232px; margin: 0 auto; padding: 26px 24px 8px; }
.narrow-main main, .narrow-main .top div, .narrow-main footer { max-width: 928px; }
h1 { font-size: 24px; line-height: 1.25; letter-spacing: -.015em; margin: 0; font-weight: 650; }
h2 { font-size: 15px; margin: 0; font-weight: 600; }
h3 { font-size: 13px; margin: 0; font-weight: 600; }
.when { color: var(--faint); margin: 4px 0 20px; }
.crumbs { font-size: 13px; margin: 0 0 8px; color: var(--faint); }
.notice { background: var(--note-soft); border: 1px solid var(--note-edge); color: var(--note); border-radius: 8px;
  padding: 9px 14px; margin: 0 0 16px; }
.figures { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 12px; margin: 0 0 16px; padding: 0; }
.figure { background: var(--panel); border: 1px solid var(--edge); border-radius: 10px; padding: 11px 14px; }
.figure dt { color: var(--faint); font-size: 13px; }
.figure dd { margin: 0; font-size: 21px; font-weight: 600; line-height: 1.35; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.figure small { display: block; color: var(--faint); font-size: 12px; font-weight: 400; min-height: 18px;
  letter-spacing: 0; line-height: 1.5; }
.panels { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; align-items: start; }
.panel { background: var(--panel); border: 1px solid var(--edge); border-radius: 10px; padding: 16px 18px;
  min-width: 0; }
.panel.whole { grid-column: 1 / -1; }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: 0 12px;
  margin-bottom: 10px; }
code, pre { font: 12px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.head code { color: var(--faint); }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--faint); font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "Liberation Sans", sans-serif; }
.grid { stroke: var(--grid); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.aim { fill: transparent; }
g:hover > .aim { fill: var(--text); fill-opacity: .07; }
.hour { fill: var(--sunk); stroke: var(--grid); stroke-width: .5; }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 10px 0 0; padding: 0; list-style: none;
  color: var(--faint); font-size: 12px; }
.legend svg { display: inline-block; margin-right: 6px; }
details.data { margin-top: 10px; font-size: 13px; }
details.data > summary { color: var(--faint); font-size: 12px; }
summary { cursor: pointer; }
.scroll { overflow: auto; max-height: 340px; }
table { width: 100%; border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--faint); font-weight: 500; font-size: 12px; padding: 0 0 5px 14px;
  vertical-align: bottom; white-space: nowrap; }
td, tbody th { text-align: right; padding: 6px 0 6px 14px; border-top: 1px solid var(--grid); white-space: nowrap;
  vertical-align: top; }
tbody th { color: var(--text); font-size: 13px; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; width: 42%; }
tbody th:first-child { white-space: normal; }
.short th:first-child { width: auto; }
.text, td.text { text-align: left; white-space: normal; }
.bar { width: 100%; height: 4px; margin-top: 4px; border-radius: 2px; background: var(--grid); }
.bad { color: var(--bad); }
.sub { display: block; color: var(--faint); font-size: 12px; font-weight: 400; }
.tag { display: inline-block; font-size: 12px; line-height: 18px; padding: 0 7px; border-radius: 9px; font-weight: 500;
  background: var(--soft); color: var(--link); white-space: nowrap; }
.tag.bad { background: var(--bad-soft); color: var(--bad); }
.tag.plain { background: var(--sunk); color: var(--faint); box-shadow: inset 0 0 0 1px var(--edge); }
.none { color: var(--faint); margin: 24px 0; text-align: center; }
.note { color: var(--faint); font-size: 12px; margin: 10px 0 0; }
footer { max-width: 1232px; margin: 0 auto; padding: 14px 24px 28px; color: var(--faint); font-size: 12px; }
.pages { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 14px 0; color: var(--faint); }
.pages a, .pages span.off { border: 1px solid var(--edge); border-radius: 7px; padding: 3px 11px;
  background: var(--panel); }
@media (max-width: 1180px) { .figures { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
@media (max-width: 900px) { .panels { grid-template-columns: minmax(0, 1fr); }
  .figures { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 640px) {
  main, .top div, footer { padding-left: 14px; padding-right: 14px; }
  main { padding-top: 18px; }
  h1 { font-size: 21px; }
  .panel { padding: 13px 14px; }
  .wide { display: none; } .narrow { display: block; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .figure { padding: 9px 11px; } .figure dd { font-size: 18px; }
  th, td, tbody th { padding-left: 9px; }
  th:first-child, td:first-child { width: 100%; }
  .less { display: none; }
}
@media print { body { background: none; } .panel, .figure { break-inside: avoid; } .top, .pages { display: none; } }
"""

_CONVERSATION = """
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 16px; margin: 0 0 18px;
  font-size: 13px; }
.facts dt { color: var(--faint); } .facts dd { margin: 0; }
.links { margin: 0; padding: 0; list-style: none; }
.links li { padding: 1px 0; }
.panel.apart { margin: 0 0 16px; }
.turn { margin: 26px 0 0; }
.turn > h2 { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; padding-bottom: 6px;
  border-bottom: 1px solid var(--edge); }
.turn > h2 span { color: var(--faint); font-weight: 400; font-size: 12px; font-variant-numeric: tabular-nums; }
.turn > h2 span:first-of-type { margin-left: auto; }
.entry { margin: 12px 0 0; padding: 10px 14px 11px; background: var(--panel); border: 1px solid var(--edge);
  border-radius: 10px; min-width: 0; }
.entry.user { background: var(--user); border-color: var(--user-edge); }
.entry.quiet { background: none; border-style: dashed; }
.entry:target, .tool:target { outline: 2px solid var(--link); outline-offset: 2px; }
.entry > header { display: flex; flex-wrap: wrap; gap: 0 10px; align-items: baseline; font-size: 12px;
  color: var(--faint); margin-bottom: 3px; }
.entry > header b { color: var(--text); font-weight: 600; font-size: 13px; }
.entry > header a { margin-left: auto; color: var(--faint); }
.said { white-space: pre-wrap; }
.said + .said, .said + .tool, .tool + .said { margin-top: 9px; }
.tool { border: 1px solid var(--edge); border-radius: 8px; margin-top: 8px; background: var(--sunk); min-width: 0; }
.tool > summary { padding: 5px 11px; font-size: 13px; list-style-position: inside; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.tool > summary b { font-weight: 600; } .tool > summary code { color: var(--faint); }
.tool[open] > summary { border-bottom: 1px solid var(--edge); }
.tool > div { padding: 8px 12px 10px; }
.tool h3 { color: var(--faint); font-size: 12px; font-weight: 500; margin-top: 6px; }
pre { margin: 2px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 480px; overflow-y: auto; }
.branch { margin: 8px 0 0 14px; padding-left: 12px; border-left: 3px solid var(--c4); font-size: 13px; }
.shared { margin-top: 16px; border: 1px dashed var(--edge); border-radius: 10px; padding: 0 14px; }
.shared > summary { padding: 10px 0; color: var(--faint); }
.shared[open] { padding-bottom: 14px; }
@media (max-width: 640px) { .facts { gap: 3px 12px; } .turn > h2 span:first-of-type { margin-left: 0; }
  .entry { padding: 9px 11px 10px; } }
"""


def _compact(css: str) -> str:
    return re.sub(r"\s*\n\s*", " ", re.sub(r"\s*([{};])\s*", r"\1", css)).strip().replace(";}", "}")


def _hash(css: str) -> str:
    """What a Content-Security-Policy calls a style sheet."""
    return f"sha256-{base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()}"


OVERVIEW = _compact(_CSS)
CONVERSATION = OVERVIEW + _compact(_CONVERSATION)
HASHES = {css: _hash(css) for css in (OVERVIEW, CONVERSATION)}
