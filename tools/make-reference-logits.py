#!/usr/bin/env python3
"""Reference logits of a GGUF model (llama, mistral, qwen2, qwen3) on fixed prompts, for tests/unit/test_model_logits.c.

    pip install numpy gguf
    tools/make-reference-logits.py models/SmolLM2-135M-Instruct.Q4_1.gguf -o tests/data/logits/smollm2.json

The forward pass below is numpy in float32 over the weights that the PyPI package `gguf` dequantizes; there is no cache,
every position attends to all before it at once. It shares nothing with the engine or with tests/oracle. Written per
position: the ids and values of the 8 largest logits and the log of the sum of all exponentials.
"""
import argparse
import json
import pathlib
import re
import sys

import gguf
import numpy as np

PROMPTS = {
    "prose": "The lighthouse keeper climbed the narrow stairs every evening at dusk. He carried a lamp, a piece of bread "
             "and the logbook in which, for 31 years, he had written down the wind, the ships and the birds. One night in "
             "November the fog was so thick that",
    "code": "def read_config(path):\n    \"\"\"Return the settings in the file as a dictionary.\"\"\"\n    settings = {}\n"
            "    with open(path) as f:\n        for line in f:\n            key, _, value = line.partition('=')\n",
    "chat": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nA train leaves at 9:40 and "
            "arrives at 12:15. How long is the journey?<|im_end|>\n<|im_start|>assistant\n",
}
N_TOP = 8

# The pre-tokenizers' patterns for ASCII text, which the prompts are: \p{L} is [A-Za-z], \p{N} is [0-9].
CONTRACTIONS = r"'(?:[sdmt]|ll|ve|re)"
GPT2 = CONTRACTIONS + r"| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
SPLITTERS = {
    "smollm": [r"[0-9]", GPT2],  # each digit alone, then as GPT-2
    "qwen2": [r"(?i:" + CONTRACTIONS + r")|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
}


def split_words(words, pattern):
    """Cuts every word at the matches of a pattern; what lies between matches stays a word."""
    pieces = []
    for word in words:
        end = 0
        for match in re.finditer(pattern, word):
            pieces += [word[end:match.start()], match.group()]
            end = match.end()
        pieces.append(word[end:])
    return [p for p in pieces if p]


class Tokenizer:
    """Byte-level BPE by the file's own merges, for ASCII text; control tokens are recognised."""

    def __init__(self, field):
        tokens = field("tokenizer.ggml.tokens")
        self.ids = {t: i for i, t in enumerate(tokens)}
        self.rank = {tuple(m.split(" ")): i for i, m in enumerate(field("tokenizer.ggml.merges"))}
        kinds = field("tokenizer.ggml.token_type")
        control = sorted((t for t, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL), key=len, reverse=True)
        self.control = re.compile("(" + "|".join(map(re.escape, control)) + ")")
        self.patterns = SPLITTERS[field("tokenizer.ggml.pre")]
        # GPT-2 writes bytes outside its printable range as the characters from U+0100 on.
        hidden = [b for b in range(256) if not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255)]
        self.visible = {chr(b): chr(256 + hidden.index(b)) if b in hidden else chr(b) for b in range(128)}

    def merge(self, word):
        parts = [self.visible[c] for c in word]
        while len(parts) > 1:
            rank, i = min((self.rank.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == 1 << 30:
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return [self.ids[p] for p in parts]

    def encode(self, text):
        ids = []
        for i, piece in enumerate(self.control.split(text)):
            if i % 2:
                ids.append(self.ids[piece])
                continue
            words = [piece]
            for pattern in self.patterns:
                words = split_words(words, pattern)
            for word in words:
                ids += self.merge(word)
        return ids


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.fields = {name: field for name, field in reader.fields.items()}
        self.tensors = {t.name: t for t in reader.tensors}
        self.arch = self.field("general.architecture")
        if self.arch not in ("llama", "mistral", "qwen2", "qwen3"):
            sys.exit(f"{path}: architecture {self.arch} is not known here")
        key = lambda name, missing=None: self.field(f"{self.arch}.{name}", missing)
        self.n_layer = key("block_count")
        self.n_head = key("attention.head_count")
        self.n_head_kv = key("attention.head_count_kv", self.n_head)
        self.head_dim = key("attention.key_length", key("embedding_length") // self.n_head)
        self.epsilon = np.float32(key("attention.layer_norm_rms_epsilon"))
        n_rot = key("rope.dimension_count", self.head_dim)
        if n_rot != self.head_dim:
            sys.exit(f"{path}: partial rotation ({n_rot} of {self.head_dim}) is not known here")
        self.inv_freq = key("rope.freq_base", 10000.0) ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
        if key("rope.scaling.type") == "linear":
            self.inv_freq /= key("rope.scaling.factor")
        if "rope_freqs.weight" in self.tensors:
            self.inv_freq /= self.weight("rope_freqs.weight").astype(np.float64)

    def field(self, name, missing=None):
        return self.fields[name].contents() if name in self.fields else missing

    def weight(self, name, rows=slice(None)):
        t = self.tensors[name]
        return gguf.quants.dequantize(t.data[rows], t.tensor_type).astype(np.float32)

    def linear(self, x, name):
        y = x @ self.weight(name + ".weight").T
        return y + self.weight(name + ".bias") if name + ".bias" in self.tensors else y

    def norm(self, x, name):
        mean_square = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
        return (x / np.sqrt(mean_square + self.epsilon)).astype(np.float32) * self.weight(name + ".weight")

    def rotate(self, x):
        """x (n, heads, head_dim) by position; llama files pair (2i, 2i + 1), the others (i, i + head_dim / 2)."""
        angle = np.arange(len(x))[:, None, None] * self.inv_freq
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        half = self.head_dim // 2
        interleaved = self.arch in ("llama", "mistral")
        first, second = (np.s_[..., 0::2], np.s_[..., 1::2]) if interleaved else (np.s_[..., :half], np.s_[..., half:])
        y = np.empty_like(x)
        y[first] = x[first] * cos - x[second] * sin
        y[second] = x[first] * sin + x[second] * cos
        return y

    def attention(self, x, block):
        n = len(x)
        q = self.linear(x, block + "attn_q").reshape(n, self.n_head, self.head_dim)
        k = self.linear(x, block + "attn_k").reshape(n, self.n_head_kv, self.head_dim)
        v = self.linear(x, block + "attn_v").reshape(n, self.n_head_kv, self.head_dim)
        if block + "attn_q_norm.weight" in self.tensors:
            q, k = self.norm(q, block + "attn_q_norm"), self.norm(k, block + "attn_k_norm")
        q, k = self.rotate(q), self.rotate(k)
        group = self.n_head // self.n_head_kv
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("shd,thd->hst", q, k) / np.float32(np.sqrt(self.head_dim))
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return self.linear(np.einsum("hst,thd->shd", scores, v).reshape(n, -1), block + "attn_output")

    def feed_forward(self, x, block):
        gate, up = self.linear(x, block + "ffn_gate"), self.linear(x, block + "ffn_up")
        return self.linear(gate / (1 + np.exp(-gate)) * up, block + "ffn_down")

    def logits(self, tokens):
        """(n, n_vocab)"""
        x = self.weight("token_embd.weight", tokens)
        for layer in range(self.n_layer):
            block = f"blk.{layer}."
            x = x + self.attention(self.norm(x, block + "attn_norm"), block)
            x = x + self.feed_forward(self.norm(x, block + "ffn_norm"), block)
        x = self.norm(x, "output_norm")
        output = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"
        n_vocab = len(self.tensors[output].data)
        step = 16384  # a float copy of the whole output matrix may not fit beside the rest
        return np.hstack([x @ self.weight(output, slice(i, i + step)).T for i in range(0, n_vocab, step)])


def reference(name, tokens, logits):
    top = np.argsort(-logits, axis=1, kind="stable")[:, :N_TOP]
    peak = logits.max(axis=1, keepdims=True).astype(np.float64)
    logsumexp = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
    return {
        "name": name, "text": PROMPTS[name], "tokens": tokens,
        "top_ids": top.tolist(),
        "top_logits": [[round(float(logits[i, t]), 5) for t in row] for i, row in enumerate(top)],
        "logsumexp": [round(float(v), 5) for v in logsumexp],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument("--npy", type=pathlib.Path, help="folder for the full logits, one float32 .npy per prompt")
    options = parser.parse_args()
    model = Model(options.model)
    tokenizer = Tokenizer(model.field)
    prompts = []
    for name, text in PROMPTS.items():
        tokens = tokenizer.encode(text)
        logits = model.logits(tokens)
        prompts.append(reference(name, tokens, logits))
        print(f"{name}: {len(tokens)} tokens", file=sys.stderr, flush=True)
        if options.npy:
            np.save(options.npy / f"{options.output.stem}-{name}.npy", logits.astype(np.float32))
    lines = ",\n".join(json.dumps(p) for p in prompts)  # one line per prompt: small, and a change shows as one
    head = {"model": options.model.name, "architecture": model.arch, "n_top": N_TOP}
    options.output.write_text(json.dumps(head)[:-1] + ', "prompts": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
