#!/usr/bin/env python3
"""Writes tests/data/chat/NAME.json: conversations as the chat template inside a GGUF file renders them with Jinja.

    tools/make-chat-vectors.py smollm2=models/SmolLM2-135M-Instruct.Q4_1.gguf ...

Needs the PyPI packages gguf (with numpy) and jinja2. Rendering and conversations are those of
tools/make-template-vectors.py, with the file's own BOS and EOS tokens. Conversations that Jinja refuses are left out.
"""
import importlib.util
import json
import os
import sys

from gguf import GGUFReader

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("vectors", os.path.join(HERE, "make-template-vectors.py"))
vectors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vectors)

PLAIN = [
    [("user", "Hello!")],
    [("system", "You answer in one word."), ("user", "What is the capital of France?")],
    [("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?\n\nShow the steps.")],
    [("system", ""), ("user", "  spaces around  "), ("assistant", "\ta tab\n"),
     ("user", "żółć 日本語 🦙 {{ x }} <b>")],
    [("user", "")],
    [("assistant", "I begin.")],
    [("user", "one"), ("system", "a later system message"), ("user", "two")],
]


def main():
    if len(sys.argv) < 2 or not all("=" in a for a in sys.argv[1:]):
        sys.exit(__doc__)
    folder = os.path.join(HERE, "..", "tests", "data", "chat")
    os.makedirs(folder, exist_ok=True)
    for argument in sys.argv[1:]:
        name, path = argument.split("=", 1)
        reader = GGUFReader(path)

        def text(key):
            return reader.fields[key].contents()

        def token(key):
            return text("tokenizer.ggml.tokens")[text(key)] if key in reader.fields else ""

        template = vectors.environment().from_string(text("tokenizer.chat_template"))
        own = {"bos_token": token("tokenizer.ggml.bos_token_id"),
               "eos_token": token("tokenizer.ggml.eos_token_id")}
        cases, variables = [], []
        for conversation in PLAIN:
            messages = [{"role": role, "content": content} for role, content in conversation]
            for add in (True, False):
                cases.append({"messages": messages, "add_assistant": add,
                              "expected": template.render(messages=messages, add_generation_prompt=add,
                                                          **own)})
        for conversation in vectors.CONVERSATIONS:
            for setting in vectors.SETTINGS:
                given = {"messages": conversation, **setting}
                try:
                    variables.append({"variables": given, "expected": template.render(**own, **given)})
                except Exception:  # pieces of content that this template cannot join
                    continue
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump({"model": os.path.basename(path), "cases": cases, "variables": variables}, file,
                      ensure_ascii=False, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
