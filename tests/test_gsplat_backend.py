"""render(backend="gsplat"). Without a GPU gsplat is replaced by our function of its signature, or by its own Python
code over torch kernels: what is proved is what goes to gsplat and what is made of its answer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import splat
from splat import Cameras, Gaussians, ProjectOptions, RasterizeOptions, Rendered, RenderOptions, render
from splat.compat import gsplat_backend
from splat.core.binning import bin_splats
from splat.core.project import CAMERA_MODELS, CameraModel
from tests.scenes import scene3d
from tests.test_gsplat_call import gsplat_rasterization as gsplat_on_torch  # noqa: F401 (a fixture)

BACKGROUND = torch.tensor([0.1, 0.2, 0.3])
ANTIALIASED = RenderOptions(ProjectOptions(antialiased=True))


def scene(model: CameraModel = "pinhole", device: str = "cpu", count: int = 30) -> tuple[Gaussians, Cameras]:
    """Harmonics of degree 2 and two cameras; every tensor but Ks is a leaf that requires gradients."""
    s = scene3d(count)
    g = Gaussians(s.means, s.quats, s.scales.log(), s.opacities.logit(), s.sh0, s.shN[:, :8].contiguous())
    if model == "ortho":
        s.Ks[:, :2, :2] /= 4  # pixels per world unit; the Gaussians are 4 away
    viewmats, Ks = s.viewmats.to(device).requires_grad_(), s.Ks.to(device)
    return g.to(device).requires_grad_(), Cameras(viewmats, Ks, s.width, s.height, model)


def moved(viewmats: Tensor, twists: Tensor) -> Tensor:
    """[C, 4, 4] after small rotations and translations [C, 6], to first order.

    gsplat differentiates the general inverse of viewmats, we that of a rigid one: the gradients of the 16 numbers are
    not the same, those of what keeps a camera a camera are.
    """
    turned = torch.linalg.cross(twists[:, :3, None].expand(-1, 3, 4), viewmats[:, :3], dim=1)
    top = viewmats[:, :3] + turned + twists[:, 3:, None] * viewmats[:, 3:]
    return torch.cat([top, viewmats[:, 3:]], 1)


def pictures(view: Rendered) -> list[Tensor]:
    return [view.color, view.alpha, view.depth]


def gradients(view: Rendered, leaves: list[Tensor]) -> list[Tensor]:
    """Of a loss in which every value of every picture has a weight of its own."""
    waves = [torch.sin(torch.arange(p.numel(), device=p.device)).view_as(p) for p in pictures(view)]
    loss = torch.stack([(p * w).sum() for p, w in zip(pictures(view), waves, strict=True)]).sum()
    return list(torch.autograd.grad(loss, leaves))


def drawn(
    backend: Any, model: CameraModel = "pinhole", background: Tensor | None = None, device: str = "cpu", **how: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Pictures, and gradients of the Gaussians, the cameras' motions and the background."""
    g, c = scene(model, device)
    twists = torch.zeros(len(c), 6, device=device, requires_grad=True)
    leaves = [*g.parameters().values(), twists]
    if background is not None:
        background = background.to(device, copy=True).requires_grad_()
        leaves.append(background)
    c = replace(c, viewmats=moved(c.viewmats.detach(), twists))
    view = render(g, c, background=background, backend=backend, **how)
    return [p.detach().cpu() for p in pictures(view)], [v.cpu() for v in gradients(view, leaves)]


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_backend, "_check_device", lambda means: None)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> list[dict[str, Any]]:
    """gsplat.rasterization is ours; the result lists the arguments of its calls by name."""
    gsplat = pytest.importorskip("gsplat", reason="gsplat (a dev extra) is what is adapted here")
    calls: list[dict[str, Any]] = []
    names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height")

    def record(*args: Any, **options: Any) -> Any:
        calls.append(dict(zip(names, args, strict=True)) | options)
        return splat.rasterization(*args, **options)

    monkeypatch.setattr(gsplat, "rasterization", record)
    return calls


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(got[0], want[0], strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(got[1], want[1], strict=True):
        assert a.shape == b.shape and (b != 0).any()
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("background", [None, BACKGROUND, torch.stack([BACKGROUND, 1 - BACKGROUND])])
@pytest.mark.parametrize("options", [RenderOptions(), ANTIALIASED])
@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_pictures_and_gradients_are_ours(model: CameraModel, options: RenderOptions, background: Tensor | None) -> None:
    got, want = (drawn(backend, model, background, options=options) for backend in ("gsplat", "cpu"))
    assert [p.shape[-1] for p in got[0]] == [3, 1, 1] and (want[0][1] > 0.1).float().mean() > 0.2
    assert_same(got, want)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "options",
    [
        {"eps2d": 0.9},
        {"near_plane": 4.0},
        {"far_plane": 4.0},
        {"radius_clip": 12.0},
        {"antialiased": True},
    ],
)
def test_every_option_arrives(options: dict[str, Any]) -> None:
    changed = RenderOptions(ProjectOptions(**options))
    got, want = (drawn(backend, options=changed) for backend in ("gsplat", "cpu"))
    assert_same(got, want)
    assert (want[0][0] - drawn("cpu")[0][0]).abs().max() > 0.01, "this scene would not show the option"


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("degree", [0, 1, 2, None])
def test_fewer_harmonics_than_stored(degree: int | None) -> None:
    g, c = scene()
    leaves = [g.means, g.sh0, c.viewmats] + ([] if degree == 0 else [g.shN])
    got, want = (render(g, c, sh_degree=degree, backend=b) for b in ("gsplat", "cpu"))  # type: ignore[arg-type]
    assert_same((pictures(got), gradients(got, leaves)), (pictures(want), gradients(want, leaves)))
    all_of_them = render(g, c, backend="cpu").color
    assert torch.equal(want.color, all_of_them) == (degree in (2, None))


@pytest.mark.usefixtures("stand_in")
def test_all_degrees_that_we_store_are_taken() -> None:
    s = scene3d(10)
    g = Gaussians(s.means, s.quats, s.scales.log(), s.opacities.logit(), s.sh0, s.shN)
    c = Cameras(s.viewmats, s.Ks, s.width, s.height)
    for shown in (g, replace(g, shN=g.shN[:, :0])):
        got, want = (render(shown, c, backend=b) for b in ("gsplat", "cpu"))  # type: ignore[arg-type]
        assert_same((pictures(got), []), (pictures(want), []))
    assert g.sh_degree == 4


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("absgrad", [False, True])
def test_info_holds_gsplats_tensors_and_their_gradients(absgrad: bool) -> None:
    options = RenderOptions(rasterize=RasterizeOptions(absgrad=absgrad))
    views = []
    for backend in ("gsplat", "cpu"):
        g, c = scene()
        view = render(g, c, options=options, backend=backend)  # type: ignore[arg-type]
        view.info.splats.means2d.retain_grad()
        view.color.square().sum().backward()
        assert view.info.gaussians is g and view.info.invalid == 0
        views.append(view)
    got, want = (view.info for view in views)
    assert got.tiles is None and want.tiles is not None
    assert torch.equal(got.visible, want.visible) and got.visible.any()
    for name in ("means2d", "depths", "conics", "opacities", "radii"):
        torch.testing.assert_close(getattr(got.splats, name), getattr(want.splats, name))
    torch.testing.assert_close(got.splats.means2d.grad, want.splats.means2d.grad)
    assert hasattr(got.splats.means2d, "absgrad") == absgrad
    if absgrad:
        torch.testing.assert_close(got.splats.means2d.absgrad, want.splats.means2d.absgrad)  # type: ignore[attr-defined]


def test_means2d_is_the_very_tensor_of_meta(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    gsplat = pytest.importorskip("gsplat", reason="gsplat (a dev extra) is what is adapted here")
    metas = []

    def keep(*args: Any, **options: Any) -> Any:
        result = splat.rasterization(*args, **options)
        metas.append(result[2])
        return result

    monkeypatch.setattr(gsplat, "rasterization", keep)
    assert render(*scene(), backend="gsplat").info.splats.means2d is metas[0]["means2d"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("means", [torch.nan, torch.inf]),
        ("quats", [torch.nan, torch.inf]),
        ("quats", [0.0, 1e-30]),
        ("quats", [1e30]),
        ("log_scales", [torch.nan, torch.inf, 1e3]),
        ("opacity_logits", [torch.nan]),
        ("sh0", [torch.nan, torch.inf, -torch.inf]),
        ("shN", [torch.nan, -torch.inf]),
    ],
)
def test_broken_gaussians_do_not_reach_gsplat(name: str, values: list[float], stand_in: Any) -> None:
    g, c = scene()
    g = g.map(lambda t: t.detach().clone())
    for i, value in enumerate(values):
        getattr(g, name)[i] = value
    g.requires_grad_()
    view = render(g, c, backend="gsplat")
    (sent,) = stand_in
    for tensor in ("means", "quats", "scales", "opacities", "colors"):
        assert torch.isfinite(sent[tensor]).all(), tensor
    assert (sent["quats"].norm(dim=-1) > 0).all() and (sent["opacities"][: len(values)] == 0).all()
    assert view.info.invalid == len(values) and view.info.gaussians is g
    assert torch.equal(view.color, render(g, c, backend="cpu").color)
    view.color.square().sum().backward()
    for v in g.parameters().values():
        assert v.grad is not None and torch.isfinite(v.grad).all() and (v.grad != 0).any()
        assert (v.grad[: len(values)] == 0).all()


@pytest.mark.usefixtures("without_gpu", "gsplat_on_torch")
@pytest.mark.parametrize("options", [RenderOptions(), ANTIALIASED])
@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_gsplats_own_code_takes_the_call(model: CameraModel, options: RenderOptions) -> None:
    for background in (None, torch.stack([BACKGROUND, 1 - BACKGROUND])):
        got, want = (drawn(backend, model, background, options=options) for backend in ("gsplat", "cpu"))
        assert_same(got, want, tolerance=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blend": "sum"}, "blend must be 'alpha' with backend='gsplat', got 'sum'"),
        ({"blend": "topk"}, "blend must be 'alpha' with backend='gsplat', got 'topk'"),
        ({"cutoff": 0.01}, "cutoff must be 1/255 with backend='gsplat', got 0.01"),
    ],
)
def test_what_gsplat_cannot_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(*scene(), options=RenderOptions(rasterize=RasterizeOptions(**change)), backend="gsplat")


def test_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="ids must be None with backend='gsplat', got Tensor"):
        render(*scene(), ids=torch.arange(30), backend="gsplat")


def test_tensors_that_gsplat_cannot_take_are_refused() -> None:
    g, c = scene()
    with pytest.raises(ValueError, match="means must be on a CUDA device with backend='gsplat', got cpu"):
        render(g, c, backend="gsplat")
    double = torch.float64
    with pytest.raises(ValueError, match=r"means must be float32 with backend='gsplat', got torch\.float64"):
        render(g.to(double), c.to(double), backend="gsplat")
    with pytest.raises(ValueError, match=r"viewmats must have the dtype of means, torch\.float32, got torch\.float64"):
        render(g, c.to(double), backend="gsplat")
    with pytest.raises(ValueError, match="sh0 must be on the device of means, cpu, got meta"):
        render(replace(g, sh0=g.sh0.to("meta")), c, backend="gsplat")
    with pytest.raises(ValueError, match="cameras must hold at least one camera with backend='gsplat', got 0"):
        render(g, c[:0], backend="gsplat")


@pytest.mark.usefixtures("without_gpu")
def test_what_every_backend_refuses_is_refused_alike() -> None:
    g, c = scene()
    with pytest.raises(ValueError, match=r"sh_degree must be in 0 \.\. 2, got 3"):
        render(g, c, sh_degree=3, backend="gsplat")
    with pytest.raises(ValueError, match=r"background must have shape \[2, 3\], got \[1, 3\]"):
        render(g, c, background=BACKGROUND[None], backend="gsplat")


def test_gsplat_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(ImportError, match=r"backend='gsplat' needs gsplat, pip install 'torchsplat\[gsplat\]'"):
        render(*scene(), backend="gsplat")


def test_no_stage_runs_on_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    g, c = scene()
    message = "backend must be one of reference, cpu, cuda, got 'gsplat'"
    splats = render(g, c).info.splats
    with pytest.raises(ValueError, match=message):
        bin_splats(splats, width=40, height=32, backend="gsplat")  # type: ignore[arg-type]
    monkeypatch.setenv("SPLAT_BACKEND", "gsplat")
    with pytest.raises(ValueError, match=message):
        render(g, c)


def test_gsplat_is_imported_only_when_it_draws() -> None:
    code = "import sys, splat.rendering, splat.compat.gsplat_backend; assert 'gsplat' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.timeout(1800)  # gsplat compiles its kernels when they are first called
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: gsplat has no CPU kernels")
@pytest.mark.parametrize("options", [RenderOptions(), ANTIALIASED])
@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_real_gsplat_draws_what_we_draw(model: CameraModel, options: RenderOptions) -> None:
    kernels = pytest.importorskip("gsplat.cuda._backend", reason="gsplat (a dev extra) is what is adapted here")
    if kernels._C is None:
        pytest.skip("gsplat found no CUDA toolkit to compile its kernels with")
    devices = {"gsplat": "cuda", "cpu": "cpu"}
    got, want = (drawn(backend, model, BACKGROUND, device, options=options) for backend, device in devices.items())
    # A weight next to the cutoff may fall on either side of it, by gsplat's fast mathematics.
    for a, b in zip(got[0], want[0], strict=True):
        error = (a - b).abs()
        assert error.median() < 1e-4 and error.quantile(0.99) < 0.02
    for a, b in zip(got[1], want[1], strict=True):
        assert (a - b).norm() <= 0.02 * b.norm()
