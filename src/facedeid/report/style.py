"""The page's style sheet: light and dark, from 400 px up, quick with thousands of cards."""

from facedeid.report.markup import Markup

__all__ = ["STYLE"]

STYLE = Markup("""
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1b1f27;--soft:#5b6472;
--line:#dfe3e9;--good:#17734a;--good-bg:#e2f4ea;--bad:#b3261e;--bad-bg:#fce8e6;--warn:#8a5300;
--warn-bg:#fdf0d9;--calm:#44546a;--calm-bg:#e8edf3;--track:#e9ecf0}
@media(prefers-color-scheme:dark){:root{--page:#12151b;--card:#1b2029;--ink:#e7eaf0;--soft:#9aa5b5;
--line:#303846;--good:#6fd3a0;--good-bg:#153426;--bad:#ff9b91;--bad-bg:#471c1a;--warn:#f3bf6b;
--warn-bg:#3d2d10;--calm:#b4c2d4;--calm-bg:#29323f;--track:#2c3441}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:1280px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:24px;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:36px 0 12px}
h3{font-size:15px;margin:0}p{margin:6px 0}.soft{color:var(--soft)}
.top p{color:var(--soft);margin:2px 0 0}.name{font-weight:600}
code{font:13px/1.4 ui-monospace,"Cascadia Mono",Menlo,Consolas,monospace}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;
margin:10px 0}
.tile{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--calm);
border-radius:8px;padding:8px 12px}
.tile b{display:block;font-size:24px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.tile.good{border-left-color:var(--good)}.tile.bad{border-left-color:var(--bad)}
.tile.warn{border-left-color:var(--warn)}
.note{border-radius:8px;padding:12px 16px;margin:12px 0;background:var(--calm-bg);
border-left:5px solid var(--calm)}
.note.bad{background:var(--bad-bg);border-color:var(--bad)}.note.bad h3{color:var(--bad)}
.note.warn{background:var(--warn-bg);border-color:var(--warn)}.note.warn h3{color:var(--warn)}
.note.good{background:var(--good-bg);border-color:var(--good)}.note.good h3{color:var(--good)}
.note details{margin-top:8px}.note summary{cursor:pointer;font-weight:600}
.note ul{margin:8px 0 0;padding:0 0 0 18px;max-height:320px;overflow:auto}
.note li{margin:2px 0}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);
border-radius:8px;font-size:14px}
td,th{padding:6px 12px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{border-top:0;overflow-wrap:normal;color:var(--soft);font-weight:500}
tbody th{font-weight:500}.number{text-align:right;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}.wide .number{text-align:left;white-space:nowrap}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:20px;align-items:start}
.pair h2{margin-top:20px}
.share{display:block;height:8px;border-radius:4px;background:var(--calm);min-width:2px}
.share-cell{width:40%;vertical-align:middle}
.bar-row{display:flex;gap:18px;align-items:center;flex-wrap:wrap;font-size:13px;
color:var(--soft);margin:0 0 12px}
.filter label{cursor:pointer;padding:3px 10px;border:1px solid var(--line);border-radius:99px;
background:var(--card);color:var(--ink);margin-right:6px;display:inline-block}
.filter input{position:absolute;opacity:0}.filter label:has(:checked){background:var(--ink);
color:var(--page);border-color:var(--ink)}
.filter label:has(:focus-visible){outline:2px solid var(--calm);outline-offset:2px}
body:has(#show-open:checked) .photo.fine,body:has(#show-fine:checked) .photo.open{display:none}
.heat{display:inline-flex;vertical-align:middle;border-radius:3px;overflow:hidden}
.heat i{width:16px;height:12px;display:block}
.photos{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,370px),1fr));gap:14px;
grid-auto-flow:dense}
.photo{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px;
content-visibility:auto;contain-intrinsic-size:auto 270px;min-width:0}
.photo.open{border-color:var(--bad)}
.photo.several{grid-column:1/-1}
.photo>header{display:flex;gap:4px 10px;align-items:baseline;flex-wrap:wrap;margin-bottom:8px}
.photo>header .soft{font-size:13px}
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));
gap:14px 24px}
.face{min-width:0}.face+.face{border-top:0}
.shots{display:flex;gap:8px;margin:6px 0}
.shots figure{margin:0;flex:0 1 112px;min-width:0}
.shots img,.hidden{width:100%;aspect-ratio:1;border-radius:6px;display:block;
background:var(--track)}
.hidden{display:grid;place-items:center;text-align:center;font-size:12px;line-height:1.3;
color:var(--soft);padding:8px;border:1px dashed var(--line);overflow-wrap:normal}
.map{image-rendering:pixelated}
figcaption{font-size:12px;color:var(--soft);margin-top:2px}
.badge{display:inline-block;border-radius:99px;padding:1px 9px;font-size:12.5px;font-weight:600;
background:var(--calm-bg);color:var(--calm);white-space:nowrap}
.badge.good{background:var(--good-bg);color:var(--good)}
.badge.bad{background:var(--bad-bg);color:var(--bad)}
.badge.warn{background:var(--warn-bg);color:var(--warn)}
.badges{display:flex;gap:4px 6px;flex-wrap:wrap;align-items:center}
.matches{border:0;border-radius:0;background:none;font-size:12.5px;line-height:1.35;margin-top:6px}
.matches td,.matches th{padding:2px 8px 2px 0;border:0;vertical-align:middle}
.matches thead th{font-size:11.5px}.matches .bars{width:40%}
.matches .number,.matches thead th{white-space:nowrap;overflow-wrap:normal}
.matches tbody th{min-width:84px;overflow-wrap:break-word}.matches .bars{min-width:70px}
.matches td:last-child,.matches th:last-child{padding-right:0}
.matched{color:var(--bad);font-weight:700}
.void{color:var(--soft)}.matches .void td[colspan]{padding-top:0;font-size:11.5px}
.bar{display:block;position:relative;height:5px;border-radius:3px;background:var(--track);
margin:2px 0;overflow:hidden}
.bar i{position:absolute;inset:0 auto 0 0;width:var(--d);background:var(--good);border-radius:3px}
.bar.match i{background:var(--bad)}
.void .bar i{background:repeating-linear-gradient(90deg,var(--soft) 0 3px,transparent 3px 5px)}
.tracks{display:block;position:relative;padding:2px 0}
.tracks::after{content:"";position:absolute;left:50%;top:0;bottom:0;width:2px;margin-left:-1px;
background:var(--ink)}
.facts{margin:6px 0 0;font-size:12.5px;color:var(--soft)}
.facts code{font-size:12px}
footer{margin-top:40px;font-size:13px;color:var(--soft)}
@media(max-width:640px){main{padding:16px 12px 40px}.pair{grid-template-columns:minmax(0,1fr);gap:0}
td,th{padding:5px 8px}.tiles{grid-template-columns:repeat(2,1fr)}}
@media print{.filter{display:none}.photo{content-visibility:visible;break-inside:avoid}}
""")
