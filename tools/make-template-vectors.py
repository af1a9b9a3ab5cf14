#!/usr/bin/env python3
"""Writes tests/data/templates/vectors.json: what Jinja makes of chat templates, small pieces and errors.

    tools/make-template-vectors.py        (needs the PyPI package jinja2; values made with 3.1.6)

Rendering is that of the transformers library: trim_blocks, lstrip_blocks, loop controls, {% generation %}, a tojson
that leaves text as it is, raise_exception and strftime_now (here: of a fixed time, in UTC).

  "sources"    NAME.jinja beside the file, by name
  "cases"      {template, variables, expected}: a source rendered, or {..., error}: an error, and words of its message
  "pieces"     {source, variables, expected}: one thing of the language each
  "refused"    {source, words}: what kvant does not build in; the words its error must name (no values of Jinja)
"""
import datetime
import json
import os

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data", "templates")
NOW = 1785585600  # 2026-08-01 12:00:00 UTC


class Generation(Extension):
    """The tag of templates that mark what the assistant wrote; its body is rendered as it is."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def strftime_now(pattern):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(pattern)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a <place>, today & tomorrow",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "  such as \"Zürich\" "},
        "days": {"type": "integer", "minimum": 1, "default": 2.5}}, "required": ["place"]}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Time\nof day", "parameters": {
    "type": "object", "properties": {}}}}


def call(name, arguments, call_id="abcdefghi"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = [
    [user("Hello!")],
    [system("You answer in one word."), user("What is the capital of France?")],
    [user("1 + 1?"), assistant("2"), user("And 2 + 2?\n\nShow the steps.")],
    [system("  blanks around  "), user("  spaces  "), assistant("\ta tab\n"),
     user("żółć 日本語 🦙 {{ x }} <b> & 'q' \"d\"")],
    [user("")],
    [system(""), user("\u00a0\u2003wide blanks\u3000"), assistant("")],
    [assistant("I begin.")],
    [user("one"), user("two")],
    [user("Think."), assistant("<think>\nfirst this\nthen that\n</think>\n\nDone."), user("More?"),
     assistant("Yes.", reasoning_content="hmm\n")],
    [user("Weather?"), assistant(None, tool_calls=[call("get_weather", {"place": "Zürich", "days": 3})]),
     {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "abcdefghi", "name": "get_weather"},
     assistant("21.5 degrees."), user("Thanks")],
    [user("Two things"), assistant("Sure.",
                                   tool_calls=[call("get_weather", {"place": "A", "n": [1, 2.0, None, True]}),
                                                        call("clock", {}, "123456789")]),
     {"role": "tool", "content": "rain", "tool_call_id": "abcdefghi"},
     {"role": "tool", "content": "noon", "tool_call_id": "123456789"}],
    [user("Weather?"), assistant("", tool_calls=[call("get_weather", "{\"place\": \"B\"}", "short")])],
    [system("s"), user([{"type": "text", "text": " part one "}, {"type": "image"},
                        {"type": "text", "text": "two"}])],
    [user("a"), {"role": "skip", "content": "b"}, assistant("c"), {"role": "stop", "content": "d"},
     user("e")],
    [],
    [user("long " * 20), assistant("answer " * 20), user("end")],
]

# (name, variables beside the conversation)
SETTINGS = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": [WEATHER, CLOCK]},
    {"add_generation_prompt": True, "enable_thinking": False},
    {"add_generation_prompt": True, "tools": [CLOCK], "tools_in_user_message": False,
     "controls": {"b": 1, "a": "ü"},
     "date_string": "1 Jan 2030", "builtin_tools": ["code_interpreter", "get_weather"]},
]

V = {"x": "text", "n": 7, "f": 2.5, "t": True, "none": None, "list": [3, 1, 2], "empty": [],
     "words": ["b", "A", "c", "a"], "d": {"b": 1, "a": {"k": ["v", "w"]}, "items": 5},
     "people": [{"name": "Ann", "age": 3, "tags": ["x"]}, {"name": "bob", "age": 1, "tags": []},
                {"name": "Cy"}],
     "uni": "Zürich 日本 🦙", "s": "  a b  c ", "lines": "one\ntwo\n\nfour", "big": 1e22, "small": 1e-7,
     "neg": -7}

PIECES = r"""
{{ x }}|{{ n }}|{{ f }}|{{ t }}|{{ none }}|{{ list }}|{{ d.a }}|{{ undefined_thing }}|{{ big }}|{{ small }}|{{ 1.0 }}|{{ 0.1 + 0.2 }}
{{ 'a' 'b' "c" }}{{ "\n\t\\\"\x41\u00e9\101" }}{{ '\q' }}
{{ 1 + 2 * 3 ** 2 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }}
{{ -n }} {{ +n }} {{ -f|abs }} {{ --n }} {{ 1_000 }} {{ 0x1f }} {{ 1e3 }} {{ 1.5e-3 }} {{ 0b101 }}
{{ 'a' ~ 1 ~ none ~ true ~ 2.0 }} {{ 'ab' * 3 }} {{ [1] * 2 + [3] }} {{ (1, 2) + (3,) }} {{ () }} {{ (1,) }}
{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 1 }} {{ none == none }}
{{ 'a' in 'cat' }} {{ 'z' not in 'cat' }} {{ 2 in list }} {{ 'b' in d }} {{ 'b' not in d }} {{ 1 in undefined_thing }} {{ not 1 in list }}
{{ n and x }} {{ 0 or 'y' }} {{ not '' }} {{ not not list }} {{ '' or empty or none }} {{ 1 and 0 or 2 }}
{{ 'yes' if n > 3 else 'no' }} {{ 'yes' if n > 30 }} {{ 'a' if 0 else 'b' if 0 else 'c' }} {{ ('x' if t) ~ '!' }}
{{ x[0] }} {{ x[-1] }} {{ x[1:] }} {{ x[:-1] }} {{ x[::-1] }} {{ uni[1:4] }} {{ uni[-1] }} {{ list[1:][0] }} {{ list[::2] }} {{ list[5:] }} {{ x[10] }}
{{ list[-2:] }} {{ list[2:0:-1] }} {{ list[:] }} {{ x[1:100] }} {{ list[none:2] }} {{ (1,2,3)[1:] }} {{ list.0 }} {{ people.0.name }}
{{ d.a.k[1] }} {{ d['a']['k'] }} {{ d.missing }} {{ d['missing'] }} {{ people[0]['tags'][0] }} {{ d['items'] }} {{ n.foo }} {{ none.foo }}
{% for a in list %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }}/{{ loop.depth }};{% endfor %}
{% for a in empty %}x{% else %}nothing{% endfor %}{% for a in list if a > 1 %}{{ a }}{{ loop.length }}{% else %}none{% endfor %}{% for a in list if a > 9 %}x{% else %}none{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'äb' %}[{{ c }}]{% endfor %}{% for a, (b) in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}
{% for a in range(5) %}{% if a == 1 %}{% continue %}{% endif %}{% if a == 3 %}{% break %}{% endif %}{{ a }}{% endfor %} {{ range(2, 8, 3) | list }} {{ range(3, 0, -1) | list }}
{% for a in list %}{{ loop.cycle('odd', 'even') }}{{ loop.changed(a > 1) }} {% endfor %}
{% set y = 1 %}{% for a in list %}{% set y = y + a %}{{ y }} {% endfor %}{{ y }}
{% set ns = namespace(n=0, found=false) %}{% for a in list %}{% set ns.n = ns.n + a %}{% if a == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }} {{ ns.found }} {{ ns.nope is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set (p, q) = [5, 6] %}{{ p + q }}
{% set block %}inner {{ x }}{% endset %}[{{ block }}]{% set shout | upper | trim %}  quiet {% endset %}[{{ shout }}]
{% macro greet(name, greeting='Hi', mark="!") %}{{ greeting }} {{ name }}{{ mark }}{% endmacro %}{{ greet('A') }} {{ greet('B', 'Yo') }} {{ greet(name='C', mark='?') }} {{ greet() }}
{% macro outer(items) %}{% for i in items %}{{ inner(i) }}{% endfor %}{% endmacro %}{% macro inner(i) %}<{{ i }}>{% endmacro %}{{ outer(list) }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}bold {{ x }}{% endcall %}
{% macro each(items) %}{% for i in items %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% call(v, k) each(list) %}{{ k }}:{{ v }} {% endcall %}
{% macro fact(n) %}{{ 1 if n <= 1 else n * (fact(n - 1) | int) }}{% endmacro %}{{ fact(6) }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set x = 'in' %}{{ x }}{% endwith %}{{ x }}{{ a is defined }}
{% filter upper %}abc {{ x }}{% endfilter %} {% filter replace('a', 'b') | upper %}aaa{% endfilter %}
{% if n > 9 %}a{% elif n > 6 %}b{% else %}c{% endif %}{% if not n %}x{% elif none %}y{% endif %}{% if undefined_thing %}z{% endif %}
{# comment #}a{#- b -#} c {% raw %}{{ x }} {% if %}{% endraw %} d
{%- if true -%}  tight  {%- endif -%}  end
   {%+ if true %}kept{% endif +%}
  {{ x }}   {{- n -}}   {{ f }}
{{ '{{' }} {{ "%}" }} { % } {{ {'a': {'b': 1}}['a'] }} {{ {} }} {{ {'k': [1, {'z': none}]} }}
{{ s | trim }}|{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy' | trim('xy') }}|{{ 'äaä'.strip('ä') }}
{{ x | upper }} {{ 'ABC' | lower }} {{ 'hello wORLD-foo it\'s' | title }} {{ "hello wORLD it's".title() }} {{ 'hELLO' | capitalize }} {{ 'straße ÄÖ éÉ Ωψ жЖ' | upper }} {{ 'ÄÖÜ ÉΩЖ' | lower }}
{{ s.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a b c'.split(none, 1) }} {{ 'a</t>b'.split('</t>')[-1] }}
{{ lines.splitlines() }} {{ 'a\r\nb\rc'.splitlines() }} {{ 'key=val'.partition('=') }} {{ 'key'.partition('=') }}
{{ x.replace('t', 'T') }} {{ x.replace('t', 'T', 1) }} {{ x | replace('e', '') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }} {{ 'x1y' | replace(1, 2) }}
{{ x.startswith('te') }} {{ x.endswith('xt') }} {{ x.startswith(('a', 't')) }} {{ x.find('x') }} {{ x.find('q') }} {{ uni.find('日') }} {{ 'abcabc'.rfind('b') }} {{ 'aXbXc'.count('X') }} {{ 'abc'.index('c') }}
{{ '12'.isdigit() }} {{ 'a1'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }}
{{ ', '.join(['a', 'b']) }} {{ words | join(', ') }} {{ list | join }} {{ people | join(', ', attribute='name') }} {{ [1, none, 'a'] | join('-') }}
{{ list | length }} {{ uni | length }} {{ d | count }} {{ undefined_thing | length }} {{ list | first }} {{ list | last }} {{ empty | first }} {{ x | first }} {{ d | first }}
{{ undefined_thing | default('dd') }} {{ '' | default('dd') }} {{ '' | default('dd', true) }} {{ none | d('q', boolean=true) }} {{ undefined_thing | default }} {{ d.zz | default(n) }}
{{ list | sort }} {{ list | sort(reverse=true) }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ people | sort(attribute='name') | map(attribute='name') | join(' ') }} {{ d | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(false, 'value') }}
{{ words | unique | list }} {{ [1, 1, 2] | unique | list }} {{ list | reverse | list }} {{ x | reverse }} {{ list | min }} {{ list | max }} {{ words | max }} {{ list | sum }} {{ people[:2] | sum(attribute='age') }} {{ list | sum(start=10) }}
{{ people | map(attribute='name') | list }} {{ words | map('upper') | join }} {{ people | map(attribute='age', default=0) | list }} {{ people[:1] | map(attribute='tags.0') | list }} {{ ['a', 'b'] | map('replace', 'a', 'z') | list }}
{{ list | select('odd') | list }} {{ list | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ list | select('gt', 1) | list }} {{ people | selectattr('age') | map(attribute='name') | list }} {{ people | selectattr('age', 'equalto', 1) | map(attribute='name') | list }} {{ people | rejectattr('age', 'defined') | map(attribute='name') | list }} {{ people | selectattr('name', 'in', ['Ann', 'Cy']) | list | length }}
{{ '12' | int }} {{ ' 12 ' | int }} {{ '12.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 2.9 | int }} {{ '1f' | int(base=16) }} {{ none | int }} {{ '2.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ t | int }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.567 | round(1, 'floor') }} {{ 2.1 | round(0, 'ceil') }} {{ -3 | abs }} {{ 42.0 | round | int }} {{ 7 | round }}
{{ n | string }} {{ f | string | length }} {{ x | list }} {{ d | list }} {{ (1, 2) | list }} {{ 'a b_c d1' | wordcount }} {{ x | safe }}
{{ lines | indent }}|{{ lines | indent(2, true) }}|{{ lines | indent(2, blank=true) }}|{{ lines | indent('> ') }}|{{ '' | indent }}
{{ d | tojson }} {{ uni | tojson }} {{ uni | tojson(ensure_ascii=true) }} {{ [1, 2.0, none, true, 'q"\\\n\t'] | tojson }} {{ {'b': 1, 'a': [1, {}]} | tojson(indent=2) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }} {{ [] | tojson(indent=4) }} {{ {1: 'x', none: 2} | tojson }} {{ '<a href="x">&\'' | tojson }} {{ '\x7f\x1f' | tojson }} {{ '\x7f' | tojson(ensure_ascii=true) }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ '%s is %d %%' | format('a', 3) }} {{ '%s-%s' % (1, 'b') }} {{ '%s' % x }}
{{ n is number }} {{ x is string }} {{ f is float }} {{ n is integer }} {{ t is integer }} {{ t is boolean }} {{ t is number }} {{ d is mapping }} {{ list is mapping }} {{ list is iterable }} {{ x is iterable }} {{ n is iterable }} {{ x is sequence }} {{ none is none }} {{ n is not none }} {{ x is defined }} {{ zz is defined }} {{ zz is undefined }} {{ zz is not defined }} {{ range is callable }} {{ t is true }} {{ n is true }} {{ none is false }} {{ zz is iterable }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby(3) }} {{ 9 is divisibleby 3 }} {{ n is eq 7 }} {{ n is equalto(7) }} {{ n is in list }} {{ n is gt 3 and x is string }} {{ n is ne 3 }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ 1 is sameas 1 }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ not n is odd }} {{ n is not odd }}
{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 'e') }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.items() | list }} {{ {'a': 1}.items() | list }} {{ d | items | list }} {{ undefined_thing | items | list }} {{ dict(a=1, b='c') }} {{ dict({'z': 1}, a=2) }}
{{ strftime_now('%Y-%m-%d %H:%M') }} {{ strftime_now("%d %b %Y") }} {{ strftime_now is defined }} {{ raise_exception is defined }}
{{ [x, "it's", 'both \' "', 'nl\n', 'é', '\x00\x85', '\u200b'] }} {{ [1.0, 1e16, 1e15, 1.5e300, 0.0001, 0.00001, -0.0, 123456789.123] }}
{% generation %}{{ x }}{% set inside = 1 %}{% endgeneration %}{{ inside is defined }}
{{ (1 + 2) * 3 }} {{ [1, 2,] }} {{ {'a': 1,} }} {{ (x)[0] }} {{ 'abc'[1] }} {{ [1, 2][0] }} {{ x.upper().lower()[0] }} {{ (x | upper)[0] }} {{ x | upper ~ '!' }} {{ 1 + 2 | string | length }}
{% set l = [] %}{% for a in list %}{% set l = l + [a * 2] %}{% endfor %}{{ l }}{% set ns = namespace(l=[]) %}{% for a in list %}{% set ns.l = ns.l + [a * 2] %}{% endfor %}{{ ns.l }}
{{ 'é' | e }} {{ '<&>"\'' | escape }} {{ none ~ '' }} {{ [none, true] | string }} {{ [zz] }}
{% for p in people %}{% if p.age is defined and p.age > 2 %}{{ p.name }} old{% elif p.age is defined %}{{ p.name }} young{% else %}{{ p.name }} ?{% endif %}{{ ', ' if not loop.last }}{% endfor %}
{% set q = x %}{% if true %}{% set q = 'changed' %}{% endif %}{{ q }}{% for i in [1] %}{% if true %}{% set q = 'again' %}{% endif %}{{ q }}{% endfor %}{{ q }}
""".strip("\n").split("\n")

# Several lines each.
BLOCKS = [
    "   {% if true %}\n   line\n   {% endif %}\n   end",
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc",
    "  {%- for i in list %}\n  {{ i }}\n  {%- endfor %}\nend\n\n",
    "{{ x }}\n{{ n }}\n\n{# note #}\n  {# note #}\nz\n",
    "{% for i in list -%}\n   {{ i }},\n{%- endfor %}|\n{% set a = 1 %}\n{% set b = 2 -%}\n  {{ a + b }}",
    "\r\nwindows\r\n{% if true %}\r\nx\r\n{% endif %}\r\n",
    "{%- raw -%}  \n {{ not }} \n  {%- endraw -%}  \n z",
    "   {% raw %}\n{{ x }}\n   {% endraw %}\nz",
    "{% macro m(a) %}\n  [{{ a }}]\n{% endmacro %}\n{{ m(1) }}\n{{- m(2) -}}\n\nx",
    "\t {% if true %}tab\t\n\t{% endif %}\t\nz\u3000{%- if true %} wide{% endif %}",
    "x {%+ if true +%}\ny{% endif %}\n  {%+ set z = 1 %}\nw",
    "{% if true %}\n\n\ntwo newlines\n{% endif %}\n\n\n",
    "\n\n{{ 'leading' }}\n",
    "{% for m in people %}\n{% if m.age %}\n{{ m.name }}\n{% endif %}\n{% endfor %}\n",
    "{#- a multi\nline comment -#}\n\n  x{{ '\\\n' }}y",
]

# Errors of rendering: (source, words that our message must hold)
ERRORS = [
    ("a\n{{ raise_exception('no ' ~ n) }}", "line 2: no 7"), ("{{ zz.foo }}", "'zz' is undefined"),
    ("{{ zz() }}", "'zz' is undefined"), ("{{ 1 + 'a' }}", "int and str"), ("{{ 'a' + 1 }}", "str and int"),
    ("{{ 'a' + none }}", "str and NoneType"), ("{{ 'a' + zz }}", "'zz' is undefined"),
    ("{{ 1 / 0 }}", "division by zero"),
    ("{{ 5 % 0 }}", "division by zero"), ("{{ n.foo.bar }}", "'foo' is undefined"),
    ("{{ d.zz.y }}", "'zz' is undefined"),
    ("{{ list.append(1) }}", "must not change"), ("{{ d.update({}) }}", "must not change"),
    ("{{ n() }}", "cannot be called"),
    ("{% for a in n %}{% endfor %}", "no elements"), ("{% for a, b in list %}{% endfor %}", "no elements"),
    ("{% for a, b in [[1]] %}{% endfor %}", "too few"),
    ("{% for a, b in [[1, 2, 3]] %}{% endfor %}", "too many"),
    ("{{ 1 < 'a' }}", "'<' between"), ("{{ 1 in 2 }}", "'in' between"), ("{{ [1, 'a'] | sort }}", "no order"),
    ("{{ x.split('') }}", "empty separator"), ("{{ zz | tojson }}", "tojson of a Undefined"),
    ("{{ -x }}", "str"),
    ("{{ x[::0] }}", "step 0"), ("{{ n[1:] }}", "sliced"),
    ("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "more arguments"),
    ("{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "more arguments"), ("{{ x | trim(1, 2) }}", "at most"),
    ("{{ x.strip(foo=1) }}", "unexpected argument"), ("{% set x.a = 1 %}", "namespace"),
    ("{{ range(1000000) }}", "100000"),
    ("{{ {[]: 1} }}", "cannot be a key"), ("{{ x.index('q') }}", "no such part"),
    ("{{ n | length }}", "length of a int"),
]

REFUSED = [
    ("{% extends 'a' %}", "the tag 'extends'"), ("{% include 'a' %}", "the tag 'include'"),
    ("a\n{% import 'a' as b %}", "line 2"),
    ("{% block a %}{% endblock %}", "the tag 'block'"), ("{% do x %}", "the tag 'do'"),
    ("{{ x | nofilter }}", "the filter 'nofilter'"),
    ("{{ x is notest }}", "the test 'notest'"), ("{% for a in b recursive %}{% endfor %}", "'recursive'"),
    ("{{ f(*a) }}", "unpacking"), ("{{ x | groupby('a') }}", "the filter 'groupby'"),
    ("{{ a[1, 2] }}", "subscript"),
]

WRONG = [
    "{{ x", "{% if x %}", "{% if %}{% endif %}", "{{ 'a }}", "{% endif %}", "{{ 1 + }}",
    "{% for x %}{% endfor %}", "{{ a b }}",
    "{% set 1 = 2 %}", "{{ (1 }}", "{{ 1) }}", "{% nonsense %}", "{# open", "{% raw %} open", "{{ x | }}",
    "{{ x is }}", "{{ ?}}",
    "{% break %}", "{% macro (a) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{{ a[1:2:3:4] }}", "{% else %}",
    "{{ '\\xg1' }}",
    "{% for a in b %}{% endif %}", "{{ }}", "{% %}", "{{ not }}", "{{ {1} }}", "{{ 1 if }}",
    "{% if x %}{% elif %}{% endif %}",
]


def main():
    env = environment()
    names = sorted(n[:-len(".jinja")] for n in os.listdir(FOLDER) if n.endswith(".jinja"))
    cases, pieces = [], []
    for name in names:
        with open(os.path.join(FOLDER, name + ".jinja"), encoding="utf-8", newline="") as file:
            template = env.from_string(file.read())
        for conversation in CONVERSATIONS:
            for setting in SETTINGS:
                variables = {"messages": conversation, "bos_token": "<s>", "eos_token": "</s>", **setting}
                case = {"template": name, "variables": variables}
                try:
                    case["expected"] = template.render(**variables)
                except Exception as error:  # of any kind: what matters is that ours fails as well
                    case["error"] = str(error)[:60] if isinstance(error,
                                                                  jinja2.exceptions.TemplateError) else ""
                    if isinstance(error, jinja2.exceptions.UndefinedError):
                        case["error"] = ""
                cases.append(case)
    for source in PIECES + BLOCKS:
        try:
            pieces.append({"source": source, "expected": env.from_string(source).render(**V)})
        except Exception as error:
            raise SystemExit(f"{source}: {error}")
    for source, _ in ERRORS:
        try:
            env.from_string(source).render(**V)
        except Exception:
            continue
        raise SystemExit(f"Jinja renders what should be an error: {source}")
    for source in WRONG:
        try:
            env.from_string(source)
        except (jinja2.exceptions.TemplateSyntaxError, SyntaxError):
            continue
        raise SystemExit(f"Jinja reads what should be refused: {source}")
    out = {"now": NOW, "sources": names, "variables": V, "cases": cases, "pieces": pieces,
           "errors": [{"source": s, "words": w} for s, w in ERRORS], "wrong": WRONG,
           "refused": [{"source": s, "words": w} for s, w in REFUSED]}
    with open(os.path.join(FOLDER, "vectors.json"), "w", encoding="utf-8") as file:
        json.dump(out, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
    print(f"{len(cases)} cases of {len(names)} templates, {len(pieces)} pieces, "
          f"{sum('error' in c for c in cases)} of the cases are errors")


if __name__ == "__main__":
    main()
