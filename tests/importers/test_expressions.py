"""Expressions that a config states: matched by RE2 in linear time, or an omission that names them. Never an error."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kvplan
from kvplan import patterns
from kvplan.importers import from_config
from kvplan.importers.config import Config
from kvplan.importers.quantization.methods import METHODS
from kvplan.importers.quantization.modules import expression, rules_for
from kvplan.specs import PLAIN
from kvplan.weights import storage_of, touches
from tests.importers.test_quantization import LLAMA_8B, MLX, compressed
from tests.support import config
from tests.support.attempts import attempt

FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
MODULES = [
    f"model.layers.{i}.{name}"
    for i in (0, 1, 10, 21)
    for name in (
        "self_attn.q_proj",
        "mlp.gate",
        "mlp.up_proj",
        "mlp.experts.gate_up_proj",
        "mlp.shared_expert.down_proj",
    )
] + ["lm_head", "embed_tokens"]
EMPTY = Config({})


def quantised(*ignored: str) -> dict[str, object]:
    return {**LLAMA_8B, "quantization_config": compressed(FP8, "float-quantized", ignore=list(ignored))}


def kept(*ignored: str) -> set[str]:
    """Modules that stay in dtype."""
    spec = from_config(quantised(*ignored))
    weights = {path: kvplan.specs.Weight(path.split(".", 3)[-1], 256, 256) for path in MODULES}
    return {path for path in MODULES if storage_of(weights[path], path, spec.quantization).format == "dtype"}


# --- what matches ------------------------------------------------------------------------------------------------------

# pieces of which real expressions are made, none that RE2 reads otherwise than Python
PIECES = st.sampled_from(
    ["model", r"\.", "layers", r"\d+", "[0-9]+", "(0|1)", "self_attn", "mlp", "gate", "(gate|up)_proj", ".*", ".+", ".?",
     "experts", "_proj", "$", "^", "[a-z_]*", r"\w+", "(?:10|21)", "shared_expert"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=6).map("".join))
def test_re2_matches_what_python_does(pattern: str) -> None:
    """On the names of modules, which are ASCII and of one line."""
    for name in MODULES:
        assert (re.search(pattern, name) is not None) == patterns.found(pattern, name)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=3).map("".join), st.lists(PIECES, max_size=3).map("".join), st.booleans())
@example(".*experts", ".*$", True)
@example(".*(gate|up)_proj", "", False)
def test_a_leading_negative_lookahead_is_y_and_not_x(barred: str, rest: str, anchored: bool) -> None:
    """``re:^(?!.*experts).*$``; engines use re.match, so that the lookahead looks from the start with or without ^."""
    text = f"{'^' if anchored else ''}(?!{barred}){rest}"
    rule = expression(EMPTY, "ignore", text, PLAIN)
    for name in MODULES:
        assert (re.match(text, name) is not None) == touches(rule, [name])


SHAPES = [
    *(r"layers\.{}\.", "layers.{}.", r".*\.{}\.mlp", r"model\.layers\.{}\.(mlp|self_attn)\."),
    *(r"x\.{}\.{}\.", r"a{{2}}\.{}\.", r"[\.{}\.]q_proj"),
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SHAPES), st.integers(0, 25)).map(lambda p: p[0].format(p[1], p[1])), min_size=1)
)
def test_many_expressions_searched_as_one_are_many_expressions(texts: list[str]) -> None:
    """What one of them matches, all together do; those that differ in a layer's number are grouped by it."""
    rules = rules_for(EMPTY, "ignore", [f"re:{text}" for text in texts], PLAIN)
    assert 1 == len(rules)
    for name in MODULES:
        assert any(re.search(text, name) for text in texts) == touches(rules[0], [name])


def test_several_lookaheads_and_groups_in_them() -> None:
    for text in (r"^(?!.*(mlp|lm_head))(?!.*\.1\.).*", r"^(?!.*[()]|embed).*q_proj$", r"^(?![^]]*gate)model.*"):
        rule = expression(EMPTY, "ignore", text, PLAIN)
        for name in MODULES:
            assert (re.match(text, name) is not None) == touches(rule, [name]), (text, name)


def test_a_lookahead_bars_a_module_under_every_name_it_has() -> None:
    """A file may spell mlp block_sparse_moe: what is barred under one spelling is not touched under another."""
    rule = expression(EMPTY, "ignore", "^(?!.*mlp).*", PLAIN)
    assert not touches(rule, ["model.layers.0.mlp.up_proj", "model.layers.0.block_sparse_moe.up_proj"])


def test_all_but_the_experts() -> None:
    """As files of mixtures write it, in every method that takes expressions."""
    experts = {name for name in MODULES if "experts" in name}
    assert set(MODULES) - experts == kept("re:^(?!.*experts).*$") | {"embed_tokens"}
    raw = {**LLAMA_8B, "quantization_config": {"quant_method": "gptq", "bits": 4, "dynamic": {"-:^(?!.*mlp).*$": {}}}}
    q = from_config(raw).quantization
    weight = kvplan.specs.Weight("q", 256, 256)
    assert "dtype" == storage_of(weight, "model.layers.3.self_attn.q_proj", q).format
    assert "dtype" != storage_of(weight, "model.layers.3.mlp.up_proj", q).format


@pytest.mark.parametrize(
    ("name", "hit", "miss"),
    [
        ("model.layers.1*", "model.layers.10.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("model.layers.1.*", "model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"),
        ("*.mlp.shared_expert.*", "model.layers.1.mlp.shared_expert.down_proj", "model.layers.1.mlp.up_proj"),
        ("*mlp*gate*", "model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.up_proj"),
        ("model.layers.?.mlp", "model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"),
        ("model.layers.*.self_attn", "model.layers.10.self_attn.q_proj", "model.layers.10.mlp.gate"),
        ("layers.1(0", "layers.1(0.x", "layers.10.x"),  # no expression, whatever it looks like
    ],
)  # fmt: skip
def test_names_and_globs(name: str, hit: str, miss: str) -> None:
    rules = rules_for(EMPTY, "ignore", [name], PLAIN)
    assert any(touches(rule, [hit]) for rule in rules)
    assert not any(touches(rule, [miss]) for rule in rules)


def test_any_number_of_names_is_one_rule() -> None:
    """200,000 names that differ in more than numbers are looked up, not tried one after another."""
    names = [f"model.layers.{i}.m{i}x.gate" for i in range(200_000)]
    (rule,) = rules_for(EMPTY, "ignore", names, PLAIN)
    assert touches(rule, ["model.layers.7.m7x.gate"])
    assert not touches(rule, ["model.layers.7.m8x.gate"])


# --- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = [
    "re:a(?=b)",
    "re:model(?!x)layers",
    r"re:(a)\1",
    "re:[",
    "re:(a{1000}){1000}",
    "re:a{5000}",
    "re:" + "a" * 9000,
    "re:^(?!.*experts).*gate|.*up_proj",
    "re:" + "(a|b)?" * 2600,
    "re:\ud800",
    "re:^(?!(",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_re2_refuses_leaves_the_weights_an_omission(text: str) -> None:
    """It names the rule; the cache is answered all the same, and a folder with headers or a format given is enough."""
    report = kvplan.plan(quantised("lm_head", text), gpu="h100", context="4k")
    assert report.to_dict()["weights"]["bytes"] is None
    (why,) = [omission.why for omission in report.omitted if omission.path == "weights"]
    assert why.startswith("quantization_config.ignore: 're:")
    assert why.isprintable()
    assert len(why) < 500
    assert 2 * 32 * 8 * 128 * 2 == report.kv["bytes_per_token"]
    assert kvplan.plan(quantised("lm_head", text), weight_dtype="fp8").to_dict()["weights"]["bytes"] is not None


def test_too_many_expressions_are_refused_together() -> None:
    report = kvplan.plan(quantised(*(f"re:.*x{i}$" for i in range(100_000))))
    assert "100000 expressions" in next(o.why for o in report.omitted if o.path == "weights")
    # each is small, together they are not
    report = kvplan.plan(quantised(*("re:" + "(a|b)?" * 10 + str(i) for i in range(999))))
    assert "instructions" in next(o.why for o in report.omitted if o.path == "weights")


ODD = st.text(st.sampled_from(list("ab.*?#[]()|^$\\\\{}+-_:1029 \x01\u00e9\u0661")), max_size=14)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(ODD, ODD.map("re:{}".format), ODD.map("re:^(?!{}".format)), max_size=5),
    st.sampled_from(sorted(METHODS)),
)
@example(["a.#.*b"], "awq")
@example(["re:layers.1.#", "re:layers.2.#"], "awq")
def test_any_name_is_a_rule_or_an_omission(names: list[str], method: str) -> None:
    """Characters that mean something to some engine, in every method's lists; answered in one way or another."""
    lists = dict.fromkeys(
        ("ignore", "ignored_layers", "modules_to_not_convert", "llm_int8_skip_modules", "skip_modules"), names
    )
    rest = {
        **MLX,
        "weights": "int8",
        "load_in_8bit": True,
        "quant_algo": "NVFP4",
        "nbits": 4,
        "quant_type": "int8_weight_only",
    }
    rest |= compressed(FP8, "float-quantized") | {"dynamic": {f"-:{name}": {} for name in names}}
    raw = {**LLAMA_8B, "num_hidden_layers": 2, "quantization_config": {**rest, **lists, "quant_method": method}}
    report, message = attempt(kvplan.plan, raw)
    assert (report.to_text() if report else message).replace("\n", "").isprintable()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_expressions_that_backtrack_for_ever_end_in_every_method(method: str) -> None:
    """``.?`` 22 times took minutes and (a+)+ took for ever; a test that hangs is how this one fails."""
    hostile = [
        "re:" + ".?" * 22 + "\x01",
        "re:(.*)*(.*)*(.*)*\x01",
        "re:(([a-z.]+)+)+!",
        "*a" * 120,
        "re:(x+x+)+y",
        ".*" * 99,
    ]
    names = {
        "ignore": hostile, "ignored_layers": hostile, "modules_to_not_convert": hostile, "exclude_modules": hostile,
        "llm_int8_skip_modules": hostile, "skip_modules": hostile, "modules_in_block_to_quantize": [hostile],
        "dynamic": {f"-:{text.removeprefix('re:')}": {} for text in hostile},
        "quantized_layers": {text: {"quant_algo": "FP8"} for text in hostile},
        "extra_config": {text: {"bits": 16} for text in hostile}, **dict.fromkeys(hostile, False),
    }  # fmt: skip
    rest = {
        **MLX,
        "weights": "int8",
        "load_in_8bit": True,
        "quant_algo": "NVFP4",
        "nbits": 4,
        "quant_type": "int8_weight_only",
    }
    rest |= compressed(FP8, "float-quantized")
    raw = {**config("Qwen__Qwen3-30B-A3B-Base"), "quantization_config": {**rest, **names, "quant_method": method}}
    report, message = attempt(kvplan.plan, raw)
    assert (report.to_text() if report else message).replace("\n", "").isprintable()


def test_no_other_engine_sees_a_pattern_that_is_not_ours() -> None:
    """Where importers and weights call ``re``, the pattern is a literal of the source."""
    package = Path(kvplan.__file__).parent
    checked = 0
    for path in [
        *(package / "importers").rglob("*.py"),
        package / "weights.py",
        package / "specs.py",
        package / "patterns.py",
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            function = node.func if isinstance(node, ast.Call) else None
            if (
                isinstance(function, ast.Attribute)
                and ast.unparse(function.value) == "re"
                and function.attr != "escape"
            ):
                assert ast.unparse(node.args[0]).isupper() or isinstance(node.args[0], ast.Constant), (
                    f"{path.name}:{node.lineno}"
                )
                checked += 1
    assert checked > 3


def test_re2_is_imported_when_an_expression_is_met() -> None:
    """A plan without one, quantised or not, does not pay for it."""
    code = (
        "import sys, json, kvplan; kvplan.plan('llama-3.1-8b', weight_dtype='int4');"
        " kvplan.plan(json.loads(sys.argv[1])); assert 're2' not in sys.modules;"
        " kvplan.plan(json.loads(sys.argv[2])); assert 're2' in sys.modules"
    )
    plain, with_one = (json.dumps(quantised(*names)) for names in (["lm_head", "model.layers.0*"], ["re:.*lm_head"]))
    subprocess.run([sys.executable, "-c", code, plain, with_one], check=True)


# --- any number of anything --------------------------------------------------------------------------------------------


def searched(monkeypatch: pytest.MonkeyPatch, quantization: dict[str, object], layers: int = 1024) -> int:
    """How many expressions and looks into tables a plan of many layers costs."""
    counted = [0]

    class Table(dict[str, int]):
        def get(self, *key: object) -> object:
            counted[0] += 1
            return super().get(*key)

    real = patterns.found
    monkeypatch.setattr(patterns, "found", lambda *a: (counted.__setitem__(0, counted[0] + 1), real(*a))[1])
    made = kvplan.weights._Rules.made.__func__

    def counting(cls: type, rules: tuple[object, ...]) -> object:
        ready = made(cls, rules)
        return ready._replace(names=Table(ready.names), starts=Table(ready.starts), ends=Table(ready.ends))

    monkeypatch.setattr(kvplan.weights._Rules, "made", classmethod(counting))
    report = kvplan.plan({**LLAMA_8B, "num_hidden_layers": layers, "quantization_config": quantization})
    report.to_text()
    return counted[0]


MANY = {
    "groups": compressed(FP8, "float-quantized")
    | {
        "config_groups": {
            str(i): {"targets": [f"ab{i}"], "weights": {**FP8, "group_size": 128 + i}} for i in range(5000)
        }
    },
    "names": {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [f"a{i}x" for i in range(50_000)]},
    "modules of mlx": {
        "bits": 4,
        "group_size": 64,
        **{f"x{i}": {"bits": 4, "group_size": i % 4000 + 1} for i in range(20_000)},
    },
    "beginnings": {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [f"{'a' * i}*" for i in range(1, 299)]},
    "steps": {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [".".join("a" * i) for i in range(1, 149)]},
    "expressions": {
        "quant_method": "awq",
        "bits": 4,
        "modules_to_not_convert": [f"re:.*(a|b)*{i}$" for i in range(90)],
    },
    "globs": {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [f"*a{i}x*b" for i in range(50_000)]},
    "dynamic": {"quant_method": "gptq", "bits": 4, "dynamic": {f"-:.*a{i}x$": {} for i in range(50_000)}},
    "dynamic of two kinds": {
        "quant_method": "gptq",
        "bits": 4,
        "dynamic": {f"+:.*a{i}x$": {"bits": 4 if i % 2 else 8} for i in range(900)},
    },
    "lookaheads": {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["re:" + "(?!)" * 500_000]},
}


@pytest.mark.parametrize("kind", MANY)
def test_what_a_plan_costs_does_not_grow_with_what_a_file_states(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """7,000 matrices of 1,024 layers, each with two spellings at most: some hundred looks for each, however many rules."""
    assert searched(monkeypatch, MANY[kind]) < 7 * 1024 * 400


def test_lengths_of_globs_are_bounded_and_the_omission_says_so() -> None:
    why = next(
        o.why
        for o in kvplan.plan({**LLAMA_8B, "quantization_config": MANY["beginnings"]}).omitted
        if o.path == "weights"
    )
    assert "298 lengths" in why


@pytest.mark.parametrize(
    "names",
    [
        [f"model.layers.{i}.mlp.experts.*.{part}_proj" for i in range(126) for part in ("gate", "up", "down")],
        [f"*.layers.{i}.self_attn.*_proj" for i in range(126)],
        [rf"re:.*layers\.{i}\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj" for i in range(126)],
        [rf"re:model\.layers\.{i}\..*" for i in range(126)],
        [rf"re:model.layers.{i}." for i in range(126)],
    ],
    ids=["experts", "stars", "modules", "layers", "plain dots"],
)
def test_a_rule_for_each_of_126_layers_is_answered(names: list[str]) -> None:
    """As quantisers write them; every layer of Llama 3.1 405B has one."""
    quantization = compressed(FP8, "float-quantized", ignore=["lm_head", *names])
    raw = {**LLAMA_8B, "num_hidden_layers": 126}
    found, plain = (
        kvplan.plan(r).to_dict()["weights"]["bytes"] for r in (raw | {"quantization_config": quantization}, raw)
    )
    # the expressions leave every matrix in bf16; the first globs name experts, which Llama has not, the second its attention
    assert (found == plain) if names[0].startswith("re:") else plain / 2 < found < plain


@pytest.mark.parametrize("order", [0, 1])
def test_the_first_rule_of_a_file_wins_whatever_its_kind(order: int) -> None:
    """A name, a beginning and an expression of different storages."""
    rules = [("re:.*up_proj$", "int8"), ("layers.1*", "int4"), ("layers.1.mlp.up_proj", "fp8")][:: 1 if order else -1]
    made = [
        rule for name, kind in rules for rule in rules_for(EMPTY, "ignore", [name], kvplan.specs.Storage(kind, 1, 8))
    ]
    first = kvplan.weights.first_rule(kvplan.weights._Rules.made(tuple(made)), ["model.layers.1.mlp.up_proj"])
    assert rules[0][1] == first.storage.format
