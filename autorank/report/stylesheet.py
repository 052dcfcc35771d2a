"""The page's style: readable in light and dark, nothing fetched."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfc; --rule: #d9d9d6;
  --soft: #66665f; --card: #f3f3f0; --good: #00704f; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #17181a; --rule: #3a3c40;
  --soft: #a3a39c; --card: #222428; --good: #4fc79f; --bad: #ff9a52; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.headline { font-size: 1.2rem; margin: 1rem 0; padding: .9rem 1.1rem; background: var(--card);
  border-left: 4px solid var(--soft); border-radius: 4px; }
.headline.good { border-color: var(--good); } .headline.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .5rem; border-bottom: 1px solid var(--rule); text-align: right;
  vertical-align: top; }
td { white-space: nowrap; } th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.wide td:last-child, .wide th:last-child { white-space: normal; min-width: 16rem;
  text-align: left; }
tr.changed td { font-weight: 600; } tr.failed td { color: var(--bad); }
figure { margin: 1.2rem 0; } figcaption { color: var(--soft); font-size: .88rem; }
.plot { background: #fff; border: 1px solid var(--rule); border-radius: 4px; padding: .4rem; }
.plot svg { width: 100%; height: auto; display: block; }
.warning { border-left: 4px solid var(--bad); padding: .3rem .9rem; margin: .6rem 0; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--card); padding: .8rem; overflow-x: auto; font-size: .8rem; }
""".strip()
