/*
 * The look of the report. Colours are variables, so that light (which is also what is printed) and dark are
 * two lists and nothing else; every text has a contrast of at least 4.5 to what it stands on in both. Sources
 * differ by shape as well as by colour (blue, orange, grey: told apart with any colour vision), and the two
 * ramps (b: bits, blue; e: errors, brown) by lightness. Strings of C are limited to 4095 bytes, so it comes
 * in parts.
 */
#include "report_parts.h"

static const char colours[] =
    ":root{color-scheme:light dark;--bg:#f6f6f4;--panel:#fff;--ink:#191c20;--muted:#575f69;--line:#dcdee2;"
    "--soft:#eef3f9;--kvant:#0b5cad;--kvtuner:#b04f0a;--uniform:#666d77;--bad:#a3261c;--grid:#e6e8eb;"
    "--b0:#eef4fa;--b1:#d9e7f4;--b2:#c0d8ec;--b3:#9ecae1;--b4:#74b2d8;--b5:#4f9bcb;--b6:#2171b5;--b7:#08519c;"
    "--b8:#08306b;--e0:#fff9e3;--e1:#fff0bd;--e2:#fee08f;--e3:#fec65a;--e4:#fba63c;--e5:#ef8a3a;--e6:#c4510a;"
    "--e7:#933404;--e8:#5f2205;--tl:#191c20;--tm:#191c20;--th:#fff}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--bg:#121518;--panel:#1a1e22;--ink:#e7eaed;--muted:#a5aeb9;"
    "--line:#30363d;--soft:#1c2a3a;--kvant:#74b9ff;--kvtuner:#ffad66;--uniform:#a3abb5;--bad:#ff9a8f;"
    "--grid:#292f35;--b0:#1b2836;--b1:#1e3348;--b2:#21435f;--b3:#275678;--b4:#306a93;--b5:#4a8fbf;--b6:#67a9d6;"
    "--b7:#92c6e8;--b8:#cfe7f8;--e0:#282217;--e1:#3c2c15;--e2:#573a13;--e3:#744911;--e4:#935710;--e5:#cf8427;"
    "--e6:#e89e46;--e7:#f7c079;--e8:#fee6c2;--tl:#e7eaed;--tm:#0f1215;--th:#0f1215}}\n";

static const char text[] =
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
    "body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Helvetica Neue','Noto Sans','Liberation Sans',Arial,sans-serif}\n"
    "main,header,footer{max-width:1080px;margin:0 auto;padding:0 20px}\n"
    "header{padding-top:36px}h1{font-size:32px;line-height:1.2;letter-spacing:-.015em;margin:4px 0 2px;"
    "overflow-wrap:anywhere}\n"
    "h2{font-size:20px;line-height:1.3;letter-spacing:-.01em;margin:0 0 4px}h3{font-size:15px;margin:22px 0 6px}\n"
    "p{margin:0 0 12px;max-width:70ch}.kicker,.by,.note,figcaption,footer{color:var(--muted);font-size:14px}\n"
    ".kicker{margin:0;letter-spacing:.04em}.by{margin:0 0 20px}\n"
    ".lead{font-size:19px;line-height:1.5;max-width:62ch;margin:0 0 20px}.lead b{font-weight:650}\n"
    "section{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:22px 24px;"
    "margin:0 0 18px}\n"
    "code,pre,.mono{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace}\n"
    "pre{background:var(--bg);border:1px solid var(--line);border-radius:6px;padding:10px 12px;margin:6px 0 0;"
    "white-space:pre-wrap;overflow-wrap:anywhere}code{overflow-wrap:anywhere}\n"
    "nav{margin:0 0 18px;font-size:14px}nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0;"
    "padding:0}\n"
    "a{color:var(--kvant);text-decoration-thickness:1px;text-underline-offset:3px}nav a{text-decoration:none}"
    "nav a:hover{text-decoration:underline}\n"
    ":focus-visible{outline:3px solid var(--kvant);outline-offset:2px;border-radius:3px}\n"
    "footer{padding-top:4px;padding-bottom:40px}figure{margin:14px 0 0}figcaption{margin:6px 0 0}figcaption,.note{max-width:92ch}\n"
    "details{margin:14px 0 0}summary{cursor:pointer;color:var(--muted);font-size:14px}\n"
    ".warn{border-left:4px solid var(--bad);padding:8px 14px;margin:0 0 18px;background:var(--panel)}"
    ".warn b{color:var(--bad)}\n";

static const char parts[] =
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(168px,1fr));gap:1px;background:var(--line);"
    "border:1px solid var(--line);border-radius:10px;overflow:hidden;margin:0 0 20px}\n"
    ".tiles div{background:var(--panel);padding:14px 18px 16px}.tiles dt,.facts dt{color:var(--muted);"
    "font-size:13px}.tiles dd,.facts dd{margin:0;font-variant-numeric:tabular-nums}\n"
    ".tiles .big{font-size:28px;line-height:1.25;font-weight:640;letter-spacing:-.02em;white-space:nowrap}"
    ".tiles .unit{font-size:15px;font-weight:500;letter-spacing:0;color:var(--muted)}.tiles .sub{font-size:13px;"
    "color:var(--muted)}\n"
    ".facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:12px 24px;margin:14px 0 4px}"
    ".facts div{min-width:0}.facts dd{overflow-wrap:anywhere}\n"
    ".scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}\n"
    "table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums lining-nums;margin:12px 0 0;"
    "width:100%}\n"
    "th,td{padding:6px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\n"
    "th{font-weight:550;color:var(--muted);vertical-align:bottom}tbody th{color:var(--ink);font-weight:450}\n"
    "tbody th,.left{text-align:left}th[scope=colgroup]{text-align:center}tbody tr:last-child>*{border-bottom:0}\n"
    "tr.dominated td,tr.dominated th{color:var(--muted)}tr.chosen>*{background:var(--soft);font-weight:620;"
    "color:var(--ink)}tr.chosen>:first-child{box-shadow:inset 3px 0 var(--kvant)}\n"
    "tr:target>*{outline:2px solid var(--kvant);outline-offset:-2px}\n"
    ".plan{display:inline-block;max-width:34ch;overflow:hidden;text-overflow:ellipsis;vertical-align:bottom}\n"
    ".tag{display:inline-block;border:1px solid currentColor;border-radius:4px;padding:0 6px;font-size:12px;"
    "line-height:18px;margin-left:8px}.tag.alone{margin:0}.together{white-space:nowrap}.note.below{margin-top:10px}.tag.bad{color:var(--bad)}.tag.ok{color:var(--kvant)}\n"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:6px 32px}\n"
    ".key{display:flex;flex-wrap:wrap;gap:4px 20px;align-items:center;font-size:13px;color:var(--muted);"
    "margin:10px 0 0;padding:0;list-style:none}.key svg{width:16px;height:16px;vertical-align:-3px;"
    "margin-right:5px}.key svg.ramp{width:216px;height:30px;margin:0}\n";

static const char plots[] =
    "svg{display:block;width:100%;height:auto;overflow:visible}svg text{font-family:inherit;fill:var(--muted);"
    "font-variant-numeric:tabular-nums}\n"
    ".narrow{display:none}.map{min-width:640px}.key svg,td svg,th svg{display:inline-block}\n"
    "td svg,th svg{width:13px;height:13px;margin-right:7px;vertical-align:-1px}\n"
    ".s10{font-size:10px}.s11{font-size:11px}.s12{font-size:12px}.s13{font-size:13px}.ink{fill:var(--ink)!important}"
    ".strong{font-weight:620;fill:var(--ink)!important}\n"
    ".grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--muted);stroke-width:1}\n"
    ".front{fill:none;stroke-width:2;stroke-linejoin:round;opacity:.75}\n"
    ".kvant{--c:var(--kvant)}.kvtuner{--c:var(--kvtuner)}.uniform{--c:var(--uniform)}\n"
    ".kvant .mark,.kvtuner .mark{fill:var(--c);stroke:var(--panel);stroke-width:1.5}"
    ".front.uniform{stroke-width:1.25}.halo{paint-order:stroke;stroke:var(--panel);stroke-width:4px;"
    "stroke-linejoin:round}.uniform .mark{fill:var(--panel);stroke:var(--c);stroke-width:2}.front{stroke:var(--c)}\n"
    ".dominated .mark{opacity:.45}.ring{fill:none;stroke:var(--ink);stroke-width:2}\n"
    "a:hover .mark{stroke:var(--ink)}a:focus-visible{outline:none}a:focus-visible .mark{stroke:var(--ink);"
    "stroke-width:3}\n"
    ".bar{fill:var(--kvant)}.bar.base{fill:var(--uniform)}.dot{fill:var(--kvant);opacity:.65}"
    ".mean{stroke:var(--ink);stroke-width:2}.flag{fill:var(--kvtuner)!important}\n"
    ".none{fill:none;stroke:var(--line)}.phase{stroke:var(--panel);stroke-width:1}\n"
    ".b0{fill:var(--b0)}.b1{fill:var(--b1)}.b2{fill:var(--b2)}.b3{fill:var(--b3)}.b4{fill:var(--b4)}"
    ".b5{fill:var(--b5)}.b6{fill:var(--b6)}.b7{fill:var(--b7)}.b8{fill:var(--b8)}\n"
    ".e0{fill:var(--e0)}.e1{fill:var(--e1)}.e2{fill:var(--e2)}.e3{fill:var(--e3)}.e4{fill:var(--e4)}"
    ".e5{fill:var(--e5)}.e6{fill:var(--e6)}.e7{fill:var(--e7)}.e8{fill:var(--e8)}\n"
    "svg .tl{fill:var(--tl)}svg .tm{fill:var(--tm)}svg .th{fill:var(--th)}\n";

static const char media[] =
    "@media (max-width:640px){header{padding-top:22px}main,header,footer{padding-left:14px;padding-right:14px}"
    "section{padding:18px 14px;margin-bottom:14px}h1{font-size:25px}.lead{font-size:17px}.tiles{"
    "grid-template-columns:1fr 1fr}.tiles div{padding:11px 13px 12px}.tiles .big{font-size:22px}.wide{display:none}"
    ".tiles div:last-child:nth-child(odd){grid-column:1/-1}.map{min-width:880px}.narrow{display:block}.pair{grid-template-columns:1fr}th,td{padding:6px 8px}}\n"
    "@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}\n"
    "@media print{body{font-size:11pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}nav{display:none}"
    "section{border:0;padding:0;margin:0 0 22pt}figure,tr,.tiles,.facts{break-inside:avoid}h2,h3{break-after:avoid}"
    ".scroll{overflow:visible}.map{min-width:0}table{font-size:8.5pt}th,td{padding:3px 5px}}\n";

const char *const report_style[] = {colours, text, parts, plots, media, NULL};
