"""How the report looks."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6875; --line: #dde3e9; --own: #0b63a5;
  --other: #c2570c; --good: #1b7a43; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7f9; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 24px 32px 64px; background: #fff; }
h1 { font-size: 26px; margin: 8px 0 4px; }
h2 { font-size: 19px; margin: 36px 0 10px; border-top: 1px solid var(--line); padding-top: 20px; }
p { max-width: 76ch; }
.lead { font-size: 16px; }
.note, figcaption { color: var(--soft); font-size: 13.5px; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 13.5px; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.i, .none, small { color: var(--soft); }
.small { font-size: 13px; } .small td, .small th { padding-right: 11px; }
.small td:first-child { white-space: nowrap; }
.wide { overflow-x: auto; }
.pass td:first-child { color: var(--good); } .fail td:first-child { color: var(--bad);
  font-weight: 700; }
details { margin: 18px 0; } summary { cursor: pointer; font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
figure { margin: 8px 0; max-width: 100%; } figcaption { max-width: 460px; }
svg { max-width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--ink); }
.grid { stroke: var(--line); } .zero { stroke: var(--soft); stroke-dasharray: 3 3; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: var(--own); }
polyline.other { stroke: var(--other); stroke-dasharray: 6 4; }
polyline.guide { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
.band { fill: var(--own); opacity: 0.14; }
svg .key { font-weight: 600; } svg .key.own { fill: var(--own); }
svg .key.other { fill: var(--other); } svg .key.guide { fill: var(--soft); font-weight: 400; }
.span { stroke: var(--own); stroke-width: 2; } .dot { fill: var(--own); }
.hollow { fill: #fff; stroke: var(--other); stroke-width: 2; }
svg .number { font-variant-numeric: tabular-nums; } svg .none { fill: var(--soft); }
.picture { width: 270px; } .picture svg { display: block; width: 100%; background: #000; }
rect { fill: none; pointer-events: all; } rect.label { stroke: #35d0c4; }
rect.mark { stroke: #ffb020; stroke-dasharray: 2.5% 1.5%; }
@media (max-width: 700px) { main { padding: 16px 14px 40px; }
  table { display: block; overflow-x: auto; } }
.note .label { color: #0a8178; font-weight: 600; } .note .mark { color: #a86400; font-weight: 600; }
"""
