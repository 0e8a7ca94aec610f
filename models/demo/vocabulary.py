"""The demo model's tokenizer: whole words for the grammar's, letters for the rest, bytes otherwise."""

import string
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from models.demo.grammar import words

_WORDS = """
a an the and or of in on at to with without from by for as is are was be it its this that his her their two
three one many some very slowly quickly gently through over under into across above behind between near
around up down cat cats dog dogs bird birds fish horse fox bear lion tiger rabbit panda elephant butterfly
person people man men woman women girl boy child children astronaut robot dancer boxer king queen crowd face
hand hands eye eyes hair car train boat ship plane bicycle city street road bridge house building castle
tower room kitchen window door table stage garden forest tree trees flower flowers grass field mountain
mountains hill river lake ocean sea wave waves beach sand desert snow ice rain storm cloud clouds sky sun
sunset sunrise moon star stars night day light shadow fire smoke fog water wind space planet earth
underwater camera scene video film movie cinematic style anime cartoon painting watercolor photo realistic
detailed beautiful colorful bright dark warm cold soft old young small big tall wide close slow fast red
orange yellow green blue purple pink black white brown gray gold silver glass wooden metal neon spotlight
gloves gear dress hat shirt suit walks walking runs running flies flying swims swimming jumps jumping dances
dancing sits sitting stands standing plays playing fights fighting drives driving falls falling rises rising
turns turning looks looking smiles smiling eats eating drinks holds holding moving moves pan zoom shot
aerial view blurry static overexposed low quality worst ugly deformed text subtitles watermark
"""

_PAD, _EOS, _UNKNOWN = "<pad>", "</s>", "<unk>"
_SPACE = "▁"


def build_tokenizer() -> Any:
    """Build a T5-style Unigram tokenizer: ids 0, 1, 2 are pad, end and unknown; every text ends with the end
    id.
    """
    pieces = [(_PAD, 0.0), (_EOS, 0.0), (_UNKNOWN, 0.0)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(_SPACE, -8.0)] + [(letter, -8.0) for letter in string.ascii_lowercase + string.digits]
    pieces += [(mark, -8.0) for mark in ".,;:!?'\"-()/&%+"]
    pieces += [(_SPACE + word, -4.0) for word in dict.fromkeys([*words(), *_WORDS.split()])]
    pieces = list(dict(pieces).items())
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=_SPACE)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_EOS}", special_tokens=[(_EOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, unk_token=_UNKNOWN, model_max_length=512
    )
