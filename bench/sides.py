"""The other things of ours that run in a process of their own: `python -m bench.sides NAME ...`, one line of JSON each.

They call the product: its engine, its learner, its log-probs. `make` writes the checkpoints of random weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama-30m": {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 12288, "max_position_embeddings": 4096,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "rope_theta": 1e6,
    },
    "qwen2.5-1.5b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "rope_theta": 1e6,
    },
}  # fmt: skip

REST = "Python, calls and the rest"


def make(a: argparse.Namespace) -> dict[str, Any]:
    """A checkpoint of that shape, random weights, with the tokenizer of base-mini: ids beyond it decode to nothing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from incentive.files import write_folder
    from incentive.model.checkpoint import load_tokenizer, resolve

    tokenizer = load_tokenizer(resolve("base-mini"))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape = dict(SHAPES[a.model])
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, **ends, tie_word_embeddings=True, rms_norm_eps=1e-6)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with write_folder(Path(a.out)) as folder:
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
    return {"parameters": sum(p.numel() for p in model.parameters())}


def requests(a: argparse.Namespace, prompts: list[Any], number: int) -> list[Any]:
    """What the engine is asked for in one round: `group` samples of each prompt's ids, with seeds of their own."""
    from incentive.records import Request, hash64

    return [
        Request(str(i), ids, tuple(hash64(a.seed, number, i, j) for j in range(a.group)), a.limit)
        for i, ids in enumerate(prompts)
    ]


def made_up(ids: Any, prompt: int, rng: Any) -> Any:
    """A row to learn from, of which so many tokens are prompt: one advantage, and log-probs of -1."""
    import numpy as np

    from incentive.records import Example

    mask, logp = np.arange(len(ids)) >= prompt, np.full(len(ids), -1, dtype=np.float32)
    gain = np.where(mask, rng.normal(), 0).astype(np.float32)
    return Example(ids=ids, mask=mask, advantage=gain, sampler_logp=logp, ref_logp=logp)


def sample(a: argparse.Namespace) -> dict[str, Any]:
    """The local engine on the given prompts; the first round is for warming up and is not counted."""
    import numpy as np

    from incentive import engine
    from incentive.config import Engine
    from incentive.model.checkpoint import load_policy, resolve

    folder = resolve(a.model)
    policy, tokenizer = load_policy(folder)
    own = engine.local(policy, tokenizer, folder, Engine(dtype=a.precision))
    prompts = [np.asarray(json.loads(line)["ids"]) for line in Path(a.prompts).read_text().splitlines()]
    seconds, tokens = [], []
    for number in range(a.rounds + 1):
        asked = requests(a, prompts, number)
        began = time.monotonic()
        count = sum(len(s.ids) for s in own.sample(asked))
        seconds.append(time.monotonic() - began)
        tokens.append(count)
    own.close()
    return {"seconds": seconds[1:], "tokens": tokens[1:]}


def learn(a: argparse.Namespace) -> dict[str, Any]:
    """Updates of the learner on made-up rows of one length, a fifth of it prompt; the first is not counted."""

    import numpy as np

    from incentive.algo import loss
    from incentive.algo.weights import token_mean
    from incentive.config import Learner as Config
    from incentive.config import Optim
    from incentive.learner import Learner
    from incentive.model.checkpoint import fastest_dtype, load_policy

    dtype = fastest_dtype() if a.precision == "auto" else a.precision
    policy, tokenizer = load_policy(a.model, dtype)
    learner = Learner(policy, Optim(), Config(dtype=dtype), a.rounds + 1)
    rng, prompt = np.random.default_rng(a.seed), a.length // 5
    rows = [made_up(rng.integers(2, len(tokenizer), a.length), prompt, rng) for _ in range(a.rows)]
    batch, seconds = token_mean(rows), []
    for _ in range(a.rounds + 1):
        began = time.monotonic()
        learner.step(batch, partial(loss.policy, epsilon=0.2, beta=0.03), entropy=True)
        seconds.append(time.monotonic() - began)
    return {"seconds": seconds[1:], "dtype": dtype, "masked": (a.length - prompt) * a.rows}


def profile(a: argparse.Namespace) -> dict[str, Any]:
    """Where one thread's time goes in sampling and in an update: seconds by kind of work.

    The engine samples from made-up prompts, and the learner learns from that; two such steps warm up. One thread alone, so
    that what a lane does is told from what two lanes cost each other. A step of sampling is one compiled call, and so is a pass
    of the learner: parts of both are run again alone, with the same rows.
    """
    import numpy as np

    from incentive import engine
    from incentive.algo import loss
    from incentive.algo.weights import token_mean
    from incentive.config import Engine, Optim
    from incentive.config import Learner as Config
    from incentive.learner import Learner
    from incentive.model.checkpoint import fastest_dtype, load_policy, resolve

    dtype, folder, rng = fastest_dtype(), resolve(a.model), np.random.default_rng(a.seed)
    policy, tokenizer = load_policy(folder, dtype)
    own: Any = engine.local(policy, tokenizer, folder, Engine())
    learner = Learner(policy, Optim(), Config(dtype=dtype), 99)

    def sampled(number: int) -> list[Any]:
        prompts = [rng.integers(2, len(tokenizer), rng.integers(14, 20)) for _ in range(a.rows // a.group)]
        return list(own.sample(requests(a, prompts, number)))

    def learnt(samples: list[Any]) -> None:
        rows = [made_up(np.concatenate([s.prompt_ids, s.ids]), len(s.prompt_ids), rng) for s in samples]
        learner.step(token_mean(rows), partial(loss.policy, epsilon=0.2, beta=0.03), entropy=True)

    for number in range(2):
        learnt(sampled(number))
    lengths: list[np.ndarray] = []
    local: Any = import_module("incentive.engine.local")
    seconds = {"steps": 0.0, "drawing (compiled)": 0.0}
    decoder, drawn = own.workers[0].decoder, local.draw
    plain = decoder.step

    def timed(name: str, call: Any) -> Any:
        before = time.perf_counter()
        found = call()
        seconds[name] += time.perf_counter() - before
        return found

    def step(ids: np.ndarray, at: np.ndarray) -> Any:
        lengths.append(at.copy())
        return timed("steps", lambda: plain(ids, at))

    setattr(decoder, "step", step)  # noqa: B010
    setattr(local, "draw", lambda *args: timed("drawing (compiled)", lambda: drawn(*args)))  # noqa: B010
    began = time.perf_counter()
    samples = sampled(2)
    half = time.perf_counter()
    update = passed(lambda: learnt(samples))
    own.close()
    sampling = replayed(decoder, lengths)
    sampling["gate, norms and the rest of the step (compiled)"] = seconds.pop("steps") - sum(sampling.values())
    sampling |= seconds
    return {
        "profile": {
            "sampling": {**sampling, REST: half - began - sum(sampling.values())},
            "an update": update,
        }
    }


def replayed(decoder: Any, lengths: list[Any]) -> dict[str, float]:
    """Seconds that a small model's products, and its attention, take alone in steps of rows with these lengths."""
    k, w, room, layers = decoder.kernels, decoder.held["weights"], decoder.between, range(decoder.policy.layers)
    keys, values = decoder.keys.numpy(), decoder.values.numpy()

    def products(at: Any) -> None:
        for layer in layers:
            for x, matrix, out in (
                (room.normed, w.qkv, room.qkv), (room.mixed, w.o, room.out), (room.normed, w.gate_up, room.both),
                (room.acted, w.down, room.out),
            ):  # fmt: skip
                k.times(x, matrix[layer], out, len(at))
        k.times(room.normed, w.head, room.logits, len(at))

    def attention(at: Any) -> None:
        for layer in layers:
            told = w.q_norm[layer], w.k_norm[layer], decoder.eps, at, keys[layer], values[layer], room.mixed[: len(at)]
            k.attend(room.qkv, decoder.cos, decoder.sin, *told, *decoder.room)

    found = {}
    for name, part in {
        "products of all tokens (compiled)": products,
        "attention over the cache (compiled)": attention,
    }.items():
        part(lengths[0])
        began = time.perf_counter()
        for at in lengths:
            part(at)
        found[name] = time.perf_counter() - began
    return found


def passed(call: Callable[[], None]) -> dict[str, float]:
    """Seconds of a call by kind of work, most of it a small learner's passes: attention and the gate are those of the same rows,
    run again alone."""
    import numpy as np

    from incentive.model import attention, kernels, passes

    names = ("forward", "backward", "read", "read_back")
    plain, seconds, seen = {name: getattr(passes, name) for name in names}, dict.fromkeys(names, 0.0), []

    def timed(name: str, *args: Any) -> None:
        began = time.perf_counter()
        plain[name](*args)
        seconds[name] += time.perf_counter() - began
        if name == "backward":
            seen.append(args)

    for name in names:
        setattr(passes, name, partial(timed, name))
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    for name in names:
        setattr(passes, name, plain[name])

    def again(part: Callable[[Any], None]) -> float:
        part(seen[0])
        began = time.perf_counter()
        for args in seen:
            part(args)
        return time.perf_counter() - began

    def attends(args: Any) -> None:
        (_, cos, sin, heads, kv_heads, _, _, spans, shared, kept, *_) = args
        for layer in range(len(kept.qkv)):
            given, told = (kept.qkv[layer], cos, sin, heads, kv_heads, kept.norms[layer]), (spans, (0, kv_heads))
            mixed = kept.mixed[layer].copy()
            attention.forward(*given, mixed, *told)
            attention.backward(*given, shared, mixed, np.zeros_like(kept.qkv[layer]), *told)

    def gates(args: Any) -> None:
        (*_, gelu, _, _, _, kept, _, _) = args
        for both in kept.both:
            acted, rows = (
                np.empty((passes.BLOCK, both.shape[1] // 2), both.dtype),
                np.empty((passes.BLOCK, both.shape[1]), both.dtype),
            )
            for begin in range(0, len(both), passes.BLOCK):
                part = both[begin : begin + passes.BLOCK]
                kernels.gate(part, gelu, acted[: len(part)])
                kernels.gate(part, gelu, acted[: len(part)])
                kernels.gate_backward(part, gelu, acted[: len(part)], rows[: len(part)])

    found = {"attention (compiled)": again(attends), "gate (compiled)": again(gates)}
    found["log-probs and the head's products (compiled)"] = seconds["read"] + seconds["read_back"]
    products = seconds["forward"] + seconds["backward"] - found["attention (compiled)"] - found["gate (compiled)"]
    rest = took - sum(seconds.values())
    return {"products of the layers, norms and sums (compiled)": products, **found, REST: rest}


def logp(a: argparse.Namespace) -> dict[str, Any]:
    """Log-probs with their gradients, in chunks or plainly: what they add to the memory, and their values.

    Memory is the kernel's own high-water mark (VmHWM), set back before the call, less what was in use by then.
    """
    import torch

    from incentive.model.logp import token_logp

    torch.manual_seed(0)
    h = (torch.randn(a.length, a.hidden) * 0.5).requires_grad_()
    w = (torch.randn(a.vocabulary, a.hidden) * 0.05).requires_grad_()
    ids, g = torch.randint(a.vocabulary, (a.length,)), torch.randn(a.length)

    def plain() -> torch.Tensor:
        return torch.log_softmax(h @ w.T, dim=-1).gather(1, ids[:, None])[:, 0]

    def resident(key: str) -> int:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
        return int(line.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.monotonic()
    out = plain() if a.plain else token_logp(h, w, ids)[0]
    out.backward(g)
    took = time.monotonic() - began
    found = {"mib": (resident("VmHWM") - before) / 2**20, "seconds": took}
    if a.check:
        mine = [out.detach(), *(x.grad for x in (h, w) if x.grad is not None)]
        other = token_logp(h, w, ids)[0] if a.plain else plain()
        exact = [other.detach(), *torch.autograd.grad(other, (h, w), g)]
        found["difference"] = max(float((x - y).norm() / y.norm()) for x, y in zip(mine, exact, strict=True))
    return found


def machine(a: argparse.Namespace) -> dict[str, Any]:
    """What the machine does at best: large matrix products (FLOP/s, a multiply-add is two) and copies (bytes/s)."""
    import torch

    def fastest(call: Any) -> float:
        times = []
        for _ in range(a.rounds + 1):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return min(times)

    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name in ("float32", "bfloat16"):
        x = torch.randn(a.size, a.size).to(getattr(torch, name))
        y, out = x.clone(), torch.empty_like(x)
        found[name] = 2 * a.size**3 / fastest(lambda x=x, y=y, out=out: torch.mm(x, y, out=out))
    found["float32 by torch.mm"] = found["float32"]
    if torch.backends.mkldnn.is_available():  # torch.mm goes by MKL, whose float32 is slow on AMD
        x = torch.randn(a.size, a.size)
        by_onednn = fastest(lambda: torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], ""))
        found["float32"] = max(found["float32"], 2 * a.size**3 / by_onednn)
    source = torch.ones(2**26)  # 256 MiB, beyond every cache
    target = torch.empty_like(source)
    found["bandwidth"] = 2 * source.nbytes / fastest(lambda: target.copy_(source))  # read and written
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("side", choices=["make", "sample", "learn", "logp", "machine", "profile"])
    p.add_argument("--model", default="base-mini")
    p.add_argument("--out")
    p.add_argument("--prompts")
    p.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    for name, value in {
        "group": 8, "limit": 96, "rounds": 2, "seed": 0, "threads": 2, "length": 128, "rows": 32, "hidden": 896,
        "vocabulary": 151936, "size": 4096,
    }.items():  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--plain", action="store_true")
    p.add_argument("--check", action="store_true", help="compare with the other form as well")
    a = p.parse_args()
    from incentive.recipes import settle

    settle(a.threads)
    sides = {"make": make, "sample": sample, "learn": learn, "logp": logp, "machine": machine, "profile": profile}
    print(json.dumps(sides[a.side](a)))


if __name__ == "__main__":
    main()
