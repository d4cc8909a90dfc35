"""The page's style. Colours also differ in lightness, so they can be told apart without their hue."""

CSS = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --panel: #fff; --text: #1c2126; --faint: #5d6771; --grid: #e3e7eb; --edge: #dde2e7; --track: #e9edf1;
  --c0: #2563b0; --c1: #e08214; --c2: #1a9872; --c3: #b2457e; --c4: #7a6bd0; --c5: #8a6d3b; --c6: #38a3c7;
  --other: #9aa4ae; --good: #1a9872; --warn: #c2570c; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --panel: #1c2024; --text: #e7eaed; --faint: #9aa5af; --grid: #2c3238; --edge: #2b3137;
  --track: #2b3137;
  --c0: #6aa5ee; --c1: #f2a54a; --c2: #45c79d; --c3: #e07fb3; --c4: #a99cf0; --c5: #c7a46a; --c6: #70cbe6;
  --other: #77828c; --good: #45c79d; --warn: #f2a54a; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 24px; background: var(--page); color: var(--text);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1232px; margin: 0 auto; }
h1 { font-size: 22px; margin: 0; }
h2 { font-size: 15px; margin: 0; }
.when { color: var(--faint); margin: 2px 0 20px; overflow-wrap: anywhere; }
/* Twelve figures: each number of columns here divides them, so that no place stays empty. */
.figures { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 12px; margin-bottom: 16px; }
.figure { background: var(--panel); border: 1px solid var(--edge); border-radius: 8px; padding: 10px 12px; }
.figure b { display: block; font-size: 20px; font-weight: 600; line-height: 1.3; }
.figure span, .figure small { display: block; color: var(--faint); }
.figure small { font-size: 12px; min-height: 18px; }
.panels { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
.panel { background: var(--panel); border: 1px solid var(--edge); border-radius: 8px; padding: 14px 16px;
  min-width: 0; }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; margin-bottom: 8px; }
code { color: var(--faint); font: 12px/1.7 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--faint); font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.grid { stroke: var(--grid); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.aim { fill: transparent; }
g:hover > .aim { fill: var(--text); fill-opacity: .07; }
.hour { fill: var(--track); }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 8px 0 0; padding: 0; list-style: none;
  color: var(--faint); font-size: 12px; }
.legend li { overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
table { width: 100%; border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--faint); font-weight: 500; font-size: 12px; padding: 0 0 4px 10px; }
td { text-align: right; padding: 3px 0 3px 10px; border-top: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; width: 45%; }
td:first-child { white-space: normal; overflow-wrap: anywhere; }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--track); margin-top: 2px; }
.bar i { display: block; height: 4px; border-radius: 2px; background: var(--c0); }
.none { color: var(--faint); margin: 24px 0; text-align: center; }
.note { color: var(--faint); font-size: 12px; margin: 8px 0 0; }
footer { color: var(--faint); font-size: 12px; margin-top: 20px; }
@media (max-width: 1180px) { .figures { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
@media (max-width: 900px) { .panels { grid-template-columns: minmax(0, 1fr); }
  .figures { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 640px) {
  body { padding: 16px 12px; }
  .panel { padding: 12px; }
  .wide { display: none; } .narrow { display: block; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .figure b { font-size: 18px; }
  .less { display: none; }
}
@media print { body { background: none; padding: 0; } .panel, .figure { break-inside: avoid; } }
"""
