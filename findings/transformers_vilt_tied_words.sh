#!/usr/bin/env bash
# transformers 5.24.0, ViltConfig and ViltForMaskedLM, torch 2.11.
#
# Behaviour: `ViltConfig(tie_word_embeddings=False)` is a config with `tie_word_embeddings == True`: the argument is
# dropped without a word. Set on the object afterwards, the value holds: the model's output matrix is one of its own,
# and `save_pretrained` writes false to config.json. `from_pretrained` then reads that file as true again. It keeps the
# untied weights only because they differ in the file, and warns that the config should say
# `tie_word_embeddings=False` - which it does. BertConfig, beside it, takes the argument.
# Why it surprises: the field is in the signature and in the saved file, and neither way of giving it has an effect. A
# ViLT with an output matrix of its own, counted or trained from its config, silently has fewer weights than was asked.
# What vitbench does: its test of parity gives the published model an output matrix of its own, by hand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv -q "$folder/venv"
uv pip install -q --python "$folder/venv/bin/python" transformers==5.24.0 torch==2.11.0
cat >"$folder/run.py" <<'PY'
import json
import sys
from pathlib import Path

import transformers
from transformers import BertConfig, BertForMaskedLM, ViltConfig, ViltForMaskedLM

small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}


def tied(model):
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


print("transformers", transformers.__version__)
asked = ViltConfig(tie_word_embeddings=False, **small)
print("ViLT, asked for no tie: config says", asked.tie_word_embeddings, "- tied:", tied(ViltForMaskedLM(asked)))
other = BertConfig(tie_word_embeddings=False, **small)
print("BERT, asked for no tie: config says", other.tie_word_embeddings, "- tied:", tied(BertForMaskedLM(other)))

config = ViltConfig(**small)
config.tie_word_embeddings = False
model, folder = ViltForMaskedLM(config), Path(sys.argv[1])
model.save_pretrained(folder)
written = json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
read = ViltForMaskedLM.from_pretrained(folder)
print("ViLT, set afterwards: tied:", tied(model), "- file says", written, "- read back as", read.config.tie_word_embeddings)
seen = (asked.tie_word_embeddings, other.tie_word_embeddings, tied(model), written, read.config.tie_word_embeddings)
sys.exit(seen != (True, False, False, False, True))
PY
"$folder/venv/bin/python" "$folder/run.py" "$folder/saved"
