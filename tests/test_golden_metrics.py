"""Published IoU and DeepLab CRF numbers, from the functions that the stages run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import cases, load

from stages.formulas import crf, metrics


def test_golden_miou() -> None:
    data = load("miou.npz")
    for case in cases(data, "irn_confusion"):
        images = range(int(data[f"{case}/n_images"]))
        parts = [metrics.confusion(data[f"{case}/gt{i}"], data[f"{case}/pred{i}"], 21) for i in images]
        total = np.sum(parts, axis=0)
        np.testing.assert_array_equal(total, data[f"{case}/irn_confusion"])
        np.testing.assert_allclose(metrics.iou(total), data[f"{case}/irn_iou"], atol=1e-9)
        np.testing.assert_allclose(metrics.miou(total), data[f"{case}/irn_miou"], atol=1e-9)
        present = [int(i) for i in np.flatnonzero(total.sum(1))]
        np.testing.assert_allclose(metrics.miou(total, present), data[f"{case}/dl_miou"], atol=1e-9)
        mean_recall = metrics.mean_over(metrics.recall(total))
        np.testing.assert_allclose(mean_recall, data[f"{case}/dl_mean_acc"], atol=1e-9)


@pytest.mark.parametrize("name", ["deeplab_crf_photo.npz", "deeplab_crf_synth.npz"])
def test_golden_network_crf(name: str) -> None:
    pytest.importorskip("pydensecrf")
    data = load(name)
    image = data["image_bgr"]
    logits = torch.from_numpy(data["logits"])[None]
    resized = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0]
    probabilities = resized.softmax(0).numpy()
    np.testing.assert_allclose(probabilities[:, ::4, ::4], data["prob_sub4"], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(probabilities.argmax(0), data["label_before"])
    bgr = crf.refine_probabilities(image, probabilities)
    np.testing.assert_allclose(bgr[:, ::4, ::4], data["posterior_bgr_sub4"], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(bgr.argmax(0), data["label_crf_bgr"])
    rgb = crf.refine_probabilities(image[..., ::-1], probabilities)
    np.testing.assert_array_equal(rgb.argmax(0), data["label_crf_rgb"])
