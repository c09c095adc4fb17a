"""Checkpoints of GaussianImage and Image-GS: what they draw is what we draw of them, and they come back from us."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splat.cli import main
from splat.image.checkpoints import Kind, load_checkpoint, save_checkpoint
from splat.image.model import ImageGaussians
from splat.image.picture import read_picture

WIDTH, HEIGHT, COUNT = 45, 30, 60
State = dict[str, Tensor]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def gaussianimage_state(kind: str, seed: int = 0) -> State:
    """As its constructors leave it, with wider shapes and colours of both signs, so that it draws a picture."""
    g = torch.Generator().manual_seed(seed)
    state = {
        "_xyz": torch.atanh(1.9 * torch.rand(COUNT, 2, generator=g) - 0.95),
        "_features_dc": torch.rand(COUNT, 3, generator=g) - 0.2,
        "_opacity": torch.ones(COUNT, 1),
        "bound": torch.full((1, 2), 0.5),
    }
    if kind == "gaussianimage":
        shape = 4 * torch.rand(COUNT, 3, generator=g) * torch.tensor([1, 1, 1]) - torch.tensor([0, 2, 0])
        return state | {
            "_cholesky": shape,
            "cholesky_bound": torch.tensor([[0.5, 0, 0.5]]),
            "background": torch.ones(3),
        }
    signed = torch.where(torch.rand(COUNT, 2, generator=g) < 0.5, -1, 1)
    shape = (1 + 3 * torch.rand(COUNT, 2, generator=g)) * signed
    return state | {"_scaling": shape, "_rotation": torch.randn(COUNT, 1, generator=g)}


def image_gs_state(features: int = 3, seed: int = 0) -> State:
    g = torch.Generator().manual_seed(seed)
    return {
        "xy": torch.rand(COUNT, 2, generator=g),
        "scale": 1 / (0.7 + 3 * torch.rand(COUNT, 2, generator=g)),  # some pixels see no weight above 1/255
        "rot": torch.randn(COUNT, 1, generator=g),
        "feat": torch.rand(COUNT, features, generator=g),
        "vis_feat": torch.rand(COUNT, features, generator=g),
    }


def turned(scales: Tensor, theta: Tensor) -> Tensor:
    """Covariances of both systems: their matrix R(theta), filled column by column, is (cos, sin; -sin, cos)."""
    cos, sin = theta.cos(), theta.sin()
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    root = rotation @ torch.diag_embed(scales)
    return root @ root.mT


def weights_at_whole_numbers(centres: Tensor, covariances: Tensor) -> Tensor:
    """[H, W, N] exp(-sigma) at pixels whose centres are whole numbers, as in both systems' kernels."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    d = centres - torch.stack([x, y], -1).double()[:, :, None]
    conics = torch.linalg.inv(covariances)
    return torch.exp(-0.5 * torch.einsum("hwni,nij,hwnj->hwn", d, conics, d))


def drawn_by_gaussianimage(state: State) -> Tensor:
    """The published forward pass: tanh, Cholesky or scales and rotation, the sum without what is below 1/255, clamp."""
    p = {name: value.double() for name, value in state.items()}
    size = torch.tensor([WIDTH, HEIGHT]).double()
    if "_cholesky" in p:
        l11, l21, l22 = (p["_cholesky"] + p["cholesky_bound"]).unbind(1)
        rows = [l11 * l11, l11 * l21, l11 * l21, l21 * l21 + l22 * l22]
        covariances = torch.stack(rows, 1).view(-1, 2, 2)
    else:
        covariances = turned((p["_scaling"] + p["bound"]).abs(), 2 * math.pi * torch.sigmoid(p["_rotation"])[:, 0])
    weights = weights_at_whole_numbers(0.5 * size * torch.tanh(p["_xyz"]) + 0.5 * size, covariances)
    return (weights.where(weights >= 1 / 255, 0) @ (p["_opacity"] * p["_features_dc"])).clamp(0, 1)


def drawn_by_image_gs(state: State) -> Tensor:
    """The published forward pass, of one tile: the ten largest weights, normalised with 1e-4."""
    p = {name: value.double() for name, value in state.items()}
    centres = p["xy"] * torch.tensor([WIDTH, HEIGHT])
    weights, chosen = weights_at_whole_numbers(centres, turned(1 / p["scale"], p["rot"][:, 0])).topk(10)
    return (weights[..., None] * p["feat"][chosen]).sum(2) / (weights.sum(2, keepdim=True) + 1e-4)


def saved(state: State, kind: Kind, path: Path) -> Path:
    torch.save({"step": 7, "state_dict": state} if kind == "image-gs" else state, path)
    return path


def test_a_gaussianimage_checkpoint_draws_what_its_own_formula_draws(tmp_path: Path) -> None:
    for kind in ("gaussianimage", "gaussianimage-rs"):
        state = gaussianimage_state(kind)
        model = load_checkpoint(saved(state, kind, tmp_path / "m.pth.tar"), width=WIDTH, height=HEIGHT)
        wrong = (model.render().clamp(0, 1) - drawn_by_gaussianimage(state)).abs()
        # A weight within rounding of 1/255 may fall on either side of the cut.
        assert wrong.max() < 1 / 200 and (wrong > 1e-5).float().mean() < 0.01, kind
        assert drawn_by_gaussianimage(state).std() > 0.1


def test_an_image_gs_checkpoint_draws_what_its_own_formula_draws(tmp_path: Path) -> None:
    state = image_gs_state()
    model = load_checkpoint(saved(state, "image-gs", tmp_path / "ckpt_step-7.pt"), width=WIDTH, height=HEIGHT)
    torch.testing.assert_close(model.render().double(), drawn_by_image_gs(state), rtol=0, atol=1e-3)
    assert drawn_by_image_gs(state).std() > 0.1
    # Smaller, so that many pixels see tiny weights only. Then what we cut at 1e-6 is a hundredth of the divisor's 1e-4.
    small = replace(model, log_scales=model.log_scales - 0.5)
    wrong = (small.render() - drawn_by_image_gs({**state, "scale": state["scale"] * math.exp(0.5)})).abs()
    assert wrong.max() < 0.02 and wrong.mean() < 1e-3


def test_what_we_write_is_drawn_by_their_formulas(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(3)
    model = ImageGaussians(
        means=torch.rand(COUNT, 2, generator=g) * torch.tensor([WIDTH - 0.5, HEIGHT - 0.5]) + 0.5,
        log_scales=2 * torch.rand(COUNT, 2, generator=g) - 0.2,
        angles=20 * torch.rand(COUNT, generator=g) - 10,
        colors=torch.rand(COUNT, 3, generator=g) - 0.2,
        width=WIDTH,
        height=HEIGHT,
    )
    for kind in ("gaussianimage", "gaussianimage-rs"):
        written = save_checkpoint(tmp_path / "m.pth.tar", model, kind)
        assert written.moved == 0
        theirs = drawn_by_gaussianimage(torch.load(tmp_path / "m.pth.tar", weights_only=True))
        wrong = (model.render().clamp(0, 1) - theirs).abs()
        assert wrong.max() < 1 / 200 and (wrong > 1e-4).float().mean() < 0.01, kind
    wide = replace(model, blend="topk", colors=model.colors + 0.2)
    save_checkpoint(tmp_path / "ckpt_step-0.pt", wide, "image-gs")
    theirs = drawn_by_image_gs(torch.load(tmp_path / "ckpt_step-0.pt", weights_only=True)["state_dict"])
    torch.testing.assert_close(wide.render().double(), theirs, rtol=0, atol=1e-3)


def test_a_checkpoint_of_ours_loads_strictly_into_modules_of_their_parameters(tmp_path: Path) -> None:
    state = image_gs_state()
    model = load_checkpoint(saved(state, "image-gs", tmp_path / "a.pt"), width=WIDTH, height=HEIGHT)
    save_checkpoint(tmp_path / "b.pt", model, "image-gs")
    module = nn.Module()
    for name, value in state.items():
        module.register_parameter(name, nn.Parameter(torch.zeros_like(value)))
    theirs = torch.optim.Adam([{"params": getattr(module, name), "lr": 1.0} for name in ("xy", "scale", "rot", "feat")])
    content = torch.load(tmp_path / "b.pt", weights_only=True)
    module.load_state_dict(content["state_dict"])
    theirs.load_state_dict(content["optim_state_dict"])
    for name in ("xy", "scale", "rot", "feat"):
        torch.testing.assert_close(module.state_dict()[name], state[name], rtol=1e-5, atol=1e-6)
    assert [group["lr"] for group in theirs.param_groups] == [5e-4, 2e-3, 2e-3, 5e-3]


@pytest.mark.parametrize("kind", ["gaussianimage", "gaussianimage-rs"])
def test_a_gaussianimage_checkpoint_comes_back_as_it_was(tmp_path: Path, kind: Kind) -> None:
    state = gaussianimage_state(kind)
    model = load_checkpoint(saved(state, kind, tmp_path / "a.tar"), width=WIDTH, height=HEIGHT)
    save_checkpoint(tmp_path / "b.tar", model, kind)
    again = torch.load(tmp_path / "b.tar", weights_only=True)
    assert again.keys() == state.keys()
    assert all(again[name].shape == state[name].shape for name in state)
    torch.testing.assert_close(again["_xyz"], state["_xyz"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(drawn_by_gaussianimage(again), drawn_by_gaussianimage(state), rtol=0, atol=1 / 255)


def test_gaussians_outside_of_the_picture_are_moved_to_its_border_and_counted(tmp_path: Path) -> None:
    means = torch.tensor([[-3.5, 10.0], [20.0, 12.0], [WIDTH + 0.75, HEIGHT / 2]])
    model = ImageGaussians(means, torch.ones(3, 2), torch.zeros(3), torch.ones(3, 3), WIDTH, HEIGHT)
    written = save_checkpoint(tmp_path / "m.tar", model, "gaussianimage")
    assert written.moved == 2 and abs(written.farthest - 4.0) < 1e-3
    again = load_checkpoint(tmp_path / "m.tar", width=WIDTH, height=HEIGHT)
    expected = torch.tensor([[0.5, 10.0], [20.0, 12.0], [WIDTH + 0.5, HEIGHT / 2]])
    torch.testing.assert_close(again.means, expected, rtol=0, atol=1e-3)
    before = model.render()
    as_they_were = replace(again, colors=model.colors).render()
    assert (again.render() - before).square().sum() < 0.5 * (as_they_were - before).square().sum()  # colours make up


def test_a_dilation_is_written_into_the_shapes(tmp_path: Path) -> None:
    state = gaussianimage_state("gaussianimage")
    model = load_checkpoint(saved(state, "gaussianimage", tmp_path / "a.tar"), width=WIDTH, height=HEIGHT)
    dilated = replace(model, dilation=0.4)
    save_checkpoint(tmp_path / "b.tar", dilated, "gaussianimage")
    again = load_checkpoint(tmp_path / "b.tar", width=WIDTH, height=HEIGHT)
    assert again.dilation == 0
    torch.testing.assert_close(again.render(), dilated.render(), rtol=0, atol=0.02)
    assert (model.render() - dilated.render()).abs().max() > 0.05


def test_a_quantised_run_gives_its_float_parameters_and_broken_rows_are_left_out(tmp_path: Path) -> None:
    state = gaussianimage_state("gaussianimage")
    state["cholesky_quantizer.scale"] = torch.ones(3)
    state["_cholesky"][4, 1] = math.nan
    state["_features_dc"][9] = math.inf
    model = load_checkpoint(saved(state, "gaussianimage", tmp_path / "a.tar"), width=WIDTH, height=HEIGHT)
    assert len(model) == COUNT - 2


def test_a_stack_is_read_by_its_features(tmp_path: Path) -> None:
    state = image_gs_state(features=7)
    path = saved(state, "image-gs", tmp_path / "stack.pt")
    with pytest.raises(ValueError, match="7 features"):
        load_checkpoint(path, width=WIDTH, height=HEIGHT)
    model = load_checkpoint(path, width=WIDTH, height=HEIGHT, features=(3, 4))
    assert model.layout.mode == "L"
    assert torch.equal(model.colors, state["feat"][:, 3:4])
    with pytest.raises(ValueError, match=r"0 \.\. 7"):
        load_checkpoint(path, width=WIDTH, height=HEIGHT, features=(6, 9))


def test_scales_that_are_not_inverse_are_read_as_they_are(tmp_path: Path) -> None:
    state = image_gs_state()
    inverse = load_checkpoint(saved(state, "image-gs", tmp_path / "a.pt"), width=WIDTH, height=HEIGHT)
    state["scale"] = 1 / state["scale"]
    path = saved(state, "image-gs", tmp_path / "b.pt")
    plain = load_checkpoint(path, width=WIDTH, height=HEIGHT, inverse_scale=False)
    torch.testing.assert_close(plain.log_scales, inverse.log_scales)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "no such file"),
        (b"not a checkpoint at all", "damaged"),
        ({"weight": torch.ones(3)}, "GaussianImage .with _xyz. or of Image-GS .with xy."),
        ({"_xyz": torch.ones(3, 2), "_features_dc": torch.ones(3, 3)}, "no tensor '_cholesky'"),
        ({"_xyz": torch.ones(3, 3), "_features_dc": torch.ones(3, 3)}, "_xyz must have shape"),
    ],
)
def test_what_is_no_checkpoint_is_one_clear_error(tmp_path: Path, content: object, wanted: str) -> None:
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=wanted):
        load_checkpoint(path, width=4, height=4)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"_xyz": Path("x")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not a checkpoint of tensors"):
        load_checkpoint(tmp_path / "x.pt", width=4, height=4)


def test_a_missing_size_and_a_model_that_they_cannot_draw_are_clear_errors(tmp_path: Path) -> None:
    path = saved(image_gs_state(), "image-gs", tmp_path / "a.pt")
    with pytest.raises(ValueError, match="width and height in pixels"):
        load_checkpoint(path, width=5)
    model = load_checkpoint(path, width=WIDTH, height=HEIGHT)
    for kind, changed in (("gaussianimage", model), ("image-gs", replace(model, topk=4))):
        with pytest.raises(ValueError, match="draws"):
            save_checkpoint(tmp_path / "b.pt", changed, kind)
    assert not (tmp_path / "b.pt").exists()


def test_the_command_line_converts_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, drawn = tmp_path / "model.safetensors", tmp_path / "render.png"
    size = ["--width", str(WIDTH), "--height", str(HEIGHT)]
    cases: list[tuple[Kind, State]] = [
        ("gaussianimage", gaussianimage_state("gaussianimage")),
        ("gaussianimage-rs", gaussianimage_state("gaussianimage-rs")),
        ("image-gs", image_gs_state()),
    ]
    for kind, state in cases:
        theirs = saved(state, kind, tmp_path / "theirs.pth.tar")
        assert run("convert", theirs, ours, *size) == 0
        assert run("convert", ours, tmp_path / "again.pt", "--to", kind) == 0
        assert run("convert", tmp_path / "again.pt", ours, *size) == 0
        assert run("render-image", ours, "-o", drawn) == 0
        wanted = (drawn_by_image_gs if kind == "image-gs" else drawn_by_gaussianimage)(state)
        wrong = (read_picture(drawn).pixels - wanted.clamp(0, 1)).abs()
        assert wrong.max() < 2 / 255 and wrong.mean() < 0.003, kind
    capsys.readouterr()
    assert run("convert", theirs, ours) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run("convert", ours, tmp_path / "x.pt", "--to", "gaussianimage") == 2
    assert "blend topk" in capsys.readouterr().err


def test_an_option_that_does_not_apply_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, ours = saved(image_gs_state(), "image-gs", tmp_path / "a.pt"), tmp_path / "model.safetensors"
    size = ["--width", str(WIDTH), "--height", str(HEIGHT)]
    assert run("convert", theirs, ours, *size, "--count", 5) == 2
    assert "--count does not apply" in capsys.readouterr().err
    assert run("convert", theirs, tmp_path / "model.json", *size) == 0
    for more in (["again.ply", *size], ["again.pt", "--to", "image-gs", *size]):
        assert run("convert", tmp_path / "model.json", tmp_path / more[0], *more[1:]) == 2
        assert "--width does not apply" in capsys.readouterr().err
    assert run("convert", tmp_path / "model.json", tmp_path / "again.pt", "--to", "image-gs") == 0
