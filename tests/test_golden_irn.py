"""The published IRN's numbers: seeds, affinity labels, losses, edges and random walk, each to its file's
tolerance.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import cases, load

from stages.formulas import affinity, crf, seeds, walk


def test_golden_seed_merge() -> None:
    data = load("bas_seed_merge.npz")
    for image in cases(data, "image_size"):
        height, width = (int(side) for side in data[f"{image}/image_size"])
        size = (height, width)
        scales = data[f"{image}/scales"]
        expected_sizes = data[f"{image}/scale_image_sizes"]
        assert [seeds.scaled_size(height, width, float(s)) for s in scales] == [tuple(row) for row in expected_sizes]
        names = [f"s{scale:g}".replace(".", "p") for scale in scales]
        bas = [seeds.add_mirrored(torch.from_numpy(data[f"{image}/bas_sigmoid_{s}"])) for s in names]
        cam = [seeds.add_mirrored(torch.from_numpy(data[f"{image}/cam_raw_{s}"]).relu()) for s in names]
        for leaf, merge in (("cam", seeds.merge_strided), ("high_res", seeds.merge_full)):
            alone, other = merge(bas, size), merge(cam, size)
            for kind, seed in (
                ("bas_only", seeds.normalise(alone)),
                ("bas_plus_cam", seeds.add_seeds([alone, other])),
            ):
                np.testing.assert_allclose(seed, data[f"{image}/{kind}/{leaf}"], atol=1e-5, rtol=0)
                if leaf == "high_res":
                    _check_seed_labels(data, f"{image}/{kind}", seed, data[f"{image}/keys"])


def _check_seed_labels(data: dict, case: str, seed: torch.Tensor, keys: np.ndarray) -> None:
    names = [key for key in data if key.startswith(f"{case}/seed_label_thr")]
    assert names
    for name in names:
        found = seeds.label(seed, float(name.rsplit("thr", 1)[1]), keys.tolist()).numpy()
        assert (found != data[name]).mean() <= 0.0005


@pytest.mark.parametrize("name", ["irn_label_photo.npz", "irn_label_synth.npz"])
def test_golden_irn_labels(name: str) -> None:
    pytest.importorskip("pydensecrf")
    data = load(name)
    for case in cases(data, "ir_label"):
        image = case.split("/")[0]
        thresholds = [int(number) / 100 for number in re.findall(r"\d+", case.split("/")[1])]
        maps, classes = torch.from_numpy(data[f"{image}/cam"]), data[f"{image}/class_ids"]
        ranks = range(len(classes))
        hard = [seeds.label(maps, threshold, ranks).numpy() for threshold in thresholds]
        ids = np.concatenate([[0], classes + 1])
        for kind, labels in zip(("fg", "bg"), hard, strict=True):
            np.testing.assert_array_equal(ids[labels], data[f"{case}/{kind}_hard_before_crf"])
        posteriors = crf.refine_labels(data[f"{image}/image_rgb"], hard, len(classes) + 1)
        refined = [posterior.argmax(0) for posterior in posteriors]
        for kind, posterior, labels in zip(("fg", "bg"), posteriors, refined, strict=True):
            np.testing.assert_array_equal(ids[labels], data[f"{case}/{kind}_after_crf"])
            if f"{case}/{kind}_posterior_sub4" in data:
                expected = data[f"{case}/{kind}_posterior_sub4"]
                np.testing.assert_allclose(posterior[:, ::4, ::4], expected, atol=1e-4, rtol=0)
        np.testing.assert_array_equal(crf.combine(*refined, classes), data[f"{case}/ir_label"])


def test_golden_pair_labels() -> None:
    data = load("irn_affinity_loss.npz")
    for case in cases(data, "label_full"):
        quarter = affinity.quarter_labels(torch.from_numpy(data[f"{case}/label_full"]))
        np.testing.assert_array_equal(quarter, data[f"{case}/label_quarter"])
        kinds = affinity.pair_labels(quarter, 10).flatten(2)
        for name, kind in (
            ("bg_pos", affinity.BACKGROUND),
            ("fg_pos", affinity.FOREGROUND),
            ("neg", affinity.DIFFERENT),
        ):
            np.testing.assert_array_equal(kinds == kind, data[f"{case}/{name}"].astype(bool))


LOSS_NAMES = {
    "bg_affinity": "bg_pos_aff_loss",
    "fg_affinity": "fg_pos_aff_loss",
    "neg_affinity": "neg_aff_loss",
    "fg_displacement": "dp_fg_loss",
    "bg_displacement": "dp_bg_loss",
    "total": "total_loss",
}


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_golden_affinity_losses(dtype: torch.dtype, rtol: float) -> None:
    data = load("irn_affinity_loss.npz")
    for case in cases(data, "edge_logit"):
        logits = torch.from_numpy(data[f"{case}/edge_logit"]).to(dtype).requires_grad_()
        field = torch.from_numpy(data[f"{case}/dp"]).to(dtype).requires_grad_()
        losses = affinity.irn_losses(logits, field, torch.from_numpy(data[f"{case}/label_quarter"]), 10)
        for name, stored in LOSS_NAMES.items():
            np.testing.assert_allclose(losses[name].item(), data[f"{case}/loss/{stored}"], rtol=rtol, atol=1e-12)
        losses["total"].backward()
        for found, stored in ((logits.grad, "edge_logit"), (field.grad, "dp")):
            expected = data[f"{case}/grad_total_{stored}"]
            assert found is not None
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_golden_pair_terms() -> None:
    data = load("irn_affinity_loss.npz")
    for case in cases(data, "pair_pos_loss_img0"):
        edge = torch.sigmoid(torch.from_numpy(data[f"{case}/edge_logit"])[:, 0])
        pairs = -torch.log(affinity.pair_affinities(edge, 10) + affinity.LOG_EPS)[0].flatten(1)
        np.testing.assert_allclose(pairs, data[f"{case}/pair_pos_loss_img0"], rtol=1e-5, atol=1e-6)
        field = torch.from_numpy(data[f"{case}/dp"])[0, 0]
        source = affinity.source_window(field, 10)
        others = torch.stack([affinity.source_window(field, 10, step) for step in affinity.offsets(10)])
        found = (source - others).abs().flatten(1)
        np.testing.assert_allclose(found, data[f"{case}/pair_dp_bg_img0_y"], rtol=1e-5, atol=1e-6)


def test_golden_edge_merge() -> None:
    data = load("irn_edge_merge.npz")
    height, width = (int(side) for side in data["image_size"])
    size = seeds.strided_size(height, width)
    edge = affinity.merge_edges(torch.from_numpy(data["edge_logits_padded"]), size)
    np.testing.assert_allclose(edge[None], data["edge"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(data["dp_padded"][0, :, : size[0], : size[1]], data["dp"], atol=1e-6, rtol=0)


def test_golden_paths() -> None:
    data = load("irn_random_walk.npz")
    radii = [int(key.rsplit("_r", 1)[1]) for key in data if key.startswith("search_dst_r")]
    assert radii
    for radius in radii:
        steps = affinity.offsets(radius)
        np.testing.assert_array_equal(steps, data[f"search_dst_r{radius}"])
        np.testing.assert_array_equal([len(affinity.path(s)) for s in steps], data[f"path_len_r{radius}"])
        points = [point for step in steps for point in affinity.path(step)]
        np.testing.assert_array_equal(points, data[f"path_points_r{radius}"])


def test_golden_affinities() -> None:
    data = load("irn_random_walk.npz")
    padded = F.pad(torch.from_numpy(data["small_edge"])[None], (5, 5, 0, 5), value=1.0)
    found = affinity.pair_affinities(padded, 5)[0]
    np.testing.assert_allclose(found.flatten(1), data["small_aff"], atol=1e-6, rtol=0)
    rows, columns = np.divmod(data["small_src"], padded.shape[-1])
    np.testing.assert_array_equal(rows.reshape(found.shape[1:])[:, 0], range(found.shape[1]))
    np.testing.assert_array_equal(columns.reshape(found.shape[1:])[0], range(4, 4 + found.shape[2]))
    for scene in sorted({key.split("_")[0] for key in data if key.endswith("_pair_aff")}):
        padded = F.pad(torch.from_numpy(data[f"{scene}_edge"])[None], (5, 5, 0, 5), value=1.0)
        found, steps = affinity.pair_affinities(padded, 5)[0], affinity.offsets(5)
        sources, targets = data[f"{scene}_pair_src_yx_padded"], data[f"{scene}_pair_dst_yx_padded"]
        for (y, x), (to_y, to_x), value in zip(sources, targets, data[f"{scene}_pair_aff"], strict=True):
            assert abs(found[steps.index((to_y - y, to_x - x)), y, x - 4].item() - value) <= 1e-6


def _dense(matrix: walk.Transition, steps: int = 1) -> torch.Tensor:
    count = len(matrix.flow)
    identity = torch.eye(count, dtype=matrix.weights.dtype).view(count, *matrix.size)
    return walk.propagate(identity, matrix, steps, "exact").view(count, count)


def test_golden_transition() -> None:
    data = load("irn_random_walk.npz")
    edge = torch.from_numpy(data["small_edge"])
    np.testing.assert_allclose(_dense(walk.transition(edge)), data["small_T1"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(_dense(walk.transition(edge.double())), data["small_T1_f64"], atol=1e-10, rtol=0)
    np.testing.assert_allclose(_dense(walk.transition(edge, beta=1)) > 0, data["small_dense_aff"] > 0)


SCENES = ("small", "m1", "m2")


@pytest.mark.parametrize("method", ["exact", "chebyshev"])
def test_golden_random_walk(method: walk.Method) -> None:
    data = load("irn_random_walk.npz")
    for scene in SCENES:
        edge, rows = torch.from_numpy(data[f"{scene}_edge"]), torch.from_numpy(data[f"{scene}_x"])
        single = walk.random_walk(rows, edge, method=method)
        np.testing.assert_allclose(single[:, None], data[f"{scene}_rw"], atol=1e-4, rtol=0)
        double = walk.random_walk(rows.double(), edge.double(), method=method)
        tolerance = 1e-10 if method == "exact" else 1e-4
        np.testing.assert_allclose(double[:, None], data[f"{scene}_rw_f64"], atol=tolerance, rtol=0)
        if f"{scene}_rw_nomask" in data:
            matrix = walk.transition(edge)
            plain = walk.propagate(rows, matrix, 256, method)
            np.testing.assert_allclose(plain[:, None], data[f"{scene}_rw_nomask"], atol=1e-4, rtol=0)
            lifted = walk.random_walk(seeds.power(rows, 1.5), edge, method=method)
            np.testing.assert_allclose(lifted[:, None], data[f"{scene}_rw_p1.5"], atol=1e-4, rtol=0)


def test_golden_column_sums() -> None:
    data = load("irn_random_walk.npz")
    np.testing.assert_allclose(
        _dense(walk.transition(torch.from_numpy(data["small_edge"])), 256),
        data["small_T256"],
        atol=1e-4,
        rtol=0,
    )
    for scene in SCENES:
        matrix = walk.transition(torch.from_numpy(data[f"{scene}_edge"]))
        for steps in (1, 256):
            sums = walk.propagate(torch.ones(1, *matrix.size), matrix, steps, "exact").flatten().numpy()
            np.testing.assert_allclose(sums, 1, atol=1e-5, rtol=0)
            # a sum is 1 by definition; where the stored float32 one is itself further off, that is allowed for
            stored = data[f"{scene}_T{steps}_colsum"]
            assert (np.abs(sums - stored) <= np.maximum(1e-4, 1.1 * np.abs(stored - 1))).all()


@pytest.mark.parametrize("method", ["exact", "chebyshev"])
def test_golden_random_walk_settings(method: walk.Method) -> None:
    data = load("irn_random_walk.npz")
    edge, rows = torch.from_numpy(data["small_edge"]), torch.from_numpy(data["small_x"])
    found = {
        "small_rw_edge_zeros": walk.random_walk(rows, torch.zeros_like(edge), method=method),
        "small_rw_edge_ones": walk.random_walk(rows, torch.ones_like(edge), method=method),
        "small_rw_exp0": walk.random_walk(rows, edge, exp_times=0, method=method),
        "small_rw_exp3_beta4": walk.random_walk(rows, edge, beta=4, exp_times=3, method=method),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value[:, None], data[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["exact", "chebyshev"])
def test_golden_walked_labels(method: walk.Method) -> None:
    data = load("irn_random_walk.npz")
    names = [key for key in data if "_label_p" in key]
    assert names
    for name in names:
        scene, exponent, threshold = re.fullmatch(r"(\w+)_label_p([\d.]+)_bg([\d.]+)", name).groups()  # type: ignore[union-attr]
        rows = seeds.power(torch.from_numpy(data[f"{scene}_x"]), float(exponent))
        walked = walk.random_walk(rows, torch.from_numpy(data[f"{scene}_edge"]), method=method)
        height, width = (int(side) for side in data[f"{scene}_orig_size"])
        full = seeds.upsample_walked(walked, (height, width))
        expected = data[f"{scene}_rw_up_p{exponent}"]
        np.testing.assert_allclose(full[:, ::3, ::3], expected, atol=1e-4, rtol=0)
        found = seeds.label(full, float(threshold), (data[f"{scene}_keys"][1:] - 1).tolist()).numpy()
        assert (found != data[name]).mean() <= 0.001
