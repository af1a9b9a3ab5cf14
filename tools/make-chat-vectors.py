#!/usr/bin/env python3
"""Writes tests/data/chat/NAME.json: conversations as the chat template inside a GGUF file renders them with Jinja.

    tools/make-chat-vectors.py smollm2=models/SmolLM2-135M-Instruct.Q4_1.gguf ...

Needs the PyPI packages gguf (with numpy) and jinja2. Rendering follows what model hubs do: trim_blocks and
lstrip_blocks on, the file's own BOS and EOS tokens as variables.
"""
import json
import os
import sys

from gguf import GGUFReader
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONVERSATIONS = [
    [("user", "Hello!")],
    [("system", "You answer in one word."), ("user", "What is the capital of France?")],
    [("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?\n\nShow the steps.")],
    [("system", ""), ("user", "  spaces around  "), ("assistant", "\ta tab\n"), ("user", "żółć 日本語 🦙 {{ x }} <b>")],
    [("user", "")],
    [("assistant", "I begin.")],
    [("user", "one"), ("system", "a later system message"), ("user", "two")],
]


def render(reader, messages, add_assistant):
    def text(key):
        return reader.fields[key].contents()

    def token(key):
        return text("tokenizer.ggml.tokens")[text(key)] if key in reader.fields else ""

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text("tokenizer.chat_template")).render(
        messages=messages, add_generation_prompt=add_assistant,
        bos_token=token("tokenizer.ggml.bos_token_id"), eos_token=token("tokenizer.ggml.eos_token_id"))


def main():
    if len(sys.argv) < 2 or not all("=" in a for a in sys.argv[1:]):
        sys.exit(__doc__)
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data", "chat")
    os.makedirs(folder, exist_ok=True)
    for argument in sys.argv[1:]:
        name, path = argument.split("=", 1)
        reader = GGUFReader(path)
        cases = []
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            for add_assistant in (True, False):
                cases.append({"messages": messages, "add_assistant": add_assistant,
                              "expected": render(reader, messages, add_assistant)})
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump({"model": os.path.basename(path), "cases": cases}, file, ensure_ascii=False, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
