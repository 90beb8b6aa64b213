"""Background activation suppression by values that can be checked by hand, and the traps that collapse its maps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import stage_context
from torch import Tensor, nn

from stages import seed_train
from stages.formulas import bas as formulas
from stages.nets import backbones
from stages.nets.bas import BasNet, assemble, frozen, load, save


def test_eq_3_is_the_ratio_of_background_to_whole_activation():
    score, background = torch.tensor([4.0, 2.0, 8.0]), torch.tensor([1.0, 0.0, -3.0])
    values = formulas.background_activation_suppression(score, background)
    torch.testing.assert_close(values, torch.tensor([0.25, 0.0, 0.0]))


def test_eq_3_where_the_background_exceeds_is_the_constant_one():
    background = torch.tensor([5.0, 1.0, 0.5], requires_grad=True)
    values = formulas.background_activation_suppression(torch.tensor([2.0, -1.0, 1.0]), background)
    assert values.tolist()[:2] == [1.0, 1.0]  # the second: S = relu(-1) = 0 < S_b
    values.sum().backward()
    assert background.grad is not None
    torch.testing.assert_close(background.grad, torch.tensor([0.0, 0.0, 1.0]))


def test_eq_3_of_two_zeros_is_zero():
    assert formulas.background_activation_suppression(torch.tensor([-1.0]), torch.tensor([-2.0])).item() == 0


def test_eq_4_is_the_mean_of_the_mask():
    masks = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    assert formulas.area_constraint(masks).tolist() == [0.5, 0.25]


def test_eq_5_6_pool_the_masked_class_maps():
    class_maps = torch.tensor([[[[2.0, 4.0]], [[6.0, 0.0]]]])  # 2 classes on a 1x2 grid
    mask = torch.tensor([[[[1.0, 0.0]]]])
    value = formulas.foreground_region_guidance(class_maps, mask, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(math.exp(1) + math.exp(3)) - 1)  # pooled: 1 and 3


def test_eq_9_sets_each_present_class_against_the_absent_ones():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))
    assert formulas.multi_label_cross_entropy(logits, labels).item() == pytest.approx(expected)


def test_eq_9_with_every_class_present_is_zero_and_its_gradient_finite():
    logits = torch.tensor([[1.0, -2.0]], requires_grad=True)
    value = formulas.multi_label_cross_entropy(logits, torch.ones(1, 2)).sum()
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_eq_10_weighs_the_terms():
    terms = {name: torch.tensor(value) for name, value in (("mcls", 1.0), ("frg", 10.0), ("ac", 100.0), ("bas", 1000.0))}
    assert formulas.total(terms, formulas.Weights(alpha=0.2, beta=1.2, lam=2.0)).item() == pytest.approx(1 + 2 + 120 + 2000)


def test_every_equation_has_the_gradient_of_its_values():
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    background = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    class_maps, chosen = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.tensor([1, 3])
    labels, score = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1.0]]), torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda b: formulas.background_activation_suppression(score, b), background)
    assert torch.autograd.gradcheck(formulas.area_constraint, mask)
    assert torch.autograd.gradcheck(lambda m: formulas.foreground_region_guidance(class_maps, m, chosen), mask)
    assert torch.autograd.gradcheck(lambda x: formulas.multi_label_cross_entropy(x, labels), logits)


def small_net() -> BasNet:
    torch.manual_seed(1)
    return assemble(backbones.build("tiny"), 3).train()


def terms_of(net: BasNet, images: Tensor) -> dict[str, Tensor]:
    labels, chosen = torch.tensor([[1.0, 0, 1], [0, 1, 0]]), torch.tensor([2, 1])
    maps = net(images)
    mask = maps.foreground[range(len(images)), chosen][:, None]
    return formulas.losses(maps.class_maps, mask, net.background_logits(maps.features, mask), labels, chosen)


def gradients(net: BasNet, loss: Tensor) -> dict[str, bool]:
    """Which part of the network a loss moves."""
    net.zero_grad()
    loss.backward(retain_graph=True)
    parts = {"extractor": net.extractor, "evaluator": net.evaluator, "generator": net.generator}
    return {name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for name, part in parts.items()}


def test_the_score_is_a_constant_in_eq_3():
    score = torch.tensor([2.0], requires_grad=True)
    background = torch.tensor([1.0], requires_grad=True)
    formulas.background_activation_suppression(score, background).sum().backward()
    assert score.grad is None and background.grad is not None


def test_features_and_f2_are_constants_in_the_background_branch():
    net = small_net()
    features = torch.rand(2, 64, 4, 4, requires_grad=True)
    mask = torch.rand(2, 1, 4, 4, requires_grad=True)
    net.background_logits(features, mask).sum().backward()
    assert features.grad is None
    assert mask.grad is not None and mask.grad.any()
    assert all(p.grad is None for p in net.evaluator.parameters())


def test_what_each_loss_teaches():
    """L_bas reaches F1 through the mask alone; no loss of the mask moves F2."""
    net = small_net()
    terms = terms_of(net, torch.rand(2, 3, 32, 32))
    assert gradients(net, terms["mcls"]) == {"extractor": True, "evaluator": True, "generator": False}
    for name in ("frg", "ac", "bas"):
        assert gradients(net, terms[name]) == {"extractor": True, "evaluator": False, "generator": True}, name


def test_the_frozen_branch_leaves_the_running_statistics_alone():
    net = small_net()
    maps = net(torch.rand(2, 3, 32, 32))
    before = copy.deepcopy(dict(net.evaluator.named_buffers()))
    net.background_logits(maps.features, maps.foreground[:, :1])
    after = dict(net.evaluator.named_buffers())
    assert before and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("training", [True, False])
def test_frozen_equals_a_deep_copy(training: bool):
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()).train(training)
    x = torch.rand(4, 3, 6, 6, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    first, second = frozen(module, x), copy.deepcopy(module)(other)
    assert torch.equal(first, second)
    weights = torch.rand_like(first)  # the plain sum of normalised values has no gradient
    (first * weights).sum().backward()
    (second * weights).sum().backward()
    assert x.grad is not None and other.grad is not None and x.grad.any()
    assert torch.equal(x.grad, other.grad)
    assert all(p.grad is None for p in module.parameters())


def test_drawn_classes_are_present_and_all_of_them_occur():
    labels = torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 0]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([formulas.draw_classes(labels, generator) for _ in range(60)])
    assert set(drawn[:, 0].tolist()) == {1, 3} and set(drawn[:, 1].tolist()) == {0}


def test_a_network_is_saved_and_read_back(tmp_path):
    backbone = backbones.build("tiny")
    net = assemble(backbone, 4).eval()
    save(net, backbone, tmp_path / "network.safetensors")
    again, trunk = load(tmp_path / "network.safetensors")
    x = torch.rand(1, 3, 32, 32)
    maps, same = net(x), again.eval()(x)
    assert maps.agnostic is None and same.agnostic is None
    for first, second in zip(maps[:3], same[:3], strict=True):
        assert torch.equal(first, second)
    content = (tmp_path / "network.safetensors").read_bytes()
    for _ in range(8):
        save(net, backbone, tmp_path / "network.safetensors")
        assert (tmp_path / "network.safetensors").read_bytes() == content
    assert trunk.name == "tiny" and [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]


def test_the_class_agnostic_map_is_taught_by_all_present_classes():
    class_maps = torch.tensor([[[[4.0]], [[2.0]], [[1.0]]]])  # S of 4, 2 and 1
    mask = torch.tensor([[[[0.5]]]])
    background, labels = torch.tensor([[1.0, 1.0, 0.5]]), torch.tensor([[1.0, 1.0, 0.0]])
    terms = formulas.agnostic_losses(class_maps, mask, background, labels, per_class=True)
    assert terms["fg_bas"].item() == pytest.approx(1 / 4 + 1 / 2)
    assert terms["fg_ac"].item() == pytest.approx(2 * 0.5)
    assert terms["fg_frg"].item() == pytest.approx(math.log(1 + math.exp(0.5 - 2)) + math.log(1 + math.exp(0.5 - 1)))
    assert formulas.agnostic_losses(class_maps, mask, background, labels, per_class=False)["fg_ac"].item() == 0.5


@pytest.mark.parametrize("masked", ["features", "image"])
def test_without_l_bas_its_pass_is_left_out_and_nothing_else_changes(masked: str, tmp_path):
    """λ of 0 sums the other terms; a λ too small to count gives the same gradients with the pass."""
    found = {}
    for lam in (0.0, 1e-30):
        torch.manual_seed(0)
        net = assemble(backbones.build("tiny"), 5, agnostic=True).train()
        passes = []
        net.classifier.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        config = seed_train.Config(lam=lam, beta=1.0, agnostic="shared", masked=masked)
        ctx = stage_context(tmp_path / f"{lam}", "seed_train", {}, val=1)
        terms = seed_train._Step(net, config, ctx, 4)((torch.rand(4, 3, 32, 32), torch.eye(5)[:4]), 0)
        terms["total"].backward()
        found[lam] = set(terms), len(passes), [p.grad for p in net.parameters()]
    (without, once, mine), (with_it, thrice, others) = found.values()
    assert (once, thrice) == (1, 3) and with_it - without == {"bas", "fg_bas"}
    torch.testing.assert_close(mine, others, rtol=0, atol=1e-20)


def test_eq_10_weighs_the_class_agnostic_terms_alike():
    terms = {name: torch.tensor(1.0) for name in ("mcls", "frg", "ac", "bas", "fg_frg", "fg_ac", "fg_bas")}
    assert formulas.total(terms, formulas.Weights(0.5, 1.5, 1.0)).item() == pytest.approx(1 + 2 * 3.0)


def test_the_power_of_the_area_keeps_full_and_empty_maps():
    masks = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.25), torch.ones(1, 2, 2)])
    torch.testing.assert_close(formulas.area_constraint(masks, 0.5), torch.tensor([0.0, 0.5, 1.0]), atol=2e-4, rtol=0)


@pytest.mark.parametrize("detached", [True, False])
def test_the_class_agnostic_generator_teaches_the_trunk_only_if_shared(detached):
    net = assemble(backbones.build("tiny"), 3, agnostic=True)
    net.agnostic_detached = detached
    agnostic = net(torch.randn(2, 3, 32, 32)).agnostic
    assert agnostic is not None and agnostic.shape == (2, 1, 4, 4)
    agnostic.sum().backward()
    assert (next(net.extractor.parameters()).grad is None) == detached
    assert net.agnostic is not None and next(net.agnostic.parameters()).grad is not None


@pytest.mark.parametrize(("split", "grid"), [(2, 16), (3, 8), (5, 4)])
def test_the_generator_reads_the_layer_that_is_asked_for(split, grid, tmp_path):
    backbone = backbones.build("tiny")
    net = assemble(backbone, 3, split, agnostic=True)
    maps = net(torch.randn(2, 3, 32, 32))
    assert maps.foreground.shape == (2, 3, grid, grid) and maps.class_maps.shape == (2, 3, 4, 4)
    chosen, labels = torch.tensor([0, 1]), torch.eye(3)[:2]
    mask = maps.foreground[range(2), chosen][:, None]
    terms = formulas.losses(maps.class_maps, mask, net.background_logits(maps.features, mask), labels, chosen)
    assert all(value.isfinite() for value in terms.values())
    save(net, backbone, tmp_path / "net.safetensors", split)
    again, _ = load(tmp_path / "net.safetensors")
    net.eval(), again.eval()
    for first, second in zip(net(torch.ones(1, 3, 32, 32)), again(torch.ones(1, 3, 32, 32)), strict=True):
        torch.testing.assert_close(first, second)


def test_masking_the_image_hides_it_from_the_whole_network():
    net = assemble(backbones.build("tiny"), 3).eval()
    images = torch.randn(2, 3, 32, 32)
    nothing, everything = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    torch.testing.assert_close(net.background_logits_of_images(images, nothing), net(images).class_maps.mean(dim=(2, 3)))
    black = net(torch.zeros_like(images)).class_maps.mean(dim=(2, 3))
    torch.testing.assert_close(net.background_logits_of_images(images, everything), black)


def test_with_or_without_the_class_agnostic_map_the_others_start_from_the_same_numbers():
    nets = []
    for agnostic in (False, True):
        torch.manual_seed(0)
        nets.append(assemble(backbones.build("tiny"), 3, agnostic=agnostic))
    plain, both = (dict(net.named_parameters()) for net in nets)
    assert set(both) - set(plain) == {"agnostic.weight"}
    assert all(torch.equal(value, both[name]) for name, value in plain.items())
