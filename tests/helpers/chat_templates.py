"""Chat templates of the shapes there are, and a tokenizer that applies them."""

import copy

from tokenizers import processors

HEAD = "{{ bos_token }}{% for m in messages %}"
TURN = "<|start|>{{ m.role }}<|end|>\n\n"
PROMPT = "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
# Llama 3's shape: headers, and nothing after the end of a turn.
PLAIN = HEAD + TURN + "{{ m.content }}<|end|>{% endfor %}" + PROMPT
# The same, marked; the block ends in a blank, which some tokenizers leave out of a token's offsets.
MARKED = (
    HEAD + TURN + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|> {% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
)
# ChatML's shape: a line break follows the end of a turn.
LINES = (
    HEAD + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Mistral's shape: the system message is part of the first prompt, and roles must take turns.
FOLDED = (
    "{{ bos_token }}{% set chat = messages %}{% set system = '' %}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content + '\n' %}{% set chat = messages[1:] %}{% endif %}{% for m in chat %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if m.role == 'user' %}[{{ (system if loop.first else '') + m.content }}]{% else %}"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}"
)
# Llama 3.1's habit: the first message is looked at, whatever it is.
FIRST = "{% if messages[0]['role'] == 'system' %}{{ messages[0].content }}{% endif %}" + PLAIN
# Qwen3's habit: only the last answer shows its thoughts.
STRIPPED = LINES.replace("{{ m.content }}", "{{ '<think>' if loop.last and m.role == 'assistant' }}{{ m.content }}")
# A prompt that goes on in another way than the answers do.
UNPROMPTED = HEAD + TURN + "{{ m.content }}<|end|>{% endfor %}" + PROMPT.replace("\n\n", "\n\n<think>")


def with_template(tokenizer, template: str | None):
    """A copy of `tokenizer` with a template; it adds BOS by itself and trims blanks off offsets, as Llama 3's does."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<|bos|>", "additional_special_tokens": ["<|start|>"]})
    bos = processors.TemplateProcessing("<|bos|> $A", None, [("<|bos|>", tokenizer.bos_token_id)])
    trimmed = processors.ByteLevel(trim_offsets=True)
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([trimmed, bos])
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents: str, system: str | None = None) -> list[dict]:
    """A conversation in which user and assistant take turns."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]
