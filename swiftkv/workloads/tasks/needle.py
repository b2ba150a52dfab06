"""Needle: one fact to be found among as many RAG passages as the context holds. For diagnosis, never scored.

RAG itself uses no word twice, so that the name lists end its contexts; here only the needle's words are its own.
"""

from random import Random

from swiftkv.workloads.names import draw, partners
from swiftkv.workloads.tasks import rag
from swiftkv.workloads.tasks.base import Context, Task


def make(rng: Random, split: str, settings: dict) -> Context:
    """`records` passages, the needle's at a random place among them; one question, for the needle."""
    entity, value = draw(rng, split, 2)
    own = {*entity.split("_"), *value.split("_")}
    free = [f"{a}_{b}" for a, seconds in partners(split).items() for b in seconds if own.isdisjoint((a, b))]
    needle = (rng.choice(rag.RELATIONS), entity, value)
    facts = [(rng.choice(rag.RELATIONS), *rng.sample(free, 2)) for _ in range(settings["records"] - 1)]
    facts.insert(rng.randrange(settings["records"]), needle)
    return Context(rag.state(facts), [rag.ask(*needle)])


TASK = Task("needle", make, rag.score)
