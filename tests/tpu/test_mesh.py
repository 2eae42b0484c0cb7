"""The mesh and the rule table."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from model.config import LlamaConfig, LoraConfig
from model.llama import abstract_params, param_names
from tpu.config import MeshConfig
from tpu.mesh import FSDP, axis_sizes, describe, make_mesh, param_specs

CONFIG = LlamaConfig(
    vocab_size=60, embed_dim=32, mlp_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)


def specs(config, mesh):
    return param_specs(param_names(config), abstract_params(config), mesh)


def test_fsdp_takes_what_the_others_leave():
    assert axis_sizes(MeshConfig(tensor=2, data=2), 16)["fsdp"] == 4
    with pytest.raises(ValueError, match="= 3 does not divide 8 devices"):
        axis_sizes(MeshConfig(tensor=3), 8)
    with pytest.raises(ValueError, match="multiplies to 4, but there are 8"):
        axis_sizes(MeshConfig(fsdp=4), 8)


def test_specs_follow_the_names():
    found = specs(CONFIG, make_mesh(MeshConfig(fsdp=4, tensor=2)))
    assert found["blocks"]["attn"]["q"] == P(None, FSDP, "tensor", None)
    assert found["blocks"]["mlp"]["down"] == P(None, "tensor", FSDP)
    assert found["embed"]["table"] == P("tensor", FSDP)
    assert found["final_norm"]["scale"] == P(None)


def test_a_head_count_that_the_mesh_cannot_divide_is_named():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
    with pytest.raises(
        ValueError, match=r"mesh.tensor: 4 does not divide kv_heads=2 of .*blocks/attn/k"
    ):
        specs(CONFIG, mesh)
    odd = CONFIG.model_copy(update={"vocab_size": 61})
    with pytest.raises(ValueError, match="set model.vocab_multiple"):
        specs(odd, make_mesh(MeshConfig(fsdp=4, tensor=2)))


def test_a_rank_is_split_where_nothing_else_is_and_a_share_is_worth_it():
    config = CONFIG.model_copy(update={"lora": LoraConfig(rank=32)})
    for fsdp, share in ((4, FSDP), (8, None)):
        found = specs(config, make_mesh(MeshConfig(fsdp=fsdp, data=8 // fsdp)))["blocks"]["attn"]
        assert found["q_lora"] == {"a": P(None, FSDP, None), "b": P(None, share, "tensor", None)}
        assert found["o_lora"] == {"a": P(None, "tensor", None, share), "b": P(None, None, FSDP)}


def test_a_name_without_a_rule_is_an_error():
    shapes = {"odd": jax.ShapeDtypeStruct((4,), "float32")}
    with pytest.raises(ValueError, match="parameter odd: no sharding rule for its dim 'colour'"):
        param_specs({"odd": ("colour",)}, shapes, make_mesh(MeshConfig()))


def test_describe():
    assert describe(make_mesh(MeshConfig(fsdp=4, tensor=2))) == "fsdp 4 x tensor 2"
    assert describe(make_mesh(MeshConfig(), jax.devices()[:1])) == "one device"
