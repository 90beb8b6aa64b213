"""The benchmarks: that each has its place, what a line holds, and that the references agree with the product."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import affinity, fullsize, measure, scoring, small_run, threshold, training, walk
from benchmarks.registry import TABLE, line

ROOT = Path(__file__).parents[1]
IDS = {
    *("rw_small", "rw_voc", "rw_mem", "rw_scale", "rw_gpu", "crf_pair", "crf_procs", "thr_search", "thr_overhead", "seed_post"),
    *("seed_store", "seed_infer", "bas_step", "eval_conf", "eval_sweep", "train_step_gpu", "loader_overlap", "cli_help"),
    *("cli_status", "rerun_cached", "resume", "rw_large", "irn_paths", "data_check"),
}
KEYS = {"id", "ratio", "value", "unit", "reference_seconds", "target", "status", "machine", "versions", "sizes"}


def test_every_benchmark_has_a_function_and_a_target():
    assert set(TABLE) == IDS
    for row in TABLE.values():
        assert callable(row.function()) and row.target


def test_a_line_is_one_json_document_with_figures_and_machine():
    command = [sys.executable, "-m", "benchmarks", "seed_store"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    row = json.loads(done.stdout)
    assert set(row) >= KEYS
    assert (row["id"], row["status"], row["unit"]) == ("seed_store", "met", "bytes")
    assert row["value"] * 20 <= row["reference_bytes"]
    assert row["ratio"] == pytest.approx(row["value"] / row["reference_bytes"], rel=1e-3)
    assert row["machine"]["cores"] >= 1 and row["versions"]["torch"] == torch.__version__.split("+")[0]


def test_an_unknown_id_is_answered_with_the_known_ones():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "rw_smal"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: no benchmark 'rw_smal'; there are rw_small") and done.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("identity", ["rw_gpu", "seed_infer", "train_step_gpu", "loader_overlap"])
def test_without_a_gpu_its_benchmarks_are_skipped_and_never_met(identity: str):
    row = line(identity)
    assert (row["status"], row["why"], row["ratio"]) == ("skipped", "no CUDA GPU", None)


def test_the_ratio_is_the_median_of_pairs():
    turns = [(6.0, 2.0), (9.0, 1.0), (8.0, 2.0)]
    pair = measure.Pair(tuple(measure.Turn(a, a) for a, _ in turns), tuple(measure.Turn(b, b) for _, b in turns))
    assert (pair.ratio, pair.seconds, pair.reference_seconds) == (4.0, 2.0, 8.0)
    assert pair.repeated(8).ratio == 32.0
    assert pair.against(4, {}).met and not pair.against(4.1, {}).met


def test_both_sides_take_turns_in_changing_order():
    order: list[str] = []
    measure.in_turns(lambda: order.append("a"), lambda: order.append("b"), repeats=2)
    runs = [letter for index, letter in enumerate(order) if index == 0 or letter != order[index - 1]]
    assert runs == ["a", "b", "a", "b", "a"]  # the first calls, then ab and ba


def test_the_dense_walk_is_the_sparse_one():
    scores, edge = walk.scene((9, 7))
    matrix = walk.dense_transition(edge.double())
    torch.testing.assert_close(matrix.sum(0), torch.ones(63, dtype=torch.float64))
    dense = walk.dense_walk(scores.double() * (1 - edge.double()), matrix)
    found = walk.walk.random_walk(scores.double(), edge.double(), method="exact")
    torch.testing.assert_close(found, dense)


def test_a_batch_of_walks_is_held_to_dense_ones():
    row = walk.many_at_once(torch.device("cpu"), (12, 13), 3)
    assert row.ratio is not None and row.extra["label_flips"] == 0 and row.extra["rel"] < 1e-4
    assert row.extra["ratio_with_construction"] > 0


def test_gathered_paths_lose_what_ours_do():
    logits, kinds = affinity.batch(1, (24, 32))
    torch.testing.assert_close(affinity.product(logits, kinds), affinity.gathered(logits, kinds))
    slopes = [affinity.gradient(losses, logits, kinds) for losses in (affinity.product, affinity.gathered)]
    torch.testing.assert_close(*slopes)
    assert slopes[0].abs().sum() > 0


def test_refinement_of_a_folder_of_photographs_is_timed(generated: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("pydensecrf")
    assert fullsize.main(["--data", str(generated), "--trunk", "tiny"]) == 0
    row = json.loads(capsys.readouterr().out)
    count = len((generated / "ImageSets/Segmentation/train.txt").read_text().split())
    assert (row["id"], row["images"], row["trunk"]) == ("fullsize", count, "tiny")
    rates = ("labels_a_second", "walk_exact_a_second", "walk_chebyshev_a_second", "masks_a_second")
    assert all(row[name] > 0 for name in rates) and row["peak_mb"] > 100


def test_counts_by_class_are_those_of_the_confusion_matrix():
    row = scoring.confusion()
    assert row.ratio is not None and row.ratio > 1


def test_full_passes_find_the_threshold_that_the_search_finds():
    run = small_run.runtime(device="cpu", precision="32-true")
    net = small_run.network("tiny")[0].eval()
    image, score_map = small_run.noise(size=(64, 80)), threshold.bump()
    with torch.inference_mode():
        expected = threshold.by_full_passes(net, image, score_map, 20)
        found, judged = threshold.searched(net, image, score_map, 20, run)
    assert found == expected and 1 < judged <= 20


def test_a_step_on_a_copy_of_f2_loses_as_much_as_one_without():
    run = small_run.runtime(device="cpu", precision="32-true")
    images, labels = small_run.noise(2, (48, 48)), torch.eye(small_run.CLASSES)[:2]
    steps = [training.Step(run, "tiny", way) for way in (training.copied, training.product)]
    losses = [[step(images, labels) for _ in range(3)] for step in steps]
    assert losses[0] == losses[1] and losses[0][0] != losses[0][2]
