"""From image-level labels to a segmentation network, stage by stage; this table of contents imports nothing heavy."""

from __future__ import annotations

PIPELINE: dict[str, str] = {
    "seed_train": "images + image-level labels → BAS network",
    "seed_infer": "BAS network → localization maps, seeds and their thresholds",
    "irn_labels": "seeds + dense CRF → affinity labels",
    "irn_train": "affinity labels → IRN (boundaries and displacements)",
    "irn_masks": "seeds + IRN → random walk → pseudo masks",
    "mask_choice": "pseudo masks or seeds, image by image → the masks to learn from",
    "segment_train": "chosen masks → DeepLabV2, or another segmentation network",
    "segment_predict": "segmentation network → predictions on the validation split, with and without CRF",
}
EXTRAS: dict[str, str] = {  # run when asked for, or before the stage whose settings call for them
    "cam_train": "images + image-level labels → CAM network, a second source of seeds",
    "self_masks": "DeepLabV2 → its own masks of the training images, held to their image-level labels",
    "segment_retrain": "its own masks → DeepLabV2 once more, from the same first weights",
    "irn_instances": "seeds + IRN with displacements → instance masks in COCO's format",
}
__version__ = "0.1.0"
