"""RAG: short passages, each stating one fact of one entity; a question about one of them."""

from random import Random

from swiftkv.workloads.names import draw
from swiftkv.workloads.tasks.base import Context, Item, Question, Task, exact, normalise, token_f1

RELATIONS = ("owner", "keeper", "leader", "author", "founder", "editor", "buyer", "tenant", "rival", "sponsor")


def make(rng: Random, split: str, settings: dict) -> Context:
    """`records` passages; the answer states the fact, and what follows 'is' is the value that is asked for."""
    records = settings["records"]
    names = draw(rng, split, 2 * records)
    facts = [(rng.choice(RELATIONS), names[2 * i], names[2 * i + 1]) for i in range(records)]
    questions = [ask(*fact) for fact in facts]
    rng.shuffle(questions)
    return Context(state(facts), questions)


def state(facts: list[tuple[str, str, str]]) -> str:
    """A passage per fact (relation, entity, value)."""
    passages = [f"the {relation} of {entity} is {value} .\n" for relation, entity, value in facts]
    return "# docs\n" + "".join(passages)


def ask(relation: str, entity: str, value: str) -> Question:
    """The question for one fact."""
    return Question(f"who is the {relation} of {entity} ?\nanswer :", f" {entity} is {value} .", {"value": value})


def score(item: Item, text: str) -> dict[str, float]:
    """Score 1.0 if the value after 'is' is right; `f1` compares the whole sentence."""
    given = normalise(text)
    value = given.split(" is ", 1)[-1].removesuffix(".").strip()
    f1 = token_f1(normalise(item.answer).split(), given.split())
    return {"score": float(value == item.meta["value"]), "exact_match": exact(item, text), "f1": f1}


TASK = Task("rag", make, score)
