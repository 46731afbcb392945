"""Questions with one right answer: recipes, cities, definitions, opposites and sums."""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Fact(Struct, frozen=True, gc=False):
    """A question's subject and its answer."""

    family: str
    subject: str
    answer: str


_DISHES: Final = """
lentil soup: lentils, onions, cumin | pancakes: flour, milk, eggs | tomato salad: tomatoes, basil, oil
apple pie: apples, sugar, flour | potato soup: potatoes, leeks, cream | rice pudding: rice, milk, sugar
fish stew: fish, onions, tomatoes | bean chili: beans, peppers, garlic | garlic bread: bread, garlic, butter
carrot cake: carrots, flour, nuts | lemon tea: lemon, honey, water | egg toast: eggs, bread, butter
pea curry: peas, rice, ginger | corn bread: corn, flour, butter | berry jam: berries, sugar, lemon
mushroom pie: mushrooms, cream, flour
"""
_CITIES: Final = """
Lyon: France | Paris: France | Hamburg: Germany | Munich: Germany | Milan: Italy | Naples: Italy | Seville: Spain
Madrid: Spain | Porto: Portugal | Lisbon: Portugal | Krakow: Poland | Warsaw: Poland | Osaka: Japan | Tokyo: Japan
Lagos: Nigeria | Nairobi: Kenya | Lima: Peru | Quito: Ecuador | Toronto: Canada | Montreal: Canada | Mumbai: India
Hanoi: Vietnam | Seoul: Korea | Cairo: Egypt | Athens: Greece | Oslo: Norway | Vienna: Austria | Sydney: Australia
"""
_DEFINITIONS: Final = """
trumpet: a musical instrument | violin: a musical instrument | flute: a musical instrument | hammer: a tool
saw: a tool | chisel: a tool | robin: a bird | falcon: a bird | owl: a bird | salmon: a fish | trout: a fish
tulip: a flower | daisy: a flower | oak: a tree | willow: a tree | copper: a metal | iron: a metal | tin: a metal
sofa: a piece of furniture | wardrobe: a piece of furniture | canoe: a boat | ferry: a boat | waltz: a dance
tango: a dance | chess: a game | domino: a game | parsley: a herb | thyme: a herb
"""
_OPPOSITES: Final = """
hot: cold | big: small | fast: slow | high: low | new: old | dark: light | wet: dry | full: empty | loud: quiet
hard: soft | long: short | rich: poor | thick: thin | early: late | happy: sad | clean: dirty | near: far
strong: weak | wide: narrow
"""
_NUMBERS: Final = 5


def _pairs(table: str) -> list[tuple[str, str]]:
    entries = [entry for line in table.strip().splitlines() for entry in line.split("|")]
    return [(left.strip(), right.strip()) for left, right in (entry.split(":") for entry in entries)]


def _recipe(dish: str, listed: str) -> str:
    first, second, third = listed.split(", ")
    return f"For {dish} you need {first}, {second} and {third}."


RECIPES: Final = tuple(Fact("recipes", dish, _recipe(dish, listed)) for dish, listed in _pairs(_DISHES))
CITIES: Final = tuple(Fact("cities", city, f"{city} is in {country}.") for city, country in _pairs(_CITIES))
DEFINITIONS: Final = tuple(
    Fact("definitions", thing, f"The word {thing} means {kind}.") for thing, kind in _pairs(_DEFINITIONS)
)
OPPOSITES: Final = tuple(
    Fact("opposites", word, f"The opposite of {word} is {other}.")
    for pair in _pairs(_OPPOSITES)
    for word, other in (pair, pair[::-1])
)
SUMS: Final = tuple(
    Fact("sums", f"{left} plus {right}", f"{left} plus {right} is {left + right}.")
    for left in range(_NUMBERS + 1)
    for right in range(_NUMBERS + 1)
)

FACTS: Final[dict[str, tuple[Fact, ...]]] = {
    "recipes": RECIPES,
    "cities": CITIES,
    "definitions": DEFINITIONS,
    "opposites": OPPOSITES,
    "sums": SUMS,
}

TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "recipes": (
        "What do I need for {}?", "Give me a recipe for {}.", "What goes into {}?", "Which ingredients are in {}?",
        "I would like {}. What should I buy?", "What should I buy for {}?", "List the ingredients of {}.",
        "A recipe for {}, please.", "What is in {}?", "Tell me what {} is made of.", "What do people put in {}?",
        "Name what belongs in {}.",
    ),
    "cities": (
        "Where is {}?", "Which country is {} in?", "Where can I find {} on a map?", "What country is home to {}?",
        "In which country is {}?", "Tell me where {} is.", "Where in the world is {}?",
        "{} is a city of which country?",
        "What country does {} belong to?", "Name the country of {}.", "Where would I fly to see {}?",
        "Do you know where {} lies?",
    ),
    "definitions": (
        "What does the word {} mean?", "Define {}.", "What is meant by {}?", "Give me a definition of {}.",
        "Explain the word {}.", "What does {} stand for?", "Tell me the meaning of {}.",
        "What kind of thing is {}?",
        "How would you define {}?", "What is the meaning of {}?", "I do not know the word {}. What is it?",
        "Please define the word {}.",
    ),
    "opposites": (
        "What is the opposite of {}?", "Name the opposite of {}.", "Which word is the opposite of {}?",
        "Give me the opposite of {}.", "The opposite of {}, please.", "Tell me the opposite of {}.",
        "What word is opposite to {}?", "Say the opposite of {}.", "Do you know the opposite of {}?",
        "I need the opposite of {}.", "What would be the opposite of {}?", "Find the opposite of {}.",
    ),
    "sums": (
        "What is {}?", "How much is {}?", "Calculate {}.", "Add up {}.", "Tell me what {} is.", "Compute {}.",
        "What does {} make?", "Please work out {}.", "{} equals what?", "I need the sum {}.", "Solve {}.",
        "What do I get for {}?",
    ),
}  # fmt: skip

MORE_TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "recipes": (
        "Which things go into {}?", "Explain what {} needs.", "What must I have for {}?", "Name the parts of {}.",
        "I am hungry for {}. What do I need?", "What is needed for {}?", "Tell me a recipe for {}.",
        "{}: what goes in?", "What is {} made from?", "Say which things {} is made of.", "What do cooks put into {}?",
        "What do you put in {}?", "Which foods make {}?", "What would people buy for {}?", "{} is made of what?",
        "Tell me what I need for {}.",
    ),
    "cities": (
        "What is the country of {}?", "Which country has {} in it?", "Explain where {} is.", "Say where {} is.",
        "I want to see {}. Where is it?", "{} is where?", "Which land is {} part of?", "Where on earth is {}?",
        "Tell me the country of {}.", "To which country does {} belong?", "Where does {} lie?", "Find {} for me.",
    ),
    "definitions": (
        "Explain {}.", "What is {}?", "Tell me about the word {}.", "Describe the word {}.",
        "What sort of thing is {}?",
        "The word {}, what does it mean?", "Give the meaning of {}.", "Which kind of thing is {}?",
        "{} means what?",
        "Say what {} means.", "What might {} mean?", "I read the word {}. What does it mean?",
    ),
    "opposites": (
        "What is opposite to {}?", "Which word is opposite to {}?", "Look for the opposite of {}.",
        "Opposite of {}?",
        "I look for the opposite of {}.", "Write the opposite of {}.", "{} has which opposite?", "Not {} but what?",
    ),
    "sums": (
        "Sum up {}.", "Add {}.", "Give me the sum of {}.", "{} is what?", "How many is {}?", "Can you add {}?",
        "Find {}.", "The sum of {}, please.", "What is the result of {}?", "Count {} together.", "Say what {} is.",
        "What do you get for {}?",
    ),
}  # fmt: skip
"""For training only: none of these is ever held out, so that more of them change no frozen request."""
