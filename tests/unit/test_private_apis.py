"""Checks that every private or unstable name of ``docs/private-apis.md`` exists in Ray, torch or diffusers.

A failure names the files that need the missing name.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from tests.unit.private_names import ATEN, IMPORTED, VARIABLES, VARIABLES_OF_SERVE, VARIABLES_OF_THE_RAYLET

ROOT = Path(__file__).parents[2]
PACKAGES = ("serve_app", "models", "offline", "training", "bench", "testbed", "tests")


def imported(name: str) -> None:
    """Import a dotted name: as much of it as is a module, then its attributes. Fails where it is gone."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return
    raise ModuleNotFoundError(name)


def read_by_ray(variable: str) -> None:
    import ray

    folder = Path(ray.__file__).parent
    homes = (
        *("serve/_private/constants.py", "_common/usage/usage_constants.py", "_common/utils.py"),
        *("dashboard/modules/reporter/reporter_consts.py", "dashboard/consts.py"),
        "autoscaler/_private/constants.py",
    )
    python = (*(folder / home for home in homes), *(folder / "_private").rglob("*.py"))
    assert any(f'"{variable}"' in file.read_text() for file in python), variable


def read_by_the_raylet(variable: str) -> None:
    import ray

    raylet = Path(ray.__file__).parent / "core/src/ray/raylet/raylet"
    assert f"{variable}\0".encode() in raylet.read_bytes(), variable


def serve_details() -> None:
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.schema import (
        ApplicationDetails,
        DeploymentDetails,
        ReplicaDetails,
        ServeInstanceDetails,
    )

    assert callable(ServeControllerClient.get_serve_details)
    for schema, keys in (
        (ServeInstanceDetails, {"applications"}),
        (ApplicationDetails, {"deployments"}),
        (DeploymentDetails, {"replicas", "status"}),
        (ReplicaDetails, {"replica_id", "state", "pid"}),
    ):
        assert keys <= set(schema.model_fields), schema


def deploy_apps() -> None:
    from ray.serve._private.client import ServeControllerClient

    assert {"config", "_blocking"} <= set(inspect.signature(ServeControllerClient.deploy_apps).parameters)


def processes_of_a_node() -> None:
    from ray._private.node import Node

    assert "self.all_processes" in inspect.getsource(Node)
    assert callable(Node.get_logs_dir_path)


def serve_run() -> None:
    from ray.serve.scripts import cli

    options = {
        option
        for parameter in cli.commands["run"].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert "--non-blocking" in options


def sigterm_leaves_by_system_exit() -> None:
    import ray._private.worker as worker

    assert "sys.exit(signum)" in inspect.getsource(worker).partition("def sigterm_handler(")[2]


def named_in_serves_replica(name: str) -> None:
    import ray.serve._private.replica as replica

    assert name in inspect.getsource(replica)


def replica_ids() -> None:
    from ray.serve._private.common import ReplicaID
    from ray.serve.context import ReplicaContext

    assert "unique_id" in inspect.signature(ReplicaID).parameters
    assert "replica_id" in inspect.signature(ReplicaContext).parameters


def autoscaling_context() -> None:
    from ray.serve.config import AutoscalingContext

    fields = {"deployment_name", "target_num_replicas", "current_num_replicas", "config"}
    assert fields <= set(inspect.signature(AutoscalingContext).parameters)
    has_all(AutoscalingContext, "raw_metrics total_num_requests")


def deploy_schema() -> None:
    from ray.serve.schema import ServeDeploySchema

    assert "applications" in ServeDeploySchema.model_fields


def serves_logger() -> None:
    from ray.serve._private.constants import SERVE_LOGGER_NAME

    assert SERVE_LOGGER_NAME == "ray.serve"


def global_node() -> None:
    import ray._private.worker as worker

    assert hasattr(worker, "_global_node")


def aten(name: str) -> None:
    import torch

    second = getattr(torch.ops.aten, name).default._schema.returns[1].name
    assert second.replace("_", "") == "logsumexp", second


def storages() -> None:
    import torch

    tensor = torch.zeros(4)
    assert tensor.untyped_storage()._cdata == tensor[2:].untyped_storage()._cdata


def device_guards() -> None:
    import torch

    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    assert b"_ZN3c104impl26device_guard_impl_registryE" in library.read_bytes()


def transformer(cls: str, **changes: Any) -> Any:
    import diffusers

    return getattr(diffusers, cls)(
        num_attention_heads=2,
        attention_head_dim=24,
        text_dim=32,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
        **changes,
    )


def has_all(owner: object, names: str) -> None:
    for name in names.split():
        attrgetter(name)(owner)


def transformer_modules() -> None:
    model = transformer("WanTransformer3DModel", image_dim=32, added_kv_proj_dim=48)
    has_all(model, "rope patch_embedding scale_shift_table norm_out proj_out config.patch_size")
    has_all(
        model.condition_embedder,
        "text_embedder image_embedder timesteps_proj time_embedder time_proj act_fn",
    )
    block = model.blocks[0]
    has_all(
        block,
        "norm1 norm2 norm3 scale_shift_table attn1.to_q attn1.to_k attn1.to_v attn1.norm_q attn1.norm_k",
    )
    has_all(block, "attn2.add_k_proj attn2.add_v_proj attn2.norm_added_k")
    assert block.attn1.to_out[0].bias is not None
    assert block.ffn.net[0].proj.bias is not None and block.ffn.net[2].bias is not None


def vace_modules() -> None:
    model = transformer("WanVACETransformer3DModel", vace_layers=[0], vace_in_channels=96)
    has_all(model, "vace_blocks vace_patch_embedding")
    has_all(model.vace_blocks[0], "proj_in proj_out attn1.to_q")


@cache
def vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1)


def vae_modules() -> None:
    has_all(vae(), "quant_conv post_quant_conv config.patch_size config.latents_mean config.latents_std")
    has_all(vae().encoder, "conv_in down_blocks mid_block norm_out conv_out")
    has_all(vae().decoder, "conv_in up_blocks mid_block norm_out conv_out")
    has_all(vae().encoder.mid_block, "resnets attentions")
    has_all(vae().encoder.down_blocks[0], "norm1 conv1 norm2 conv2 conv_shortcut norm1.gamma")
    assert any(hasattr(layer, "time_conv") for layer in vae().encoder.down_blocks)


CHECKS: Mapping[str, Callable[[], None]] = {
    **{name: partial(imported, name) for name in IMPORTED},
    **{name: partial(read_by_ray, name) for name in VARIABLES},
    **{f"RAY_SERVE_{name}": partial(read_by_ray, f"RAY_SERVE_{name}") for name in VARIABLES_OF_SERVE},
    **{name: partial(read_by_the_raylet, name) for name in VARIABLES_OF_THE_RAYLET},
    **{f"torch.ops.aten.{name}": partial(aten, name) for name in ATEN},
    "get_serve_details": serve_details,
    "deploy_apps": deploy_apps,
    **dict.fromkeys(("all_processes", "get_logs_dir_path"), processes_of_a_node),
    "ray.serve.scripts.cli": serve_run,
    "SystemExit": sigterm_leaves_by_system_exit,
    "__serve_build_asgi_app__": partial(named_in_serves_replica, "__serve_build_asgi_app__"),
    "async __init__": partial(named_in_serves_replica, "allows deployments to define an async __init__"),
    "replica_id.unique_id": replica_ids,
    "record_autoscaling_stats": partial(named_in_serves_replica, "record_autoscaling_stats"),
    "ray._common.formatters.JSONFormatter": partial(imported, "ray._common.formatters.JSONFormatter"),
    "AutoscalingContext": autoscaling_context,
    "ServeDeploySchema.model_fields": deploy_schema,
    '"ray.serve"': serves_logger,
    "ray._private.worker._global_node": global_node,
    "UntypedStorage._cdata": storages,
    "libc10.device_guard_impl_registry": device_guards,
    "torch._addmm_activation": partial(imported, "torch._addmm_activation"),
    "WanTransformer3DModel modules": transformer_modules,
    "WanVACETransformer3DModel modules": vace_modules,
    "AutoencoderKLWan modules": vae_modules,
}
"""A check for each name in the docs: it fails where the name is gone or is of another kind."""


def rows() -> Mapping[str, tuple[str, ...]]:
    """Return the files that need each name, as the docs list them."""
    page = (ROOT / "docs" / "private-apis.md").read_text()
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    return {name.replace("`", ""): tuple(re.findall(r"`([^`]+)`", files)) for name, _, files, _ in cells}


ROWS = rows()


def test_each_row_of_the_docs_has_a_check_and_each_check_a_row() -> None:
    assert set(ROWS) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_each_private_name_exists(name: str) -> None:
    try:
        CHECKS[name]()
    except Exception as error:
        pytest.fail(f"{name} is not what it was; {', '.join(ROWS[name])} need it: {error!r}")


@pytest.mark.parametrize("name", [name for name in ROWS if " " not in name])
def test_the_files_that_the_docs_name_use_the_private_name(name: str) -> None:
    word = name if name.startswith('"') else name.rpartition(".")[2]
    for place in ROWS[name]:
        path = ROOT / place
        files = path.rglob("*.py") if path.is_dir() else [path]
        assert any(word in file.read_text() for file in files), f"{place} has no {word}"


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield third parties' dotted names with a private part, deep imports of diffusers, Ray's variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            root, _, inner = module.partition(".")
            for alias in node.names:
                name = f"{module}.{alias.name}"
                is_deep = root in ("diffusers", "transformers") and inner
                if root in ("ray", "torch", "diffusers", "transformers") and (is_deep or "._" in name):
                    yield name
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            name = ast.unparse(node)
            if re.fullmatch(r"(ray|torch)(\.\w+)*\._[a-z]\w*", name):
                yield name
        elif isinstance(node, ast.Constant | ast.keyword):
            text = node.value if isinstance(node, ast.Constant) else node.arg
            if isinstance(text, str) and re.fullmatch(r"RAY_[A-Z_]+", text):
                yield text


def test_every_private_name_in_the_code_is_in_the_docs() -> None:
    listed = set(ROWS)
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            if file == Path(__file__) or not re.search(r"\b(ray|torch|diffusers|transformers)\b|RAY_", text):
                continue
            for name in private_names(ast.parse(text)):
                known = name in listed or any(row.startswith(f"{name}.") for row in listed)
                assert known, (
                    f"{file.relative_to(ROOT)} uses {name}, which docs/private-apis.md does not list"
                )
