"""The English of the tiny world: captions of scenes, and the many ways to ask for one edit."""

from itertools import permutations
from zlib import crc32

WHERE = {                                            # setting: where the things are
    "meadow": ("in a meadow", "in a green meadow"), "sea": ("on the sea", "at sea"),
    "desert": ("in the desert", "in a sandy desert"), "snow": ("in a snowy field", "in a field of snow"),
    "city": ("in a city street", "in the city"), "mountains": ("in the mountains", "in the high mountains"),
}
NOUNS = {                                            # setting: what it is
    "meadow": ("a meadow", "a green meadow"), "sea": ("the sea", "the open sea"),
    "desert": ("a desert", "a sandy desert"), "snow": ("a snowy field", "a field of snow"),
    "city": ("a city street", "a city"), "mountains": ("the mountains", "high mountains"),
}
WHEN = {
    "day": ("by day", "in daylight"), "sunset": ("at sunset", "in the evening"), "night": ("at night", "in the dark"),
}
HOURS = {"day": ("day", "daytime"), "sunset": ("sunset", "evening"), "night": ("night", "night-time")}
SKY = {
    "clear": ("", "under a clear sky"), "rain": ("in the rain", "while it rains"),
    "fog": ("in the fog", "in thick fog"), "snowfall": ("in falling snow", "while it snows"),
}
MEDIUM_NAMES = {
    "plain": ("a plain picture", "a digital picture"),
    "pencil": ("a coloured pencil drawing", "a pencil drawing"),
    "watercolour": ("a watercolour painting", "a watercolour"),
    "pixel": ("pixel art", "a pixel art picture"),
}
SPOTS = {"left": "on the left", "middle": "in the middle", "right": "on the right"}


def a(words: str) -> str:
    """The words with their article: "an orange boat"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def listed(parts: list[str]) -> str:
    """"x", "x and y", "x, y and z"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


DETAILS = ("size", "place", "weather")
"""what a caption may leave open"""
ORDERS = tuple(permutations(SPOTS))


def caption(scene, details=DETAILS, pick: int | None = None) -> str:
    """One English sentence that tells of a scene: setting, time, medium, each thing's colour and kind, and `details`.

    `pick` chooses among the ways to say it, so that two scenes are told alike; unless given it is the scene's own, and
    the form varies with the scene, yet is fixed for each scene. Things whose place is left open come in any order.
    """
    if pick is None:
        pick = crc32(repr(scene).encode())           # not hash(): that changes from one run of Python to the next

    def one(options):
        nonlocal pick
        pick, i = divmod(pick, len(options))
        return options[i]

    def told(t) -> str:
        size, spot = f"{t.size} " * ("size" in details), f" {SPOTS[t.place]}" * ("place" in details)
        return a(f"{size}{t.colour} {t.kind}") + spot

    order = tuple(SPOTS) if "place" in details else one(ORDERS)
    things = sorted(scene.things, key=lambda t: order.index(t.place))
    what = f"{listed([told(t) for t in things])} {one(WHERE[scene.setting])} {one(WHEN[scene.time])}"
    sky = one(SKY[scene.weather]) if "weather" in details else ""
    medium = "" if scene.medium == "plain" else one(MEDIUM_NAMES[scene.medium])
    if medium and one((0, 1)):
        return f"{medium} of {what}" + (f", {sky}" if sky else "")
    return ", ".join(p for p in (what, sky, medium.removeprefix("a ")) if p)


# ---- instructions: the words in braces are filled in by `instructions`.

TIME = (
    "make it {hour}", "change the time to {hour}", "what if it were {hour}?", "let it be {hour}",
    "turn {old_hour} into {hour}", "show it {when}", "it should be {hour}", "make it look like {hour}",
    "the same scene {when}", "set the time to {hour}", "what would it look like {when}?",
)
SETTING = (
    "put it {where}", "move it {where}", "change the setting to {noun}", "make the background {noun}",
    "what if it were {where}?", "replace the background with {noun}", "set it {where}", "the same scene {where}",
    "change {old_noun} to {noun}", "let it take place {where}", "turn {old_noun} into {noun}",
)
MEDIUM = (
    "make it {medium}", "turn it into {medium}", "change the style to {medium}", "draw it as {medium}",
    "what if it were {medium}?", "convert it to {medium}", "make it look like {medium}", "as {medium}",
    "it should be {medium}",
)
WEATHER = {
    "rain": (
        "make it rain", "let it rain", "add rain", "what if it were raining?", "change the weather to rain",
        "it should be raining", "show it in the rain", "make it rainy", "the same scene in the rain", "let it pour",
    ),
    "snowfall": (
        "make it snow", "let it snow", "add falling snow", "what if it were snowing?", "change the weather to snow",
        "it should be snowing", "show it in falling snow", "make snow fall", "the same scene while it snows",
        "add snowflakes",
    ),
    "fog": (
        "make it foggy", "let there be fog", "add fog", "what if it were foggy?", "change the weather to fog",
        "it should be foggy", "show it in the fog", "make it misty", "the same scene in thick fog",
        "cover it in fog",
    ),
    "clear": (
        "make the weather clear", "clear the sky", "let the sky be clear", "what if the sky were clear?",
        "change the weather to clear", "the sky should be clear", "show it under a clear sky",
        "the same scene in clear weather",
    ),
}
STOP = {
    "rain": ("stop the rain", "remove the rain"), "snowfall": ("stop the snow", "remove the falling snow"),
    "fog": ("clear the fog", "remove the fog"), "clear": (),
}
RECOLOUR = (
    "turn the {kind} {colour}", "make the {kind} {colour}", "the {kind} should be {colour}",
    "paint the {kind} {colour}", "change the colour of the {kind} to {colour}",
    "make the {old_colour} {kind} {colour}", "what if the {kind} were {colour}?", "color the {kind} {colour}",
    "change the {kind} to {colour}", "turn the {old_colour} {kind} {colour}", "give the {kind} {a_colour} colour",
)
REPLACE = (
    "replace the {old_kind} with {a_new}", "swap the {old_kind} for {a_new}", "turn the {old_kind} into {a_new}",
    "change the {old_kind} to {a_new}", "make the {old_kind} {a_new}", "exchange the {old_kind} for {a_new}",
    "what if the {old_kind} were {a_new}?", "put {a_new} in place of the {old_kind}",
    "{a_new} instead of the {old_kind}", "replace the {old_colour} {old_kind} with {a_new}",
)
ADD = (
    "add {a_thing} {spot}", "put {a_thing} {spot}", "place {a_thing} {spot}", "draw {a_thing} {spot}",
    "insert {a_thing} {spot}", "there should be {a_thing} {spot}", "{spot}, add {a_thing}",
    "let there be {a_thing} {spot}", "what if there were {a_thing} {spot}?",
)
REMOVE = (
    "remove the {old_kind}", "take away the {old_kind}", "get rid of the {old_kind}", "delete the {old_kind}",
    "erase the {old_kind}", "remove the {old_colour} {old_kind}", "take the {old_kind} away",
    "make the {old_kind} disappear", "what if the {old_kind} were gone?", "without the {old_kind}",
    "take the {old_kind} out",
)


def _change(source, target):
    """The thing that goes and the thing that comes; either may be None."""
    old = [t for t in source.things if t not in target.things]
    new = [t for t in target.things if t not in source.things]
    return (old[0] if old else None), (new[0] if new else None)


def phrase(kind: str, source, target, rng) -> str:
    """The words of captions that tell of an edit and nothing more: "at night", "in the desert", "a red cat, a blue cat".

    Of a thing that is replaced both are named, the old one first; with or without size and place.
    """
    names = {
        "time": (WHEN, "time"), "setting": (WHERE, "setting"), "weather": (SKY, "weather"),
        "medium": (MEDIUM_NAMES, "medium"),
    }
    if kind in names:
        words, attribute = names[kind]
        options = [option for option in words[getattr(target, attribute)] if option]
    else:
        size, place = (rng.random(2) < 0.5).tolist()
        things = [
            a(f"{thing.size} " * size + f"{thing.colour} {thing.kind}") + f" {SPOTS[thing.place]}" * place
            for thing in _change(source, target) if thing is not None
        ]
        options = [", ".join(things)]
    return options[rng.integers(len(options))]


def instructions(kind: str, source, target) -> list[str]:
    """All wordings of the edit of this kind that leads from source to target, in lower case.

    Each, together with the source, says all of the target. ValueError for an unknown kind of edit.
    """
    if kind == "time":
        return [f.format(hour=hour, when=when, old_hour=HOURS[source.time][0])
                for f in TIME for hour, when in zip(HOURS[target.time], WHEN[target.time])]
    if kind == "setting":
        return [f.format(noun=noun, where=where, old_noun=NOUNS[source.setting][0])
                for f in SETTING for noun, where in zip(NOUNS[target.setting], WHERE[target.setting])]
    if kind == "medium":
        return [f.format(medium=name) for f in MEDIUM for name in MEDIUM_NAMES[target.medium]]
    if kind == "weather":
        return [*WEATHER[target.weather], *(STOP[source.weather] if target.weather == "clear" else ())]
    old, new = _change(source, target)
    if kind == "recolour":
        words = dict(kind=old.kind, colour=new.colour, old_colour=old.colour, a_colour=a(new.colour))
        return [f.format(**words) for f in RECOLOUR]
    if kind == "replace":
        names = [f"{new.colour} {new.kind}"] + ([new.kind] * 2 if new.colour == old.colour else [])
        return [f.format(old_kind=old.kind, old_colour=old.colour, a_new=a(name)) for f in REPLACE for name in names]
    if kind == "add":
        return [f.format(a_thing=a(f"{new.size} {new.colour} {new.kind}"), spot=SPOTS[new.place]) for f in ADD]
    if kind == "remove":
        return [f.format(old_kind=old.kind, old_colour=old.colour) for f in REMOVE]
    raise ValueError(f"no kind of edit is called {kind!r}")


def worded(kind: str, source, target, rng) -> str:
    """One of `instructions`, now and then with a capital letter or a full stop."""
    options = instructions(kind, source, target)
    text = options[rng.integers(len(options))]
    style = rng.random()
    if style < 0.25:
        text = text[0].upper() + text[1:]
    if style < 0.15 and not text.endswith("?"):
        text += "."
    return text
