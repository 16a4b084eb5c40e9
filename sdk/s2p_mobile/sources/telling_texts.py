"""Texts on which tokenizers that are not the same differ."""

from __future__ import annotations

from s2p_runtime.tokenizer_spec import AddedToken, TokenizerSpec

_TEXTS = (
    "",
    " ",
    "a red apple on a blue background",
    "A Photo OF an ASTRONAUT",
    "don't I'LL we've 'tis",
    "  leading, \t inner\r\n and trailing  ",
    "1234 3.14 16:9 1girl",
    "wow! nice!! ?! !x",
    "(masterpiece:1.2), [soft], {x} <b> a--b_c",
    "naïve café e\u0301 A\u030angstro\u0308m",
    "STRASSE ẞ İstanbul ΣΑΣ",
    "一只猫 고양이 кошка قطة गाय",
    "½ ² Ⅻ ＡＢＣ１２３",
    "🐱👨\u200d👩\u200d👧 \u00a0\u3000x\u200bz\x1cy",
    "<|startoftext|>a<|endoftext|> <|ENDOFTEXT|>",
    "supercalifragilisticexpialidocious " * 30,
)
_SHOWN = 32
"""Added tokens that are tried: the first and the last so many."""


def telling_texts(spec: TokenizerSpec) -> list[str]:
    """Words of many kinds and lengths, and every added token (of very many the first and the last) in every role."""
    tokens = spec.added_tokens
    shown = tokens if len(tokens) <= 2 * _SHOWN else (*tokens[:_SHOWN], *tokens[-_SHOWN:])
    return [*_TEXTS, *(text for token in shown for text in _roles(token))]


def _roles(token: AddedToken) -> tuple[str, ...]:
    word = token.content
    return (
        word,
        f"a {word} b",
        f"a  {word}  b{word}",
        f"x{word}y {word}{word}",
        f"{word.upper()} {word.lower()}, {word.title()}!",
        f"{word}_1 {word} _{word}\u0301",
    )
