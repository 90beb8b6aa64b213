"""Pairs, affinities and their losses, against hand values and a plain sum over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from stages.formulas import affinity


def test_number_of_offsets() -> None:
    assert len(affinity.offsets(2)) == 4
    assert len(affinity.offsets(5)) == 34
    assert len(affinity.offsets(10)) == 152


def test_path_runs_from_the_far_end_to_the_source() -> None:
    assert affinity.path((0, 3)) == ((0, 3), (0, 2), (0, 1), (0, 0))
    assert affinity.path((1, -1)) == ((1, -1), (0, -1), (1, 0), (0, 0))


def test_a_wall_cuts_what_lies_behind_it() -> None:
    edge = torch.zeros(1, 3, 9)
    edge[0, :, 5] = 0.75
    pairs = affinity.pair_affinities(edge, 3)[0]
    steps = affinity.offsets(3)
    right_two = pairs[steps.index((0, 2)), 0]  # sources are columns 2..6
    assert right_two.tolist() == [1.0, 0.25, 0.25, 0.25, 1.0]


@pytest.mark.parametrize("radius", [2, 5, 10])
def test_every_path_is_the_union_of_its_pieces(radius: int) -> None:
    pieces = affinity.path_pieces(radius)
    assert tuple(pieces) == affinity.offsets(radius)
    for offset, parts in pieces.items():
        points = {(y + dy, x + dx) for piece, (dy, dx) in parts for y, x in (affinity.path(piece) if any(piece) else [(0, 0)])}
        assert points == set(affinity.path(offset))
    if radius == 10:
        assert sum(len(parts) - 1 for parts in pieces.values()) == 224
        assert sum(len(affinity.path(offset)) - 1 for offset in pieces) == 1982
        assert pieces[2, 3] == (((1, 1), (0, 0)), ((1, 1), (1, 2)))


@pytest.mark.parametrize(("radius", "size"), [(2, (3, 4)), (5, (9, 20)), (10, (10, 19)), (10, (14, 25))])
def test_maxima_are_those_of_the_paths_written_out(radius: int, size: tuple[int, int]) -> None:
    values = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    maxima = affinity.path_maximum(values, radius)
    for index, step in enumerate(affinity.offsets(radius)):
        written_out = torch.stack([affinity.source_window(values, radius, point) for point in affinity.path(step)]).amax(0)
        assert torch.equal(maxima[:, index], written_out)


def test_losses_do_not_depend_on_how_many_pairs_are_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    edge = torch.rand(3, 9, 12, generator=generator)
    kinds = affinity.pair_labels(torch.randint(0, 3, (3, 9, 12), generator=generator, dtype=torch.uint8), 3)
    whole = affinity.affinity_losses(edge, kinds, 3)
    monkeypatch.setattr(affinity, "PAIRS_AT_ONCE", {"cpu": 1})  # one image after another
    assert affinity.affinity_losses(edge, kinds, 3) == whole


def test_pair_kinds() -> None:
    labels = torch.tensor([[[0, 0, 3, 3, 4, 255]]], dtype=torch.uint8).expand(1, 2, 6).contiguous()
    kinds = affinity.pair_labels(labels, 2)[0, affinity.offsets(2).index((0, 1)), 0]  # sources are columns 1..4
    assert kinds.tolist() == [affinity.DIFFERENT, affinity.FOREGROUND, affinity.DIFFERENT, affinity.NEITHER]
    assert affinity.pair_labels(labels, 2)[0, 1, 0, 0] == affinity.BACKGROUND


def test_quarter_labels_take_the_middle_of_each_cell() -> None:
    labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    assert affinity.quarter_labels(labels).tolist() == [[[18, 22], [50, 54]]]


def test_a_map_smaller_than_the_radius_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs of radius 10"):
        affinity.pair_affinities(torch.zeros(1, 30, 18), 10)


def _plain_affinity_losses(edge: torch.Tensor, kinds: torch.Tensor, radius: int) -> dict[str, torch.Tensor]:
    """The same three terms with every pair's path written out."""
    steps = affinity.offsets(radius)
    highest = torch.stack(
        [torch.stack([affinity.source_window(edge, radius, point) for point in affinity.path(step)]).amax(0) for step in steps],
        1,
    )
    equal, unequal = -torch.log(1 - highest + affinity.LOG_EPS), -torch.log(highest + affinity.LOG_EPS)
    terms = {"bg_affinity": (equal, 1), "fg_affinity": (equal, 2), "neg_affinity": (unequal, 3)}
    return {
        name: values[kinds == kind].sum() / ((kinds == kind).sum() + affinity.COUNT_EPS) for name, (values, kind) in terms.items()
    }


def test_losses_and_gradients_equal_a_sum_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    edge = torch.rand(2, 12, 17, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 3, (2, 12, 17), generator=generator, dtype=torch.uint8)
    kinds = affinity.pair_labels(labels, 4)
    fast, plain = affinity.affinity_losses(edge, kinds, 4), _plain_affinity_losses(edge, kinds, 4)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value)
        expected = torch.autograd.grad(value, edge, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(fast[name], edge, retain_graph=True)[0], expected)


def test_affinity_losses_of_a_flat_edge_map() -> None:
    labels = torch.zeros(1, 6, 9, dtype=torch.uint8)
    labels[..., 5:] = 2
    losses = affinity.affinity_losses(torch.full((1, 6, 9), 0.25), affinity.pair_labels(labels, 3), 3)
    assert losses["bg_affinity"].item() == pytest.approx(-math.log(0.75), abs=1e-4)
    assert losses["fg_affinity"].item() == pytest.approx(-math.log(0.75), abs=1e-4)
    assert losses["neg_affinity"].item() == pytest.approx(-math.log(0.25), abs=1e-4)


def test_terms_without_pairs_are_zero() -> None:
    labels = torch.full((1, 6, 9), affinity.VOID, dtype=torch.uint8)
    logits = torch.zeros(1, 1, 6, 9, requires_grad=True)
    losses = affinity.irn_losses(logits, torch.ones(1, 2, 6, 9, requires_grad=True), labels, 3)
    assert [losses[name].item() for name in affinity.WEIGHTS] == [0.0] * 5
    losses["total"].backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))  # type: ignore[arg-type]


def test_a_field_that_points_at_one_centre_has_no_displacement_loss() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(11.0), indexing="ij")
    field = torch.stack([3 - rows, 5 - columns])[None]
    kinds = affinity.pair_labels(torch.ones(1, 8, 11, dtype=torch.uint8), 3)
    assert affinity.displacement_losses(field, kinds, 3)["fg_displacement"].item() == 0
    assert affinity.displacement_losses(-field, kinds, 3)["fg_displacement"].item() > 1


def test_displacement_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    field = torch.randn(2, 2, 6, 8, generator=generator, dtype=torch.float64).requires_grad_()
    kinds = affinity.pair_labels(torch.randint(0, 2, (2, 6, 8), generator=generator, dtype=torch.uint8), 3)
    for name in ("fg_displacement", "bg_displacement"):
        assert torch.autograd.gradcheck(lambda x, n=name: affinity.displacement_losses(x, kinds, 3)[n], field)


def test_total_weighs_the_terms() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 3, (1, 9, 12), generator=generator, dtype=torch.uint8)
    logits, field = (
        torch.randn(1, 1, 9, 12, generator=generator),
        torch.randn(1, 2, 9, 12, generator=generator),
    )
    terms = affinity.irn_losses(logits, field, labels, 3)
    positive = (terms["bg_affinity"] + terms["fg_affinity"]) / 2
    expected = (positive + terms["neg_affinity"]) / 2 + (terms["fg_displacement"] + terms["bg_displacement"]) / 2
    torch.testing.assert_close(terms["total"], expected)


def test_edge_merge_crops_before_it_mirrors_back() -> None:
    logits = torch.zeros(2, 1, 2, 5)
    logits[0, 0, 0, 0] = 4.0
    logits[1, 0, 0, 2] = 2.0  # column 0 of an image three wide, seen in the mirror
    edge = affinity.merge_edges(logits, (1, 3))
    torch.testing.assert_close(edge, torch.sigmoid(torch.tensor([[3.0, 0.0, 0.0]])))
