"""The English of the tiny world: captions of scenes, instructions for edits, and statements that an edit has happened.

The tables list the phrases for each word of a scene. Weights are trained on these texts: changing a phrase or the order
of a table changes the training data.
"""

from itertools import permutations
from zlib import crc32

WHERE = {  # setting -> "where is it?"
    "meadow": ("in a meadow", "in a green meadow"),
    "sea": ("on the sea", "at sea"),
    "desert": ("in the desert", "in a sandy desert"),
    "snow": ("in a snowy field", "in a field of snow"),
    "city": ("in a city street", "in the city"),
    "mountains": ("in the mountains", "in the high mountains"),
}
NOUNS = {  # setting -> "what is the background?"
    "meadow": ("a meadow", "a green meadow"),
    "sea": ("the sea", "the open sea"),
    "desert": ("a desert", "a sandy desert"),
    "snow": ("a snowy field", "a field of snow"),
    "city": ("a city street", "a city"),
    "mountains": ("the mountains", "high mountains"),
}
WHEN = {
    "day": ("by day", "in daylight"),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "in the dark"),
}
HOURS = {"day": ("day", "daytime"), "sunset": ("sunset", "evening"), "night": ("night", "night-time")}
SKY = {
    "clear": ("", "under a clear sky"),
    "rain": ("in the rain", "while it rains"),
    "fog": ("in the fog", "in thick fog"),
    "snowfall": ("in falling snow", "while it snows"),
}
MEDIUM_NAMES = {
    "plain": ("a plain picture", "a digital picture"),
    "pencil": ("a coloured pencil drawing", "a pencil drawing"),
    "watercolour": ("a watercolour painting", "a watercolour"),
    "pixel": ("pixel art", "a pixel art picture"),
}
SPOTS = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
DETAILS = ("size", "place", "weather")
"""what a caption may leave out"""
ORDERS = tuple(permutations(SPOTS))


def a(words: str) -> str:
    """The words with their article: "an orange boat"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def listed(parts: list[str]) -> str:
    """ "x", "x and y", "x, y and z"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene, details=DETAILS, pick: int | None = None) -> str:
    """One English sentence: the scene's setting, time and medium, each thing's colour and kind, and `details`.

    pick: an integer that chooses the phrases, so that two scenes can be described in the same words. The default
    depends on the scene alone, so each scene has one fixed caption. Without places, things come in a random order.
    """
    if pick is None:
        pick = crc32(repr(scene).encode())  # not hash(), which differs between runs of Python

    def choose(options):
        nonlocal pick
        pick, i = divmod(pick, len(options))
        return options[i]

    def describe(thing) -> str:
        size, spot = f"{thing.size} " * ("size" in details), f" {SPOTS[thing.place]}" * ("place" in details)
        return a(f"{size}{thing.colour} {thing.kind}") + spot

    order = tuple(SPOTS) if "place" in details else choose(ORDERS)
    things = sorted(scene.things, key=lambda thing: order.index(thing.place))
    what = f"{listed([describe(t) for t in things])} {choose(WHERE[scene.setting])} {choose(WHEN[scene.time])}"
    sky = choose(SKY[scene.weather]) if "weather" in details else ""
    medium = "" if scene.medium == "plain" else choose(MEDIUM_NAMES[scene.medium])
    if medium and choose((0, 1)):
        return f"{medium} of {what}" + (f", {sky}" if sky else "")
    return ", ".join(p for p in (what, sky, medium.removeprefix("a ")) if p)


# ---- Templates, separated by "|". `_words` fills in the braces. The keys are the kinds of edits; for an edit of the
# weather, the new weather, and "stop" with the old one where the sky clears.

INSTRUCTIONS = {
    "time": """
        make it {hour} | change the time to {hour} | what if it were {hour}? | let it be {hour} |
        turn {old_hour} into {hour} | show it {when} | it should be {hour} | make it look like {hour} |
        the same scene {when} | set the time to {hour} | what would it look like {when}?""",
    "setting": """
        put it {where} | move it {where} | change the setting to {noun} | make the background {noun} |
        what if it were {where}? | replace the background with {noun} | set it {where} | the same scene {where} |
        change {old_noun} to {noun} | let it take place {where} | turn {old_noun} into {noun}""",
    "medium": """
        make it {medium} | turn it into {medium} | change the style to {medium} | draw it as {medium} |
        what if it were {medium}? | convert it to {medium} | make it look like {medium} | as {medium} |
        it should be {medium}""",
    "rain": """
        make it rain | let it rain | add rain | what if it were raining? | change the weather to rain |
        it should be raining | show it in the rain | make it rainy | the same scene in the rain | let it pour""",
    "snowfall": """
        make it snow | let it snow | add falling snow | what if it were snowing? | change the weather to snow |
        it should be snowing | show it in falling snow | make snow fall | the same scene while it snows |
        add snowflakes""",
    "fog": """
        make it foggy | let there be fog | add fog | what if it were foggy? | change the weather to fog |
        it should be foggy | show it in the fog | make it misty | the same scene in thick fog | cover it in fog""",
    "clear": """
        make the weather clear | clear the sky | let the sky be clear | what if the sky were clear? |
        change the weather to clear | the sky should be clear | show it under a clear sky |
        the same scene in clear weather""",
    "stop rain": "stop the rain | remove the rain",
    "stop snowfall": "stop the snow | remove the falling snow",
    "stop fog": "clear the fog | remove the fog",
    "recolour": """
        turn the {kind} {colour} | make the {kind} {colour} | the {kind} should be {colour} |
        paint the {kind} {colour} | change the colour of the {kind} to {colour} |
        make the {old_colour} {kind} {colour} | what if the {kind} were {colour}? | color the {kind} {colour} |
        change the {kind} to {colour} | turn the {old_colour} {kind} {colour} | give the {kind} {a_colour} colour""",
    "replace": """
        replace the {old_kind} with {a_new} | swap the {old_kind} for {a_new} | turn the {old_kind} into {a_new} |
        change the {old_kind} to {a_new} | make the {old_kind} {a_new} | exchange the {old_kind} for {a_new} |
        what if the {old_kind} were {a_new}? | put {a_new} in place of the {old_kind} |
        {a_new} instead of the {old_kind} | replace the {old_colour} {old_kind} with {a_new}""",
    "add": """
        add {a_thing} {spot} | put {a_thing} {spot} | place {a_thing} {spot} | draw {a_thing} {spot} |
        insert {a_thing} {spot} | there should be {a_thing} {spot} | {spot}, add {a_thing} |
        let there be {a_thing} {spot} | what if there were {a_thing} {spot}?""",
    "remove": """
        remove the {old_kind} | take away the {old_kind} | get rid of the {old_kind} | delete the {old_kind} |
        erase the {old_kind} | remove the {old_colour} {old_kind} | take the {old_kind} away |
        make the {old_kind} disappear | what if the {old_kind} were gone? | without the {old_kind} |
        take the {old_kind} out""",
}

STATEMENTS = {
    "time": """
        it is {hour} now | now it is {hour} | the time is {hour} now | it has become {hour} |
        now it is seen {when} | {old_hour} has turned into {hour} | it looks like {hour} now |
        the time has been set to {hour} | the time has changed to {hour} | it is the same scene {when} |
        it is shown {when} now""",
    "setting": """
        now it is {where} | it has moved: it is {where} | the setting is {noun} now |
        the background is {noun} now | {old_noun} has turned into {noun} | it takes place {where} now |
        {noun} has replaced {old_noun} | the background has been replaced with {noun} |
        the setting has changed to {noun} | it has been put {where} | {old_noun} has changed to {noun} |
        it has been moved {where} | it is the same scene {where}""",
    "medium": """
        it is {medium} now | it has become {medium} | now it is drawn as {medium} | the style is {medium} now |
        it looks like {medium} now | it has been converted to {medium} | the style has changed to {medium} |
        it has been turned into {medium}""",
    "rain": """
        it rains now | now it is raining | it pours now | it is rainy now | the weather has changed to rain |
        it is shown in the rain now | rain has been added""",
    "snowfall": """
        it snows now | now it is snowing | falling snow has been added | snowflakes fall now |
        the weather has changed to snow | it is shown in falling snow now | snow falls now""",
    "fog": """
        there is fog now | now it is foggy | it is misty now | it is covered in fog now |
        the weather has changed to fog | it is shown in thick fog now | fog has been added""",
    "clear": """
        the sky is clear now | now the weather is clear | it is shown under a clear sky now |
        the sky has been cleared | the weather has changed to clear""",
    "stop rain": "the rain has stopped | the rain is gone | the rain has been removed",
    "stop snowfall": "the snow has stopped | the falling snow is gone | the falling snow has been removed",
    "stop fog": "the fog has cleared | the fog is gone | the fog has been removed",
    "recolour": """
        the {kind} is {colour} now | the {kind} has turned {colour} | the {old_colour} {kind} is {colour} now |
        the {old_colour} {kind} has turned {colour} | the colour of the {kind} is {colour} now |
        the {kind} has {a_colour} colour now | the {kind} has been painted {colour} |
        the {kind} has become {colour} | the colour of the {kind} has been changed to {colour} |
        the {kind} has changed to {colour} | the {kind} has been given {a_colour} colour |
        the {kind} has been colored {colour}""",
    "replace": """
        the {old_kind} is {a_new} now | the {old_kind} has turned into {a_new} |
        {a_new} has replaced the {old_kind} | {a_new} is in place of the {old_kind} now |
        there is {a_new} instead of the {old_kind} now |
        the {old_colour} {old_kind} has been replaced with {a_new} | the {old_kind} has been swapped for {a_new} |
        the {old_kind} has been exchanged for {a_new} | the {old_kind} has changed to {a_new} |
        {a_new} has been put in place of the {old_kind}""",
    "add": """
        there is {a_thing} {spot} now | {a_thing} has come {spot} | {spot} there is {a_thing} now |
        {a_thing} has been put {spot} | now there is {a_thing} {spot} | {a_thing} has been added {spot} |
        {spot}, {a_thing} has been added | {a_thing} has been inserted {spot} | {a_thing} has been placed {spot} |
        {a_thing} has been drawn {spot}""",
    "remove": """
        the {old_kind} is gone | the {old_colour} {old_kind} is gone | there is no {old_kind} now |
        the {old_kind} has disappeared | the {old_kind} has been taken away | it is without the {old_kind} now |
        the {old_kind} has been removed | the {old_kind} has been deleted | the {old_kind} has been erased |
        the {old_colour} {old_kind} has been removed | the {old_kind} has been taken out""",
}


def instructions(kind: str, source, target) -> list[str]:
    """All instructions, in lower case, for the edit of this kind that turns source into target.

    Each determines the target, given the source. ValueError for an unknown kind of edit.
    """
    return _fill(INSTRUCTIONS, kind, source, target)


def statements(kind: str, source, target) -> list[str]:
    """All statements that the same edit has happened: "it is night now". None of them is an instruction."""
    return _fill(STATEMENTS, kind, source, target)


def _fill(tables: dict[str, str], kind: str, source, target) -> list[str]:
    def templates(key: str) -> list[str]:
        return [text.strip() for text in tables[key].split("|")]

    if kind == "weather":
        stop = f"stop {source.weather}" if target.weather == "clear" else None
        return templates(target.weather) + (templates(stop) if stop else [])
    words = _words(kind, source, target)
    return [template.format(**each) for template in templates(kind) for each in words]


def _words(kind: str, source, target) -> list[dict[str, str]]:
    """The values for a template's braces; each dict gives one text."""
    gone = next((t for t in source.things if t not in target.things), None)
    new = next((t for t in target.things if t not in source.things), None)
    match kind:
        case "time":
            options = zip(HOURS[target.time], WHEN[target.time], strict=True)
            return [dict(hour=hour, when=when, old_hour=HOURS[source.time][0]) for hour, when in options]
        case "setting":
            options = zip(NOUNS[target.setting], WHERE[target.setting], strict=True)
            return [dict(noun=noun, where=where, old_noun=NOUNS[source.setting][0]) for noun, where in options]
        case "medium":
            return [dict(medium=name) for name in MEDIUM_NAMES[target.medium]]
        case "recolour":
            return [dict(kind=gone.kind, colour=new.colour, old_colour=gone.colour, a_colour=a(new.colour))]
        case "replace":  # the colour may be left out where it stays
            names = [f"{new.colour} {new.kind}"] + ([new.kind] * 2 if new.colour == gone.colour else [])
            return [dict(old_kind=gone.kind, old_colour=gone.colour, a_new=a(name)) for name in names]
        case "add":
            return [dict(a_thing=a(f"{new.size} {new.colour} {new.kind}"), spot=SPOTS[new.place])]
        case "remove":
            return [dict(old_kind=gone.kind, old_colour=gone.colour)]
    raise ValueError(f"unknown kind of edit {kind!r}")


def sample_instruction(kind: str, source, target, rng) -> str:
    """One of `instructions`; some with a capital letter, some of these with a full stop."""
    return _sample(instructions(kind, source, target), rng)


def sample_statement(kind: str, source, target, rng) -> str:
    """One of `statements`, styled the same way."""
    return _sample(statements(kind, source, target), rng)


def _sample(options: list[str], rng) -> str:
    text = options[rng.integers(len(options))]
    style = rng.random()
    if style < 0.25:
        text = text[0].upper() + text[1:]
    if style < 0.15 and not text.endswith("?"):
        text += "."
    return text
