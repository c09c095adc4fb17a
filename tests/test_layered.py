"""Fits of layered pictures: each prefix is a picture, and the joint objective is the sum of theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import splat
from splat.cli import main
from splat.core.rasterize_l2 import to_tiles
from splat.image.codec.encode import EncodeConfig, encode_model
from splat.image.codec.s2d import decode_image
from splat.image.draw import rasterize_image
from splat.image.fit import FitConfig, FitResult, fit_image
from splat.image.fitter import FitProgress, Plan
from splat.image.init import structure_tensor
from splat.image.layered import LayerFit, PrefixColorSystem, Prefixes, PrefixObjective, term_weights
from splat.image.layout import RGB, Layout
from splat.image.levels import by_importance, draw_levels, layer_sizes, prefix_sizes
from splat.image.model import TENSORS, ImageGaussians
from splat.image.objective import Objective
from splat.image.picture import read_picture, write_picture
from splat.image.solve import solve_colors
from splat.metrics import psnr

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim05.png"
WIDTH, HEIGHT = 40, 28
PREFIXES = Prefixes((6, 15), (0.3, 0.6))
ENDS = (30, 120, 480)


@cache
def photo() -> torch.Tensor:
    return read_picture(PHOTO).pixels[200:328, 250:410].contiguous()


@cache
def fitted() -> FitResult:
    return fit_image(photo(), FitConfig(layers=ENDS, preset="draft"))


def prefix_psnrs(model: ImageGaussians) -> list[float]:
    return [level.psnr or 0.0 for level, _ in draw_levels(model, layer_sizes(model), photo())]


def random_params(count: int = 40) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    means = torch.rand(count, 2, generator=g) * torch.tensor([float(WIDTH), float(HEIGHT)])
    shapes = {"means": means, "log_scales": 0.4 * torch.randn(count, 2, generator=g) + 1.0}
    colors = 0.3 * torch.randn(count, 3, generator=g)
    return shapes | {"angles": 3 * torch.rand(count, generator=g), "colors": colors}


def joint_objective() -> PrefixObjective:
    target = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(2))
    plain = Objective.of(target)
    return PrefixObjective(plain.canvas, plain.target_tiles, None, PREFIXES)


def joint_error(objective: PrefixObjective, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """By the reference in float64, prefix by prefix."""
    total = torch.zeros((), dtype=torch.float64)
    for end, weight in [*PREFIXES, (len(params["means"]), 1.0)]:
        means, log_scales, angles, colors = (params[name][:end] for name in TENSORS)
        image, _ = rasterize_image(
            means, (log_scales, angles), colors, (WIDTH, HEIGHT), blend=objective.canvas.options, backend="reference"
        )
        total = total + weight * (image - objective.target.double()).square().sum()
    return total


def test_the_joint_gradient_is_that_of_the_sum_over_the_prefixes() -> None:
    objective, params = joint_objective(), random_params()
    leaves = {name: p.double().requires_grad_(True) for name, p in params.items()}
    loss = 0.5 * joint_error(objective, leaves)
    wanted = torch.autograd.grad(loss, list(leaves.values()))
    step, grads = objective.step(params)
    for (name, got), want in zip(grads.items(), wanted, strict=True):
        assert (got - want).norm() <= 2e-5 * want.norm(), name
        # By differences along the gradient too, so that the reference is not all there is to believe.
        unit, h = want / want.norm(), 1e-5
        ends = [{**leaves, name: leaves[name].detach() + side * h * unit} for side in (-1, 1)]
        with torch.no_grad():
            low, high = (0.5 * float(joint_error(objective, end)) for end in ends)
        assert (high - low) / (2 * h) == pytest.approx(float(want.norm()), rel=1e-3)
    # The step itself is that of the whole picture.
    alone, _ = Objective(objective.canvas, objective.target_tiles).step(params)
    assert torch.equal(step.residual, alone.residual) and torch.equal(step.v_colors, alone.v_colors)
    assert step.clamped_error == alone.clamped_error


def test_the_joint_colours_are_the_least_of_the_sum() -> None:
    objective, params = joint_objective(), random_params()
    system = objective.color_system(params)
    assert isinstance(system, PrefixColorSystem)
    params["colors"] = solve_colors(system, objective.target_tiles, params["colors"], 200, ridge=0.0)
    _, grads = objective.step(params)
    before = objective.step(params | {"colors": torch.zeros(40, 3)})[1]["colors"]
    assert grads["colors"].norm() < 1e-4 * before.norm()


def test_without_prefixes_it_is_the_plain_objective() -> None:
    params, target = random_params(), torch.rand(HEIGHT, WIDTH, 3)
    plain = Objective.of(target)
    step, grads = PrefixObjective(plain.canvas, to_tiles(target)).step(params)
    same, wanted = plain.step(params)
    assert step.squared_error == same.squared_error
    assert all(torch.equal(grads[name], wanted[name]) for name in wanted)


def test_every_prefix_is_better_than_the_one_before_and_not_far_from_a_fit_of_its_size() -> None:
    model, psnrs = fitted().model, prefix_psnrs(fitted().model)
    assert model.layers == ENDS and len(model) == ENDS[-1]
    assert psnrs[-1] == pytest.approx(fitted().psnr, abs=0.01)
    for before, after in pairwise(psnrs):
        assert after > before + 2
    alone = [fit_image(photo(), FitConfig(n=n, preset="draft")).psnr for n in ENDS]
    for separate, prefix in zip(alone, psnrs, strict=True):
        assert prefix > separate - 0.5, (alone, psnrs)


def test_gaussians_are_exchanged_within_the_new_layer_alone() -> None:
    part = photo()[:48, :48].contiguous()
    before = fit_image(part, FitConfig(layers=(20,), preset="draft")).model
    before.means[:5], before.colors[:5] = -500.0, 0.0  # nothing would be lost with these
    fit = LayerFit(Objective.of(part), before.layout, structure_tensor(part), Plan(80), before)
    for step in range(100):
        fit.advance(step / 130)
    ages = fit.optimizer.steps
    assert len(fit) == 80 and (ages[:20] == 100).all()  # all that were there are there
    assert ages[20:].min() < 20 < ages[20:].max()


def test_a_layered_fit_is_the_same_for_the_same_seed_and_number_of_threads() -> None:
    config, threads, models = FitConfig(layers=(10, 40), preset="draft", seed=7), splat.get_num_threads(), []
    for n in (1, 3):
        splat.set_num_threads(n)
        models.append(fit_image(photo()[:48, :48], config).model)
    splat.set_num_threads(threads)
    other = fit_image(photo()[:48, :48], replace(config, seed=8)).model
    for name in TENSORS:
        assert torch.equal(getattr(models[0], name), getattr(models[1], name)), name
    assert not torch.equal(models[0].means, other.means)


@pytest.mark.parametrize("when", [40, 210, 390])
def test_a_stopped_fit_returns_a_model_with_the_layers_so_far(when: int) -> None:
    seen: list[FitProgress] = []

    def stop(progress: FitProgress) -> None:
        seen.append(progress)
        if progress.step == when:
            raise KeyboardInterrupt

    part = photo()[:48, :48]
    result = fit_image(part, FitConfig(layers=(10, 40), preset="draft"), callback=stop)
    assert result.interrupted and result.history[-1]["step"] == when
    assert result.model.layers[-1] == len(result.model) and result.model.layers[0] <= 10
    assert psnr(result.model.render().clamp(0, 1), part) == pytest.approx(result.psnr, abs=0.01)
    assert {p.steps for p in seen if p.step < min(when, 150)} == {400}  # of both layers
    if when > 200:
        assert result.psnr >= max(p.psnr for p in seen if p.step <= 200) - 0.01  # never below the layer before


def test_sizes_of_layers_follow_from_the_number_of_gaussians() -> None:
    assert prefix_sizes(8000, 3) == (500, 2000, 8000)
    assert prefix_sizes(3, 3) == (1, 3)  # too few for three
    assert term_weights((500, 2000, 8000)) == [1 / 16, 1 / 4, 1]
    model = fit_image(photo()[:48, :48], FitConfig(n=64, layers=3, preset="draft")).model
    assert model.layers == (4, 16, 64)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers": 0}, "layers must be in 1 .. 16, got 0"),
        ({"layers": ()}, "at least one layer"),
        ({"layers": (5, 5)}, "layers must be at least 6, got 5"),
        ({"layers": (5, 20), "n": 30}, "layers as a number with n"),
        ({"layers": (5, 20), "target_psnr": 30.0}, "layers as a number with n or target_psnr"),
        ({"layers": 2, "blend": "topk"}, "layers must be 1 with blend topk"),
    ],
)
def test_layers_that_cannot_be_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FitConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tile must be 0 or left out with layers"):
        fit_image(photo(), FitConfig(n=20, layers=2, tile=64))


def test_a_target_psnr_is_reached_in_layers() -> None:
    result = fit_image(photo()[:48, :48], FitConfig(target_psnr=30.0, layers=2, preset="draft"))
    assert result.psnr >= 30.0 and len(result.model.layers) == 2


@pytest.mark.parametrize("chunk", [0, 64])
def test_prefixes_of_the_file_are_as_good_as_those_of_the_model(chunk: int) -> None:
    model = fitted().model
    encoded = encode_model(model, photo(), EncodeConfig(qp=20, chunk=chunk))
    for i, (part, before) in enumerate(zip(encoded.layers, prefix_psnrs(model), strict=True), 1):
        cut = decode_image(encoded.data[: part.size])
        assert not cut.cut_off and len(cut.model) == part.count == decode_image(encoded.data, layers=i).model.layers[-1]
        got = psnr(cut.model.render().clamp(0, 1), photo())
        assert got == pytest.approx(part.psnr, abs=0.05)
        assert got > before - 0.4  # each layer rounded for its own prefix: the last loses 0.6
    assert encoded.layers[-1].size == len(encoded.data) and encoded.layers[-1].psnr == encoded.psnr


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_a_layered_file_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, file, cut = tmp_path / "small.png", tmp_path / "small.s2d", tmp_path / "cut.s2d"
    Image.open(PHOTO).resize((192, 128)).save(small)
    size = ("--max-bytes", "2500", "--layers", "3", "--preset", "draft", "--quiet")
    assert run("encode", str(small), str(file), *size) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  layer")]
    sizes = [int(line.split(" bytes")[0].rsplit(" ", 1)[1].replace(",", "")) for line in said]
    assert len(sizes) == 3 and sizes[-1] == file.stat().st_size <= 2500
    cut.write_bytes(file.read_bytes()[: sizes[2] - 1])
    target, psnrs = read_picture(small).pixels, []
    asked = (("--layer", "1"), ("--max-bytes", str(sizes[1])), ("--layer", "3"))
    for i, options in enumerate(asked):
        assert run("decode", str(file), str(tmp_path / f"{i}.png"), *options) == 0
        psnrs.append(psnr(read_picture(tmp_path / f"{i}.png").pixels, target))
    assert psnrs == sorted(psnrs) and psnrs[2] > psnrs[0] + 2
    for line, value in zip(said, psnrs, strict=True):
        assert float(line.split("bytes, ")[1].split(" ")[0]) == pytest.approx(value, abs=0.1)
    assert run("decode", str(cut), str(tmp_path / "cut.png")) == 0
    assert "2 layers are whole" in capsys.readouterr().out
    assert (tmp_path / "cut.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert run("info", str(file)) == 0
    assert f"Gaussians in {sizes[0]:,} bytes" in capsys.readouterr().out


def test_the_results_of_a_layered_fit_name_each_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.png"
    Image.open(PHOTO).resize((96, 64)).save(small)
    assert run("fit-image", str(small), "-o", str(tmp_path), "-n", "160", "--layers", "2", "--preset", "draft") == 0
    told = json.loads((tmp_path / "metrics.json").read_text())["layers"]
    assert [row["count"] for row in told] == [40, 160] and told[0]["psnr"] < told[1]["psnr"]
    assert f"layer 1: 40 Gaussians, {told[0]['psnr']:.2f} dB" in capsys.readouterr().out
    model = ImageGaussians.load(tmp_path / "model.safetensors")
    assert model.layers == (40, 160)


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_the_animation_of_the_levels_ends_with_the_whole_picture(suffix: str, tmp_path: Path) -> None:
    model, path = tmp_path / "model.safetensors", tmp_path / f"levels{suffix}"
    fitted().model.save(model)
    assert run("render-image", str(model), "-o", str(path), "--anim") == 0
    with Image.open(path) as film:
        frames = [np.asarray(frame.convert("RGB")) / 255.0 for frame in ImageSequence.Iterator(film)]
    errors = [float(np.square(frame - photo().numpy()).mean()) for frame in frames]
    assert len(frames) > 10 and errors[-1] == min(errors) < errors[0] / 4
    assert len(set(tmp_path.iterdir())) == 2  # no temporary file is left
    assert run("render-image", str(model), "-o", str(tmp_path / "a.gif"), "--anim") == 2
    assert run("render-image", str(model), "-o", str(path), "--anim", "--scale", "2") == 2


def test_another_order_has_no_layers() -> None:
    assert by_importance(fitted().model).layers == () and fitted().model.layers == ENDS


def test_with_a_mask_the_layers_are_judged_over_the_known_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "photo.png", photo(), RGB)
    hole = torch.zeros(128, 160, 1)
    hole[30:50] = 1.0
    write_picture(tmp_path / "hole.png", hole, Layout.of("L"))
    command = ["fit-image", str(tmp_path / "photo.png"), "--mask", str(tmp_path / "hole.png"), "-o", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "-n", "120", "--layers", "2", "--preset", "draft", "--quiet"])
    assert not ended.value.code
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["layers"][-1]["psnr"] == pytest.approx(metrics["psnr_known"], abs=1e-3)
    hole[5:-5, 5:-5] = 1.0  # what SSIM is told of
    write_picture(tmp_path / "hole.png", hole, Layout.of("L"))
    with pytest.raises(SystemExit) as ended:
        main([*command, "--preset", "draft", "--quiet"])
    assert ended.value.code == 2 and "mask must leave a pixel" in capsys.readouterr().err
