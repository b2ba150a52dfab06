"""The SwiftKV model against a plain implementation of its equations, and against Transformers' own promises."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from swiftkv.modeling import LlamaSwiftKVConfig, LlamaSwiftKVForCausalLM
from swiftkv.modeling.decoder import SharedKV
from tests.helpers.models import TINY_SHAPE

LAYERS = TINY_SHAPE["num_hidden_layers"]
CUTS = [(4, 1), (4, 2), (4, 4), (6, 1), (3, 5), (1, 7), (7, 1), (8, 1)]


def make(cut: int, group: int = 1, **changes) -> LlamaSwiftKVForCausalLM:
    torch.manual_seed(cut * 10 + group)
    shape = TINY_SHAPE | {"initializer_range": 0.15, "bos_token_id": None, "eos_token_id": None} | changes
    model = LlamaSwiftKVForCausalLM(LlamaSwiftKVConfig(**shape, num_key_value_layers=cut, key_value_group_size=group))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.6, 1.4)
    return model.eval()


def ids(rows: int = 2, length: int = 11, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def rms(x, weight, eps=1e-6):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(vector, position, theta=10000.0):
    """RoPE of one head's vector at one position: pairs (i, i + half) turn by position * theta^(-i / half)."""
    half = len(vector) // 2
    angle = position * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    first, second = vector[:half], vector[half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])


def attend(queries, keys, values, heads, kv_heads):
    """Causal attention of [T, heads * size] queries over [T, kv_heads * size] keys and values, position by position."""
    size = queries.shape[1] // heads
    output = torch.zeros_like(queries)
    for t in range(len(queries)):
        for head in range(heads):
            shared = head // (heads // kv_heads)
            q = rotate(queries[t, head * size : (head + 1) * size], t)
            scope = slice(shared * size, (shared + 1) * size)
            scores = torch.stack([q @ rotate(keys[s, scope], s) for s in range(t + 1)]) / size**0.5
            output[t, head * size : (head + 1) * size] = scores.softmax(0) @ values[: t + 1, scope]
    return output


def reference(model, tokens):
    """Logits [T, V] of one sequence in float64, straight from the equations of the paper."""
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    config, x = model.config, w["model.embed_tokens.weight"][tokens]
    heads, kv_heads, cut = config.num_attention_heads, config.num_key_value_heads, config.num_key_value_layers
    for j in range(config.num_hidden_layers):
        prefix = f"model.layers.{j}."
        attention, h = prefix + "self_attn.", rms(x, w[prefix + "input_layernorm.weight"])
        if j < cut:
            q, k, v = (h @ w[f"{attention}{n}_proj.weight"].T for n in "qkv")
        else:
            if j == cut:
                z = rms(x, w["model.norm_swiftkv.weight"])
            first = cut + (j - cut) // config.key_value_group_size * config.key_value_group_size
            q = h @ w[f"{attention}q_proj_swiftkv.weight"].T
            k, v = (z @ w[f"model.layers.{first}.self_attn.{n}_proj_swiftkv.weight"].T for n in "kv")
        x = x + attend(q, k, v, heads, kv_heads) @ w[attention + "o_proj.weight"].T
        h = rms(x, w[prefix + "post_attention_layernorm.weight"])
        gate, up = (h @ w[f"{prefix}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ w[prefix + "mlp.down_proj.weight"].T
    return rms(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


@pytest.mark.parametrize(("cut", "group"), CUTS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_follow_the_equations(cut, group, attention):
    model = make(cut, group)
    model.set_attn_implementation(attention)
    tokens = ids(1, 9)
    got, expected = model(tokens).logits[0].double(), reference(model, tokens[0])
    assert expected.std() > 0.5
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_each_swiftkv_tensor_matters(cut):
    """No late tensor is dead: changing any one of them changes the logits of the last position."""
    model, tokens = make(cut, 1), ids(1, 8)
    before = model(tokens).logits[0, -1]
    for name, parameter in model.named_parameters():
        if "swiftkv" in name:
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.mul_(1.5)
            assert (model(tokens).logits[0, -1] - before).abs().max() > 1e-4, name
            with torch.no_grad():
                parameter.copy_(kept)


def test_cut_at_the_top_is_exactly_the_base_model():
    student = make(LAYERS)
    base = LlamaForCausalLM(LlamaConfig(**TINY_SHAPE, bos_token_id=None, eos_token_id=None)).eval()
    missing, unexpected = base.load_state_dict(student.state_dict(), strict=False)
    assert not missing
    assert unexpected == ["model.norm_swiftkv.weight"]
    assert torch.equal(student(ids()).logits, base(ids()).logits)


@pytest.mark.parametrize(("cut", "group"), CUTS)
def test_cache_gives_the_same_tokens_and_has_one_entry_per_group(cut, group):
    model = make(cut, group)
    cached = model.generate(ids(), max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    plain = model.generate(ids(), max_new_tokens=12, do_sample=False, use_cache=False)
    assert torch.equal(cached.sequences, plain)
    layers = cached.past_key_values.layers
    assert len(layers) == cut + (LAYERS - cut) // group
    assert {layer.keys.shape for layer in layers} == {(2, 1, 22, 32)}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.integers(1, 10))
def test_prefill_in_pieces_gives_the_same_logits(seed, first):
    model, tokens = make(4, 2), ids(2, 11, seed)
    whole = model(tokens).logits
    head = model(tokens[:, :first], use_cache=True)
    tail = model(tokens[:, first:], past_key_values=head.past_key_values).logits
    torch.testing.assert_close(torch.cat([head.logits, tail], 1), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_logits(attention, side):
    model, tokens = make(4, 2), ids(1, 6)
    model.set_attn_implementation(attention)
    pad, text = (slice(0, 3), slice(3, None)) if side == "left" else (slice(6, None), slice(0, 6))
    padded, mask = torch.zeros(1, 9, dtype=torch.long), torch.ones(1, 9, dtype=torch.long)
    padded[:, text], mask[:, pad] = tokens, 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    got = model(padded, attention_mask=mask, position_ids=places).logits[:, text]
    torch.testing.assert_close(got, model(tokens).logits, atol=1e-4, rtol=0)


def test_batched_generation_with_left_padding_equals_single_rows():
    model, tokens = make(4, 4), ids(2, 8)
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    both = model.generate(tokens, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    alone = model.generate(tokens[:1, 3:], max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(both[0, 8:], alone[0, 5:])


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_late_layers_on_needed_positions_only_equal_the_full_run(cut):
    """Early exit in prefill: outputs at chosen positions do not depend on running the others."""
    model, tokens = make(cut).model, ids(1, 9)
    full = model(tokens, output_hidden_states=True)
    rope = model.rotary_emb(full.last_hidden_state, torch.arange(9)[None])
    chosen = torch.tensor([2, 5, 8])
    late, shared = model.layers[cut:], SharedKV(model.norm_swiftkv, rope)
    x_l = full.hidden_states[cut]
    shared.cut(x_l)
    hidden = x_l[:, chosen]
    mask = torch.zeros(1, 1, 3, 9).masked_fill(torch.arange(9) > chosen[:, None], torch.finfo().min)
    for layer in late:
        hidden = layer(
            hidden,
            attention_mask=mask,
            position_embeddings=tuple(part[:, chosen] for part in rope),
            shared_kv=shared,
        )
    torch.testing.assert_close(model.norm(hidden), full.last_hidden_state[:, chosen], atol=1e-4, rtol=0)


def test_labels_hidden_states_and_attentions_come_out():
    model, tokens = make(4, 2), ids()
    model.set_attn_implementation("eager")
    output = model(tokens, labels=tokens, output_hidden_states=True, output_attentions=True)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    assert len(output.hidden_states) == LAYERS + 1
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1]), output.logits)
    assert [weights.shape for weights in output.attentions] == [(2, 2, 11, 11)] * LAYERS


@pytest.mark.parametrize("group", [1, 2, 4])
def test_gradients_reach_every_parameter_and_survive_checkpointing(group):
    model, tokens = make(4, group).train(), ids()
    model(tokens, labels=tokens).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load_round_trip(tmp_path, tied):
    model = make(4, 2, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is LlamaSwiftKVForCausalLM
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert torch.equal(again(ids()).logits, model(ids()).logits)
    assert not [
        n for n in again.state_dict() if "layers.5." in n and n.endswith(("q_proj.weight", "k_proj_swiftkv.weight"))
    ]


@pytest.mark.parametrize(("cut", "group"), [(0, 1), (9, 1), (4, 3), (4, 0), (-1, 1)])
def test_config_refuses_impossible_cuts(cut, group):
    with pytest.raises(Exception, match=r"num_key_value_layers|key_value_group_size"):
        LlamaSwiftKVConfig(num_hidden_layers=8, num_key_value_layers=cut, key_value_group_size=group)


def test_config_without_a_cut_is_an_ordinary_llama():
    config = LlamaSwiftKVConfig(num_hidden_layers=5)
    assert (config.num_key_value_layers, config.layers_of().caches, config.num_kv_shared_layers) == (5, 5, 0)
