"""Identifiers of the form first_second, split once and for all into a training and a test half.

Whether a pair belongs to the test split depends on the pair alone (a CRC of its text), so no name of a test
item (function, table, column, service, entity) occurs anywhere in training, in any role.
"""

import random
import zlib
from functools import cache

FIRST = """
able acid amber ample antic arid ashen azure badge baked basic blank blond blunt bold brave brief brisk broad bronze
brown burnt calm candid cedar cheap chief chilly civic clean clear clever close coarse cobalt cold coral cosmic crisp
cubic curly daily damp dark dear deep dense dim dizzy double dry dual dull dusty eager early easy elder empty equal
even exact extra faint fair false fancy fast fatal feral few fiery final fine firm fixed flat fleet fluid fond formal
frail frank free fresh full funny fuzzy gentle giant glad global gold good grand grave gray great green gross half
handy happy hard harsh hasty heavy hidden high hollow holy honest huge humble hungry icy ideal idle inner iron ivory
jade joint jolly juicy keen kind known large last late lazy lean legal level light lime linen liquid little live local
lone long loose loud loyal lucid lucky lunar mad magic main major maple mellow merry mild minor misty mixed modern moist
""".split()

SECOND = """
acorn actor anchor angle ankle apple apron arch arrow atlas attic badger bagel banjo barn basil basin basket beacon
beaver bench berry bishop blade blanket boat bonnet border bottle bowl branch brick bridge brook brush bucket buffer
bundle button cabin cable camel camera candle canoe canvas canyon carbon cargo carpet castle cave cello chain chalk
charm cherry chess circle clock cloud clover coast comet copper corner cotton couch crane crater crown crystal curtain
dagger dairy deck delta desert desk dolphin donkey dragon drawer dream drum eagle easel ember engine falcon feather
fence ferry fiddle field finch flame flask flute forest fossil fountain fox frame garden garlic gate geyser ginger
glacier globe glove goat grape gravel guitar hammer harbor harp hawk hazel helmet heron hill honey horn hotel house
island jacket jar jewel jungle kettle kite kitten ladder lagoon lake lamp lantern lark leaf ledger lemon lens lily
""".split()

TEST_SHARE = 8  # one pair in eight belongs to the test split


def split_of(name: str) -> str:
    """'test' or 'train' for a name, from its text alone."""
    return "test" if zlib.crc32(name.encode()) % TEST_SHARE == 0 else "train"


@cache
def partners(split: str) -> dict[str, tuple[str, ...]]:
    """For every first word, the second words that make a name of `split`."""
    return {a: tuple(b for b in SECOND if split_of(f"{a}_{b}") == split) for a in FIRST}


def draw(rng: random.Random, split: str, count: int) -> list[str]:
    """`count` names of `split` in which no first and no second word occurs twice."""
    table, used, names = partners(split), set(), []
    for first in rng.sample(FIRST, len(FIRST)):
        free = [second for second in table[first] if second not in used]
        if not free:  # every second word that goes with this first one is taken
            continue
        second = rng.choice(free)
        used.add(second)
        names.append(f"{first}_{second}")
        if len(names) == count:
            return names
    raise ValueError(f"only {len(names)} of {count} names can be drawn without repeating a word")
