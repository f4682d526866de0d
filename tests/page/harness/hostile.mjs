// A hundred texts that somebody may send, and that must stay texts.

const SCRIPT = [
  '<script>hacked()</script>',
  '</script><script>hacked()</script>',
  '"><script>hacked()</script>',
  "'><script>hacked()</script>",
  '</title><script>hacked()</script>',
  '</textarea><script>hacked()</script>',
  '</style><script>hacked()</script>',
  '--><script>hacked()</script>',
  ']]><script>hacked()</script>',
  '<ScRiPt>hacked()</sCrIpT>',
  '<script\t>hacked()</script\t>',
  '<scr<script>ipt>hacked()</scr</script>ipt>',
  '<<script>hacked()//<</script>',
  '<script src=/assets/evil.js></script>',
  '<img src=x onerror=hacked()>',
  '"><img src=x onerror=hacked()>',
  "' onmouseover='hacked()' x='",
  '" onfocus="hacked()" autofocus="',
  '" autofocus onfocus=hacked() x="',
  '` onclick=hacked() `',
  '<svg onload=hacked()>',
  '<svg><script>hacked()</script></svg>',
  '<svg><animate onbegin=hacked() attributeName=x dur=1s>',
  '<math><mtext></p><img src=x onerror=hacked()>',
  '<iframe src="javascript:parent.hacked()"></iframe>',
  '<iframe srcdoc="<script>parent.hacked()</script>"></iframe>',
  '<object data="javascript:hacked()"></object>',
  '<embed src="javascript:hacked()">',
  '<body onload=hacked()>',
  '<details open ontoggle=hacked()>',
  '<video><source onerror=hacked()></video>',
  '<input autofocus onfocus=hacked()>',
  '<marquee onstart=hacked()>',
  '<a href="javascript:hacked()">click</a>',
  '<form action="javascript:hacked()"><button>go</button></form>',
  '<meta http-equiv=refresh content="0;url=javascript:hacked()">',
  '<base href="https://evil.example/">',
  '<link rel=stylesheet href="https://evil.example/x.css">',
  '<style>*{display:none}</style>',
  '<div style="position:fixed;inset:0;background:red">',
  '<template shadowrootmode=open><slot></slot></template>',
  '<noscript><p title="</noscript><img src=x onerror=hacked()>">',
  '<xmp><img src=x onerror=hacked()></xmp>',
  '<plaintext>',
  '<!--',
  '<![CDATA[<script>hacked()</script>]]>',
  '<?php hacked() ?>',
  '&lt;script&gt;hacked()&lt;/script&gt;',
  '&#60;script&#62;hacked()&#60;/script&#62;',
  '&amp;&#0;&bogus;&#x1F600',
]
const TEMPLATES = [
  '{{ 7 * 7 }}', '{% raw %}', '{{constructor.constructor("hacked()")()}}', '${hacked()}', '#{hacked()}', '<%= hacked() %>',
  "javascript:hacked()", 'data:text/html,<script>hacked()</script>', 'https://evil.example/"onclick="hacked()', '//evil.example/',
]
const FRAMES = [
  // Line ends within a frame of the stream; where no line ends are taken they are refused.
  'data: <script>hacked()</script>', 'a\ndata: b\n\nevent: reload\ndata: x', 'a\r\n\r\nevent: end\r\ndata: x', 'event: restart\n\n',
  'id: 1\nretry: 1', ': comment', 'a\u2028b\u2029c', 'a\u0085b', '\ufeffa', 'a\u000bb\u000cc',
]
const TERMINAL = [
  '\x1b[31mred\x1b[0m', '\x1b]0;title\x07', '\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\', '\x1b[2J\x1b[H', '\x1b[999999;999999H',
  '\x9b31mC1', '\x1b[38;2;255;0;0mtrue colour', '\x1b[?1049h', 'over\rwritten', 'back\b\b\b\bspace', 'bell\x07', 'a\x00b', '\x1b', '\x1b[',
  '\x1b[31', 'tab\tand\ttab',
]
const DIRECTION = [
  '\u202egnp.exe', '\u2067hidden\u2069', 'abc\u202e)(cba', '\u200e\u200f\u061c', '\u202a\u202b\u202d', 'שלום main', 'مرحبا #1 alice',
]
const SHAPES = [
  '\u0300'.repeat(60) + 'zalgo', 'a' + '\u0489'.repeat(100), '\u{1f468}\u200d\u{1f469}\u200d\u{1f467}\u200d\u{1f466}'.repeat(10),
  '\u200b'.repeat(50), '\ufff9\ufffa\ufffb', '\ud7ff\ue000\uffff', '\u{10ffff}', '   ', '', 'W'.repeat(250), 'word '.repeat(50), '\u2588'.repeat(120),
  'a/b'.repeat(80), '../../../../etc/passwd', '%00%0d%0aSet-Cookie: a=b', '__proto__', 'constructor', 'null', 'undefined', '-1', '1e308', 'NaN',
]

/** More than a hundred. */
export const HOSTILE = [...SCRIPT, ...TEMPLATES, ...FRAMES, ...TERMINAL, ...DIRECTION, ...SHAPES]

/** As long as each field may be. */
export const GIANT = {
  ref: 'r'.repeat(1024), commit: 'c'.repeat(256), message: 'm<b>'.repeat(1024), actor: 'W'.repeat(256),
  url: `https://example.com/${'u'.repeat(2028)}`, line: '<i>'.repeat(20_000), name: 'n'.repeat(128), value: 'v'.repeat(8192),
}
