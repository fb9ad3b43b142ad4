"""A plan says what is run, and refuses what it does not understand."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from anechoic_lab.bench import Plan, presets
from anechoic_lab.bench.plan import Method
from anechoic_lab.guidance import StepStatistics
from support.pipelines import make_pipe

from anechoic import TrainingIndex, embedder
from anechoic.errors import BadSetting
from anechoic.guidance import registry


def load(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "my.toml"
    path.write_text(text)
    return Plan.load(path)


ONE = '[[methods]]\nname = "none"\n'


def test_a_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    plan = load(
        tmp_path,
        'about = "a"\nsplit = "tune"\nseeds = [3, 1]\nscenarios = ["x"]\nsteps = 9\nbatch = 2\n'
        'quality = "clap"\n[[methods]]\nname = "s"\nlabel = "S"\nguard = "static"\n'
        'settings = { before = -1.0, at = "LogSNR:1.5" }\n',
    )
    method = Method("s", "S", "static", {"before": -1.0, "at": "LogSNR:1.5"})
    assert plan == Plan("my", (method,), (3, 1), ("x",), "tune", 9, 2, "clap", "a")


def test_a_number_of_seeds_counts_from_zero(tmp_path: Path) -> None:
    assert load(tmp_path, "seeds = 3\n" + ONE).seeds == (0, 1, 2)


def test_a_varied_setting_is_a_method_for_each_value(tmp_path: Path) -> None:
    plan = load(
        tmp_path,
        '[[methods]]\nname = "a"\nguard = "g"\nsettings = { c1 = 4.0 }\nvary = { c3 = [0, 1.5] }\n',
    )
    assert [(m.name, m.family, m.strength) for m in plan.methods] == [
        ("a/c3=0", "a", "c3=0"), ("a/c3=1.5", "a", "c3=1.5")]  # fmt: skip
    assert [m.settings for m in plan.methods] == [{"c1": 4.0, "c3": 0}, {"c1": 4.0, "c3": 1.5}]


def test_a_setting_of_a_method_inside_another_can_be_varied(tmp_path: Path) -> None:
    plan = load(
        tmp_path,
        '[[methods]]\nname = "a"\nguard = "g"\nvary = { "then.c3" = [1, 2] }\n'
        '[methods.settings]\nat = 0.5\nthen = { guard = "amg", c1 = 0 }\n',
    )
    inner = {"guard": "amg", "c1": 0}
    settings = [{"at": 0.5, "then": {**inner, "c3": c3}} for c3 in (1, 2)]
    assert [m.settings for m in plan.methods] == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no methods"),
        ("seeds = []\n" + ONE, "has no seeds"),
        ("seeds = 0\n" + ONE, "has no seeds"),
        ("seeds = [1, 1]\n" + ONE, "has the seed '1' twice"),
        ("seeds = [-1]\n" + ONE, "expected seeds from 0 to"),
        ("seeds = true\n" + ONE, "expected a whole number or a list for 'seeds', got True"),
        ("seeds = 18446744073709551616\n" + ONE, "expected up to 100000 seeds"),
        ("seeds = [0.5]\n" + ONE, "expected whole numbers as seeds"),
        ("batch = 0\n" + ONE, "expected 'batch' to be 1 or more, got 0"),
        ("steps = 1.5\n" + ONE, "expected a whole number for 'steps', got 1.5"),
        ("scenarios = [1]\n" + ONE, "expected names in 'scenarios'"),
        ("seed = 1\n" + ONE, "unknown key 'seed'; expected some of about, split, seeds"),
        (ONE + 'gard = "amg"\n', "method 'none' has an unknown key 'gard'"),
        (ONE + ONE, "has the method 'none' twice"),
        ("[[methods]]\n", "method 1 has no name"),
        ("methods = [1]\n", "method 1 has no name"),
        (ONE + "settings = { c1 = 1 }\n", "has settings but no guard"),
        (ONE + 'guard = "g"\nvary = { a = [1, 2], b = [1, 2] }\n', "varies a, b; a frontier"),
        (ONE + 'guard = "g"\nvary = { a = [1] }\n', "expected a list of two values or more"),
        (ONE + 'guard = "g"\nvary = { "a.b" = [1, 2] }\n', "its 'a' is not a table"),
        ("seeds = ", "is not valid TOML"),
    ],
)
def test_a_plan_that_is_not_understood_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadSetting) as error:
        load(tmp_path, text)
    assert sentence in str(error.value)


def test_a_plan_or_preset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="does not exist"):
        Plan.load(tmp_path / "absent.toml")
    with pytest.raises(
        BadSetting, match="preset 'absent' does not exist; expected one of amg-ablation, "
    ):
        Plan.load("absent")


def test_only_takes_methods_by_name_or_family() -> None:
    plan = Plan.load("frontier")
    assert [m.name for m in plan.only(["none", "amg"]).methods][:3] == ["none", "amg/c3=50",
                                                                        "amg/c3=100"]  # fmt: skip
    assert [m.name for m in plan.only(["static/at=LogSNR:0"], ["x"], 3).methods] == [
        "static/at=LogSNR:0"]  # fmt: skip
    assert (plan.only(None, ["x"], 3).scenarios, plan.only(None, ["x"], 3).seeds) == (
        ("x",), (0, 1, 2))  # fmt: skip
    with pytest.raises(BadSetting, match="has no method 'absent'; it has amg, "):
        plan.only(["absent"])


# ------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_what_it_is_and_makes_its_guidances(name: str) -> None:
    plan = Plan.load(name)
    embed = embedder("magmel")
    emb = torch.eye(2, embed.dim)
    index = TrainingIndex.from_embeddings(emb, ["a", "b"], embedder_name="magmel")
    assert plan.about
    assert plan.split == ("tune" if name.endswith("tune") else "report")
    installed = entry_points(group=registry.GROUP).names
    if missing := {method.guard for method in plan.methods if method.guard} - installed:
        pytest.skip(
            f"{', '.join(sorted(missing))}: not in the installed metadata; reinstall the lab"
        )
    given = {
        "index": index,
        "embedder": embed,
        "scale": 2.0,
        "latents": torch.zeros(1, 2, 3),
        "network": make_pipe().transformer,
        "statistics": StepStatistics((0.0,), (1.0,), (1.0,), 1.0, 2.0, 2),
    }
    for method in plan.methods:
        if method.guard:
            made = registry.build(method.guard, method.settings, given)
            ends_with = getattr(made, "then", None) or getattr(made, "outside", made)
            assert ends_with.scale == 2.0  # of a composition, what it ends with


def test_the_ablation_is_each_term_each_pair_and_all() -> None:
    plan = Plan.load("amg-ablation")
    switched = [tuple(bool(m.settings[c]) for c in ("c1", "c2", "c3")) for m in plan.methods[1:]]
    assert sorted(switched) == sorted(
        (a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)
        if (a, b, c) != (False, False, False)
    )  # fmt: skip
    others = [{k: v for k, v in m.settings.items() if k[0] != "c"} for m in plan.methods[1:]]
    assert all(other == others[0] for other in others)
