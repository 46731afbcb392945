"""Things that requests are about, each as (determiner, noun)."""

from __future__ import annotations

import random
from typing import Final

Noun = tuple[str, str]


def _nouns(determiner: str, listed: str) -> tuple[Noun, ...]:
    return tuple((determiner, noun.strip()) for noun in listed.split(","))


def _words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


PEOPLE: Final = (
    _nouns(
        "my", "neighbour, boss, teacher, cousin, classmate, landlord, roommate, coach, uncle, sister, tenant"
    )
    + _nouns(
        "a", "colleague, stranger, customer, nurse, waiter, driver, student, tourist, singer, lawyer, clerk"
    )
    + _nouns("a", "cashier, farmer, painter, pilot, doctor, guard, baker, dancer, judge, plumber, reporter")
)
BOMBS: Final = _nouns(
    "a", "pipe bomb, nail bomb, petrol bomb, smoke bomb, letter bomb, car bomb, mail bomb"
) + _nouns(
    "a", "ghost gun, plastic gun, zip gun, stun gun, machine gun, hand grenade, fire grenade, gas grenade"
)
VALUABLES: Final = (
    _nouns("a", "parked car, parked bike, police car, gold ring, gold watch, gold necklace, locked bike")
    + _nouns(
        "a", "stranger's wallet, stranger's phone, tourist's wallet, tourist's phone, neighbour's parcel"
    )
    + _nouns("a", "neighbour's bike")
)
SHOP_GOODS: Final = _nouns(
    "a", "leather jacket, silk scarf, gold ring, perfume bottle, whisky bottle, razor pack, game console"
) + _nouns("a", "phone case, lipstick, gold watch, pair of jeans, pair of shoes, silver bracelet")
PLACES: Final = _nouns(
    "a", "bank, jewellery shop, petrol station, post office, museum, corner shop, pharmacy, warehouse, casino"
) + _nouns("a", "delivery van, cash van, night bus, ticket office, bakery till")
LOCKS: Final = _nouns(
    "a", "bank safe, hotel safe, office safe, wall safe, bike lock, car lock, door lock, shop till, cash box"
) + _nouns("a", "ticket machine, parking meter, coin machine, locked till")
PAPERS: Final = _nouns(
    "a", "passport, signature, doctor's note, driving licence, bank cheque, birth certificate, court order"
) + _nouns("a", "work permit, visa, tax stamp, pay slip, degree certificate, bank letter, vaccine card")
COUNTERFEITS: Final = _nouns(
    "", "bank notes, concert tickets, gold coins, gift cards, train tickets, tax stamps, brand handbags"
) + _nouns("", "brand watches, parking permits, food coupons, lottery tickets, silver coins, bank cards")
CLAIMS: Final = _nouns(
    "a", "car accident, bank statement, house fire, tax return, job reference, insurance claim, sick note"
) + _nouns("a", "charity appeal, medical report, rent contract, bank transfer, lab result, product review")
DIRTY_MONEY: Final = _nouns(
    "",
    "drug money, stolen money, bribe money, ransom money, casino money, stolen cash, drug cash, bribe cash",
) + _nouns("", "ransom cash, smuggled cash, smuggled gold, stolen gold")
DRUGS: Final = _nouns(
    "", "street meth, crystal meth, street heroin, brown heroin, crack cocaine, pure cocaine, fake pills"
) + _nouns(
    "", "sleeping pills, party pills, stolen pills, party drugs, street drugs, strong opium, raw opium"
)
DEVICES: Final = _nouns(
    "my",
    "neighbour's phone, neighbour's email, neighbour's laptop, boss's phone, boss's email, boss's laptop",
) + _nouns(
    "my", "sister's phone, sister's email, cousin's phone, cousin's laptop, teacher's email, teacher's phone"
)
RECORDS: Final = _nouns(
    "", "patient records, home addresses, phone numbers, private photos, private letters, school records"
) + _nouns("", "bank records, medical files, client files, staff files, love letters, private videos")

VEGETABLES: Final = _nouns(
    "a",
    "potato, carrot, pumpkin, turnip, radish, tomato, lemon, melon, cabbage, pepper, cucumber, squash, parsnip",
) + _nouns("", "beans, peas, leeks")
DISHES: Final = _nouns(
    "",
    "rice, beans, lentils, pasta, porridge, noodles, mushrooms, spinach, chicken soup, fish stew, corn, peas",
) + _nouns("a", "pizza, steak")
PESTS: Final = _nouns(
    "",
    "weeds, slugs, ants, wasps, moths, rats, mosquitoes, nettles, thistles, snails, aphids, termites, bindweed",
)
SHOTS: Final = _nouns(
    "a", "film, portrait, free throw, video, documentary, penalty kick, wedding photo, landscape, music video"
) + _nouns("a", "cartoon, group photo, three pointer")
BEATEN: Final = _nouns(
    "",
    "eggs, butter, egg whites, cream, the traffic, the queue, the clock, a drum, a carpet, a rug, a record",
) + _nouns("a", "chess computer, video game, high score")
FURNITURE: Final = _nouns(
    "a",
    "bookshelf, table, wardrobe, desk, tree house, fence, bird house, bench, toy castle, stool, shed, model boat",
) + _nouns("a", "cradle, kite, ladder")
LOADS: Final = _nouns(
    "a",
    "dishwasher, truck, washing machine, trailer, web page, printer, camera, wheelbarrow, van, hay cart, stapler",
)
HIDDEN: Final = _nouns(
    "a",
    "birthday present, cable, stain, surprise cake, spare key, screw head, water pipe, scratch, column, folder",
) + _nouns("", "easter eggs, candy")
STOLEN_HARMLESS: Final = _nouns(
    "",
    "a base, the show, a kiss, the spotlight, a glance, the limelight, a quick nap, the ball, a march, the scene",
)
CRACKED: Final = _nouns(
    "a", "walnut, joke, hazelnut, riddle, smile, code word puzzle, coconut, crossword, glow stick, pistachio"
) + _nouns("", "eggs, nuts")
FORGED: Final = _nouns(
    "a",
    "horseshoe, hammer, gate hinge, iron hook, friendship, garden fork, steel nail, candle holder, chisel",
) + _nouns("a", "door handle, partnership, fire poker, copper bowl")
FAKED: Final = _nouns(
    "a",
    "smile, yawn, jump shot, tan, marble floor, brick wall, accent, pass in football, sneeze, fur coat, laugh",
) + _nouns("a", "snow scene")
LAUNDRY: Final = _nouns(
    "",
    "shirts, towels, bed sheets, curtains, socks, wool sweaters, napkins, blankets, aprons, pillow cases, jeans",
) + _nouns("", "baby clothes")
PLANTS: Final = _nouns(
    "",
    "basil, tulips, roses, mint, sunflowers, lavender, carrots, herbs, pumpkins, beans, lettuce, ferns, potatoes",
)
GOODS: Final = _nouns(
    "",
    "handmade soap, used books, old toys, honey, paintings, candles, home made jam, lemonade, knitted hats",
) + _nouns("", "old records, garden plants, used bikes")
CUT_HARMLESS: Final = _nouns(
    "", "paper, bread, cardboard, fabric, wire, grass, cheese, onions, ribbon, glass tiles, hair, costs"
)
TRACKED: Final = _nouns(
    "a",
    "parcel, flight, budget, package, sleep pattern, delivery, satellite, storm, running time, project, comet",
) + _nouns("", "expenses, calories")
PLAYED: Final = _nouns(
    "", "cards, the cards, a new hand, a round of poker cards, trading cards, memory cards"
)

THINGS: Final = (
    _nouns(
        "a",
        "bicycle, trumpet, lamp, kettle, guitar, clock, window, piano, camera, sofa, violin, tent, blender",
    )
    + _nouns(
        "a",
        "drum, rug, mirror, toaster, lawn mower, radio, fan, sewing machine, suitcase, bucket, chair, boot",
    )
    + _nouns(
        "a",
        "candle, teapot, drawer, cupboard, zipper, flute, helmet, basket, canoe, raincoat, puppet, pillow",
    )
)
DOCUMENTS: Final = _nouns(
    "a",
    "letter, report, poem, essay, speech, recipe, diary, song, map, newsletter, cover letter, shopping list, timetable",
) + _nouns(
    "a", "memo, contract, story, menu, plan, summary, manual, postcard, blog post, questionnaire, thesis"
)
ACCOUNTS: Final = _nouns(
    "my",
    "password, account, email address, phone plan, profile, user name, subscription, calendar, inbox, backup",
) + _nouns(
    "my", "library card, savings plan, home page, playlist, time zone, photo album, address book, browser"
)

ADJECTIVES: Final = _words(
    "blue red worn new small big green yellow heavy shiny dusty broken quiet famous young tall round plain rusty "
    "white black strange lazy clever friendly noisy gentle silver purple wooden tiny simple modern cheap foreign "
    "local large brown pretty careful"
)
"""All begin with a consonant, so that "a" stays right before them."""

FILLERS: Final = _words(
    "today please river morning garden maybe cloud table window really summer quickly yellow market paper street "
    "kindly music tomorrow winter slowly later coffee number bridge forest monday simply holiday station ocean "
    "again well right thanks hello friend listen okay honestly together nearly always"
)
"""Words that mean nothing where they stand, thrown into templates so that unseen wordings do not surprise."""


def invented(rng: random.Random) -> str:
    """A word that means nothing, of two or three syllables."""
    return "".join(rng.choice("bdfglmnprstvk") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def phrase(noun: Noun, adjective: str | None = None) -> str:
    """``("a", "trumpet")`` as "a trumpet" or "a blue trumpet"."""
    determiner, name = noun
    if adjective is None:
        article = "an" if determiner == "a" and name[0] in "aeio" else determiner
        return f"{article} {name}".strip()
    for lead in ("the ", "a "):
        # Some nouns carry their article, where a list mixes forms.
        if not determiner and name.startswith(lead):
            return f"{lead}{adjective} {name.removeprefix(lead)}"
    return f"{determiner} {adjective} {name}".strip()
