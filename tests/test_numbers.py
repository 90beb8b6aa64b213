"""Numbers as people read them: by stage, source and kind of threshold."""

from __future__ import annotations

import pytest

from bas_cli import console, numbers

SEEDS = {
    "train/bas/oracle/mIoU": 50.0,
    "train/bas/oracle/mIoU-6": 60.04,
    "train/bas/oracle/threshold": 0.4,
    "train/bas/fixed/mIoU": 48.0,
    "train/bas/fixed/mIoU-6": 57.0,
    "train/bas/fixed/threshold": 0.3,
    "train/sum/oracle/mIoU": 51.0,
    "train/sum/oracle/mIoU-6": 61.0,
    "train/sum/oracle/threshold": 0.5,
    "train/sum/image-specific/mIoU": 40.0,
    "train/sum/image-specific/mIoU-6": 41.0,
}


def cells(table) -> list[list[str]]:
    return [list(column.cells) for column in table.columns]


def test_the_headline_is_the_source_that_is_refined_kinds_apart():
    assert numbers.headline(SEEDS, "bas") == "train/bas mIoU-6: oracle 60.0, fixed 57.0"
    assert numbers.headline(SEEDS, "sum") == "train/sum mIoU-6: oracle 61.0, image-specific 41.0"
    assert numbers.headline(SEEDS, "other").startswith("train/sum ")
    assert numbers.headline({"train/loss/ac": 0.25, "train/loss/total": 1.5}, "bas") == "train/loss/total 1.5"
    assert numbers.headline({}, "bas") == ""


def test_a_stage_is_a_table_a_source_a_line_a_kind_a_column():
    losses, seeds = numbers.stage_tables({"seed_train": {"train/loss/total": 1.5}, "seed_infer": SEEDS}, "bas")
    assert cells(losses) == [["seed_train"], ["total 1.5"]]
    assert seeds.title == "seed_infer: mIoU-6 / mIoU in percent @ threshold"
    assert [column.header for column in seeds.columns] == ["source", "oracle", "fixed", "image-specific"]
    assert cells(seeds) == [
        ["train/bas  (to IRN)", "train/sum"],
        ["60.0 / 50.0 @ 0.40", "61.0 / 51.0 @ 0.50"],
        ["57.0 / 48.0 @ 0.30", "–"],
        ["–", "41.0 / 40.0"],
    ]


def test_the_legend_explains_the_names_that_are_shown():
    assert list(numbers.legend({"seed_train": {"train/loss/total": 1.5}}, "bas")) == []
    names = [line.split("  ")[0] for line in numbers.legend({"seed_infer": SEEDS}, "bas")]
    assert names == ["to IRN", "oracle", "fixed", "image-specific"]
    chosen = {"mask_choice": {"train/compared/better/mIoU": 1.0, "train/signs/combined/right": 2.0}}
    assert [line.split("  ")[0] for line in numbers.legend(chosen, "bas")] == ["better", "combined"]


def test_shares_are_a_table_too():
    (labels,) = numbers.stage_tables({"irn_labels": {"train/labels/void/share": 14.1, "train/labels/class/share": 20.0}}, "bas")
    assert labels.title == "irn_labels: share in percent" and cells(labels) == [["train/labels"], ["14.1"], ["20.0"]]


def test_values_that_have_no_name_but_their_kind():
    found = {"train/instances/AP": 40.0, "train/instances/AP50": 60.0}
    assert numbers.headline(found, "bas") == "train/instances: AP 40.0, AP50 60.0"
    (table,) = numbers.stage_tables({"irn_instances": found}, "bas")
    assert table.title == "irn_instances: in percent" and cells(table) == [["train/instances"], ["40.0"], ["60.0"]]


def test_a_source_of_many_values_has_lines_of_kinds_and_columns_of_values(capsys: pytest.CaptureFixture[str]):
    signs = {"train/signs/loss/seeds": 0.769, "train/signs/loss/right": 64.8, "train/signs/loss/cases": 142}
    found = {**signs, "train/signs/combined/right": 100.0, "train/choice/masks/mIoU": 36.3}
    choice, table = numbers.stage_tables({"mask_choice": found}, "bas")
    assert choice.title == "mask_choice: mIoU in percent" and cells(choice) == [["train/choice"], ["36.3"]]
    assert table.title.startswith("mask_choice: train/signs (percent, ")
    assert [column.header for column in table.columns] == ["", "seeds", "right", "cases"]
    assert cells(table) == [["loss", "combined"], ["0.769", "–"], ["64.8", "100"], ["142", "–"]]
    wide = {f"train/loss/a_rather_long_name_{number}": 1.0 for number in range(9)}
    console.show(numbers.stage_tables({"irn_train": wide}, "bas"))
    assert "a_rather_long_name_8 1" in capsys.readouterr().out.splitlines()[2]  # a file has no edge to wrap at


def test_classes_have_columns_of_kinds():
    (table,) = numbers.class_tables({"train/bas/oracle/mIoU": {"cat": 50.04}, "train/bas/fixed/mIoU": {"dog": 1.0}})
    assert cells(table) == [["cat", "dog"], ["50.0", "–"], ["–", "1.0"]]
