"""Settings: strict types, misspelt keys, `--set`, and every shipped configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import configs
from stages import seed_train
from stages.actions import configure
from stages.actions.run import Run
from stages.core import config, published
from stages.core.config import Field, Section, validate
from stages.core.errors import StageError
from stages.core.log import ALOUD, open_log


class Inner(Section):
    """A nested section."""

    size: int = Field(3, description="How many.", ge=1)


class Example(Section):
    """One setting of every kind."""

    name: str = Field("a", description="A name.")
    kind: Literal["x", "y"] = Field("x", description="One of two.")
    count: int = Field(2, description="A count.", ge=1, le=9)
    rate: float = Field(0.5, description="A rate.", gt=0, lt=1)
    maybe: float | None = Field(None, description="May be left open.", ge=0)
    flag: bool = Field(True, description="On or off.")
    pair: tuple[float, float] = Field((1.0, 2.0), description="Two numbers.")
    many: tuple[float, ...] = Field((1.0,), description="Some numbers.", min_length=1)
    groups: Mapping[str, Sequence[int]] | None = Field(None, description="Ids by name.")
    inner: Inner | None = Field(None, description="A table.")


def test_defaults_and_plain_values():
    section = Example()
    assert (section.count, section.pair, section.groups) == (2, (1.0, 2.0), None)
    assert section.plain()["pair"] == [1.0, 2.0]
    assert "rate" not in section.plain(frozenset({"rate"}))
    with pytest.raises(AttributeError):
        section.count = 3  # type: ignore[misc]


def test_good_values_survive_the_way_to_plain_and_back():
    values = {"rate": 0.25, "maybe": 1, "many": [1, 2.5], "groups": {"a": [0, 3]}, "inner": {"size": 4}, "kind": "y"}
    section = validate(Example, values, "example")
    assert section.maybe == 1.0 and isinstance(section.maybe, float)
    assert section.many == (1.0, 2.5) and section.inner == Inner(size=4)
    assert validate(Example, section.plain(), "example") == section


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": 2.0}, "example.count: must be a whole number, got 2.0. It is: A count."),
        ({"count": "2"}, "must be a whole number, got '2'"),
        ({"count": True}, "must be a whole number, got True"),
        ({"count": 0}, "must be at least 1"),
        ({"count": 10}, "must be at most 9"),
        ({"rate": 1}, "must be less than 1"),
        ({"rate": 0.0}, "must be greater than 0"),
        ({"rate": float("nan")}, "must be a number"),
        ({"rate": None}, "must be a number"),
        ({"maybe": -1.0}, "must be at least 0"),
        ({"maybe": "x"}, "must be a number"),
        ({"flag": 1}, "must be true or false"),
        ({"name": 7}, "must be text"),
        ({"kind": "z"}, "must be one of x, y"),
        ({"pair": [1.0]}, "must be a list of 2"),
        ({"pair": 1.0}, "must be a list"),
        ({"many": []}, "needs at least 1 entries"),
        ({"many": [1.0, "b"]}, "must be a number"),
        ({"groups": [1]}, "must be a table"),
        ({"groups": {"a": [0.5]}}, "must be a whole number"),
        ({"inner": {"size": 0}}, "Bad value for example.inner.size: must be at least 1"),
        ({"inner": {"sise": 4}}, "Unknown setting 'example.inner.sise'.*Did you mean 'size'"),
        ({"inner": 3}, "Bad value for example.inner"),
        ({"naem": "b"}, "Unknown setting 'example.naem'.*Did you mean 'name'"),
        (7, "Bad value for example: it is a table of settings, got 7"),
    ],
)
def test_bad_values_are_refused_in_words(values: Any, words: str):
    with pytest.raises(StageError, match=words):
        validate(Example, values, "example")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=5", 5),
        ("a.b=1e-4", 1e-4),
        ("a.b=-2.5E3", -2500.0),
        ("a.b=0.1", 0.1),
        ("a.b=true", True),
        ("a.b=text", "text"),
        ("a.b=null", None),
        ("a.b=[1.0, 0.5]", [1.0, 0.5]),
        ("a.b={x: [0, 1]}", {"x": [0, 1]}),
        ("a.b=c=d", "c=d"),
    ],
)
def test_assignments_are_yaml(text: str, value: Any):
    assert config.parse_assignment(text) == (["a", "b"], value)


@pytest.mark.parametrize("text", ["a.b", "a=1", ".b=1", "a.=1", "a.b=[1", "=1"])
def test_bad_assignments_are_refused(text: str):
    with pytest.raises(StageError, match="Cannot read --set"):
        config.parse_assignment(text)


def test_merging_leaves_its_parts_alone():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert config.merge(base, {"a": {"y": 5}, "c": 6}) == {"a": {"x": 1, "y": 5}, "b": 3, "c": 6}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


@pytest.mark.parametrize("name", configs.names())
def test_every_shipped_configuration_resolves(name: str):
    resolved = configure.resolve(name)
    assert set(resolved) == set(configure.sections())
    assert configure.build({key: section.plain() for key, section in resolved.items()}, configure.sections()) == resolved


def test_the_shipped_names():
    assert {"demo", "voc", "voc_coco_init", "voc_small"} <= set(configs.names())


def test_every_setting_is_described():
    for name, section in configure.sections().items():
        assert section.__doc__
        for key, setting in section.__dataclass_fields__.items():
            assert setting.metadata["description"].endswith("."), f"{name}.{key}"


def test_assignments_override_and_their_errors_name_the_key():
    assert configure.resolve("voc", ["seed_train.lr=1e-3"])["seed_train"].plain()["lr"] == 1e-3
    with pytest.raises(StageError, match=r"Unknown setting 'seed_train\.epoch'.*Did you mean 'epochs'"):
        configure.resolve("voc", ["seed_train.epoch=3"])
    with pytest.raises(StageError, match=r"Unknown setting 'seed_trian'.*Did you mean 'seed_train'"):
        configure.resolve("voc", ["seed_trian.epochs=3"])


def test_bad_files_are_refused_in_words(tmp_path):
    for text, words in (("a: [1", "Cannot read configuration"), ("- 1", "not a table of sections"), ("seed_train: 3", "a table")):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        with pytest.raises(StageError, match=words):
            configure.resolve(str(path))
    with pytest.raises(StageError, match=r"Unknown dataset 'vco'.*Did you mean 'voc'"):
        configure.resolve("vco")
    (tmp_path / "empty.yaml").write_text("")
    assert configure.resolve(str(tmp_path / "empty.yaml"))["seed_train"] == configure.sections()["seed_train"]()


@pytest.mark.parametrize("section", ["seed_train", "irn_train", "segment_train"])
def test_a_misspelt_trunk_is_refused(section: str):
    with pytest.raises(StageError, match=rf"{section}\.backbone: must be one of resnet18, resnet50"):
        configure.resolve("voc", [f"{section}.backbone=resnet5"])


def test_a_misspelt_seed_is_refused():
    with pytest.raises(StageError, match=r"refine\.seed: sums: seed_infer\.sources are bas, cam, sum"):
        configure.resolve("voc", ["refine.seed=sums"])
    with pytest.raises(StageError, match=r"Did you mean 'average'\? Name one of them, or .*\[bas, cam, sum, average\]"):
        configure.resolve("voc", ["refine.seed=avrage"])


@pytest.mark.parametrize(
    "key",
    ["seed_infer.scales", "irn_train.scales", "segment_train.scales", "segment_train.crop_scales", "segment_predict.scales"],
)
def test_every_scale_is_positive(key: str):
    with pytest.raises(StageError, match=rf"{key}: must be greater than 0, got \[1.0, 0.0\]"):
        configure.resolve("voc", [f"{key}=[1.0, 0.0]"])


def test_absent_weights_of_a_later_stage_are_refused_at_once(tmp_path):
    run = Run(tmp_path / "run", configure.resolve("demo", ["segment_train.weights=absent.pth"]))
    with pytest.raises(StageError, match=r"Cannot read weights absent\.pth"):
        run.check(["seed_train", "segment_train"])
    run.check(["seed_train"])
    assert not run.folder.exists()


def test_the_trunks_are_those_that_are_built_and_their_weights_torchvisions():
    from torchvision.models import get_weight

    from stages.nets import backbones

    assert set(backbones.TRUNKS) == set(published.TRUNKS)
    for name, source, weights in (
        ("resnet18", "imagenet", "ResNet18_Weights.IMAGENET1K_V1"),
        ("resnet50", "imagenet", "ResNet50_Weights.IMAGENET1K_V1"),
        ("resnet50", "coco", "DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"),
        ("resnet101", "imagenet", "ResNet101_Weights.IMAGENET1K_V1"),
        ("resnet101", "coco", "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1"),
        ("mobilenet_v2", "imagenet", "MobileNet_V2_Weights.IMAGENET1K_V1"),
    ):
        assert published.TRUNKS[name][source] == get_weight(weights).url


@pytest.mark.parametrize("variables", [{"TORCH_HOME": "a"}, {"XDG_CACHE_HOME": "b"}, {}])
def test_weights_are_kept_where_torch_keeps_them(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert published.kept("https://x/y.pth") == Path(torch.hub.get_dir()) / "checkpoints/y.pth"


def test_weights_that_are_not_kept_and_cannot_be_fetched_are_refused_before_any_stage(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    (root := tmp_path / "data").mkdir()
    settings = configure.resolve("voc_small", [f"data.root={root}", "runtime.device=cpu"])
    words = r"No weights mobilenet_v2-b0353104\.pth: they are not in .*torch/hub/checkpoints, and cannot be fetched from download"
    with pytest.raises(StageError, match=words) as fault:
        Run(tmp_path / "run", settings).rehearse(["seed_train"])
    assert "\n" not in str(fault.value) and "--weights FILE" in str(fault.value)
    look = Run(tmp_path / "run", settings, look=True)
    look.rehearse(["seed_train"])
    assert look.to_fetch(["seed_train", "irn_train", "irn_masks"]) == [published.TRUNKS["mobilenet_v2"]["imagenet"]]
    kept = tmp_path / "torch/hub/checkpoints/mobilenet_v2-b0353104.pth"
    kept.parent.mkdir(parents=True)
    kept.touch()
    Run(tmp_path / "run", settings).rehearse(["seed_train", "irn_train"])


def test_any_of_timms_names_passes_until_it_is_used():
    assert vars(configure.resolve("voc", ["seed_train.backbone=timm:resnet26d"])["seed_train"])["backbone"] == "timm:resnet26d"
    for name in ("resnet26d", "timm:", "[timm]"):
        with pytest.raises(StageError, match=r"must be one of resnet18, .*, tiny, or timm:NAME for timm's, got"):
            configure.resolve("voc", [f"seed_train.backbone={name}"])


def test_a_configuration_stands_on_its_base(tmp_path):
    (tmp_path / "own.yaml").write_text("base: voc\nseed_train: {epochs: 3}\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/next.yaml").write_text("base: ../own.yaml\nseed_train: {alpha: 0.4}\n")
    own, last = configs.load(str(tmp_path / "own.yaml")), configs.load(str(tmp_path / "sub/next.yaml"))
    assert own["seed_train"] == {**configs.load("voc")["seed_train"], "epochs": 3} and "base" not in own
    assert last["seed_train"] == {**own["seed_train"], "alpha": 0.4} and last["irn_masks"] == {"pad": 512}
    coco = configure.resolve("voc_coco_init")
    assert coco["seed_train"] == configure.resolve("voc")["seed_train"] and coco["segment_train"].weights == "coco"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("base: vok", "Unknown dataset 'vok': .* Did you mean 'voc'"),
        ("base: [voc]", r"base is \['voc'\]. Name one configuration"),
        ("base: other.yaml", "its own base: by way of .*other.yaml. Take one `base` out"),
    ],
)
def test_a_base_that_is_none(tmp_path, text: str, fault: str):
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("base: own.yaml")
    with pytest.raises(StageError, match=fault):
        configs.load(str(tmp_path / "own.yaml"))


def test_what_the_log_warns_of_is_told(tmp_path):
    heard: list[str] = []
    noted: list[str] = []
    open_log(tmp_path, heard.append).warning("old")
    log = open_log(tmp_path, heard.append, noted.append)
    log.warning("no pixel of %s", "fox")
    log.error("a fault")
    log.info("a step")
    log.info("%s: starts", "seed_train", extra=ALOUD)
    assert heard == ["old", "no pixel of fox"] and noted == ["seed_train: starts"]
    assert any("no pixel of fox" in path.read_text() for path in (tmp_path / "logs").iterdir())  # a file a second


def test_a_warmup_that_leaves_no_epoch_is_refused():
    seed_train.check(seed_train.Config(epochs=2, warmup_epochs=1))
    with pytest.raises(StageError, match=r"warmup_epochs: 2.*Set it lower than epochs"):
        seed_train.check(seed_train.Config(epochs=2, warmup_epochs=2))
