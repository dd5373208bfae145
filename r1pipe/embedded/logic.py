"""logic: orderings, liars, directions, weekdays, sets, truth values."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from r1pipe.embedded.lexicon import HE, NAMES_ZH, SHE
from r1pipe.embedded.problem import Problem, Step, Steps, in_language

# Comparative, superlative and opposite superlative, in English and in Chinese.
RELATIONS = (
    ("older", "oldest", "youngest", "大", "年纪最大", "年纪最小"),
    ("taller", "tallest", "shortest", "高", "最高", "最矮"),
    ("faster", "fastest", "slowest", "快", "最快", "最慢"),
    ("richer", "richest", "poorest", "有钱", "最有钱", "最没钱"),
    ("heavier", "heaviest", "lightest", "重", "最重", "最轻"),
    ("stronger", "strongest", "weakest", "强", "最强", "最弱"),
)

# Short names only: they are repeated often.
NAMES = SHE[:22] + HE[:22]

# Words as (English, Chinese).
DAYS = (
    ("Monday", "星期一"),
    ("Tuesday", "星期二"),
    ("Wednesday", "星期三"),
    ("Thursday", "星期四"),
    ("Friday", "星期五"),
    ("Saturday", "星期六"),
    ("Sunday", "星期日"),
)
COMPASS = (("north", "北"), ("east", "东"), ("south", "南"), ("west", "西"))
YES = ("yes", "是")
NO = ("no", "否")
BOOLS = (("true", "真"), ("false", "假"))
TRUTH = (("tells the truth", "说真话"), ("lies", "说谎"))
COLORS = (
    ("red", "红"),
    ("blue", "蓝"),
    ("green", "绿"),
    ("black", "黑"),
    ("white", "白"),
    ("yellow", "黄"),
    ("brown", "棕"),
    ("pink", "粉"),
    ("gray", "灰"),
    ("purple", "紫"),
)

# Quarters to the right, and the Chinese word.
TURNS = {"left": (-1, "向左转"), "right": (1, "向右转"), "back": (2, "向后转")}


def draw(rng: Random, language: str) -> Problem:
    """One logic problem. Orderings are drawn twice as often as each of the others."""
    draw_kind = rng.choice((_order, _order, _liars, _turns, _days, _sets, _truth))
    return draw_kind(rng, language)


def _names(language: str) -> list[str]:
    return NAMES_ZH if language == "zh" else NAMES


# --- problems ---------------------------------------------------------------------------------------------------------


def _order(rng: Random, language: str) -> Problem:
    """Three or four people are compared two by two; who comes first, or last?"""
    count = rng.choice((3, 3, 4))
    # From most to least.
    people = rng.sample(_names(language), count)
    relation = rng.randrange(len(RELATIONS))
    end = rng.choice((0, 1))
    more, most, least, more_zh, most_zh, least_zh = RELATIONS[relation]
    facts = [(people[i], people[i + 1]) for i in range(count - 1)]
    rng.shuffle(facts)

    if language == "zh":
        text = "，".join(f"{a}比{b}{more_zh}" for a, b in facts)
        prompt = f"{text}。谁{(most_zh, least_zh)[end]}？"
    else:
        wording = rng.choice(("Who is the {}?", "Who is {}?", "Name the {} one.", "Which of them is the {}?"))
        gap = ". " if rng.random() < 0.6 else ", "
        text = gap.join(f"{a} is {more} than {b}" for a, b in facts)
        prompt = f"{text}. {wording.format((most, least)[end])}"
    return Problem(
        "logic",
        language,
        ["order", relation, sorted(people), end, facts],
        f"order|{relation}|{facts}|{end}",
        prompt,
        people[-1 if end else 0],
        count - 1,
    )


def _liars(rng: Random, language: str) -> Problem:
    """Of the first person it is said whether they lie; each speaks of the next."""
    zh = language == "zh"
    people = rng.sample(_names(language), rng.choice((2, 3, 3)))
    honest = [rng.random() < 0.5 for _ in people]
    count_lies = rng.random() < 0.7
    # Whether each says of the next 'tells the truth'.
    says = [honest[i] == honest[i + 1] for i in range(len(people) - 1)]

    chain = list(zip(people, people[1:], says, strict=False))
    first_en, first_zh = TRUTH[not honest[0]]
    if zh:
        claims = "".join(f"{a}说{b}{TRUTH[not claim][1]}。" for a, b, claim in chain)
        question = "几个人说谎？" if count_lies else f"{people[-1]}说真话吗？"
        prompt = f"{people[0]}{first_zh}。{claims}{question}"
    else:
        claims = " ".join(f"{a} says {b} {TRUTH[not claim][0]}." for a, b, claim in chain)
        question = "How many of them lie?" if count_lies else f"Is {people[-1]} honest?"
        prompt = f"{people[0]} {first_en}. {claims} {question}"

    last_is_honest = in_language(YES if honest[-1] else NO, language)
    return Problem(
        "logic",
        language,
        ["liars", people, honest[0], says, count_lies],
        f"liars|{people}|{honest}|{count_lies}",
        prompt,
        str(honest.count(False)) if count_lies else last_is_honest,
        len(says) + count_lies,
    )


def _turns(rng: Random, language: str) -> Problem:
    """Somebody faces a direction and turns two or three times."""
    name = rng.choice(_names(language))
    start = rng.randrange(4)
    turns = [rng.choice(("left", "right", "right", "left", "back")) for _ in range(rng.choice((2, 3, 3)))]
    end = (start + sum(TURNS[turn][0] for turn in turns)) % 4
    # The steps do not matter for the answer. With the name they are part of the key: without them there would be only
    # 144 problems.
    steps = rng.randint(2, 40)

    start_en, start_zh = COMPASS[start]
    if language == "zh":
        turned = "，".join(TURNS[turn][1] for turn in turns)
        prompt = f"{name}面向{start_zh}，走{steps}步，{turned}。现在面向哪边？"
    else:
        prompt = f"{name} faces {start_en}, walks {steps} steps, turns {', '.join(turns)}. Which way now?"
    return Problem(
        "logic",
        language,
        ["turns", start, turns],
        f"turns|{name}|{steps}|{start}|{turns}",
        prompt,
        in_language(COMPASS[end], language),
        len(turns),
    )


def _days(rng: Random, language: str) -> Problem:
    """A weekday, and two or three shifts forwards or back."""
    start = rng.randrange(7)
    shifts = [_shift(rng) for _ in range(rng.choice((2, 2, 3)))]
    end = (start + sum(shifts)) % 7
    name = rng.choice(_names(language))

    start_en, start_zh = DAYS[start]
    if language == "zh":
        moves = "，再".join(f"往{'后' if shift > 0 else '前'}数{abs(shift)}天" for shift in shifts)
        prompt = f"今天是{start_zh}。{name}{moves}，是星期几？"
    else:
        moves = ", then ".join(_shift_in_words(shift) for shift in shifts)
        prompt = f"Today is {start_en}. {name} goes {moves}. Which day is it?"
    return Problem(
        "logic",
        language,
        ["days", start, shifts],
        f"days|{name}|{start}|{shifts}",
        prompt,
        in_language(DAYS[end], language),
        len(shifts),
    )


def _shift(rng: Random) -> int:
    """Up to ten days on, or, in a third of the cases, back."""
    return rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) * rng.choice((1, 1, -1))


def _shift_in_words(shift: int) -> str:
    plural = "s" if abs(shift) > 1 else ""
    return f"{abs(shift)} day{plural} {'on' if shift > 0 else 'back'}"


def _sets(rng: Random, language: str) -> Problem:
    """Two people like three colors each; which do both like, or which does the first alone?"""
    a, b = rng.sample(_names(language), 2)
    picks = rng.sample(range(10), 5)
    answer = picks[0]
    # At first, the answer is the one color that both like.
    first = [answer, *picks[1:3]]
    second = [answer, *picks[3:5]]
    rng.shuffle(first)
    rng.shuffle(second)
    odd = rng.random() < 0.5
    if odd:
        # Then the second likes the first's other colors, and one more.
        second = [color for color in first if color != answer] + [picks[3]]
        rng.shuffle(second)

    if language == "zh":
        likes_a = "、".join(COLORS[color][1] for color in first)
        likes_b = "、".join(COLORS[color][1] for color in second)
        question = f"哪个只有{a}喜欢？" if odd else "哪个两人都喜欢？"
        prompt = f"{a}喜欢{likes_a}，{b}喜欢{likes_b}。{question}"
    else:
        question = f"Which color does only {a} like?" if odd else "Which color do both like?"
        prompt = f"{a} likes {_list(first)}; {b} likes {_list(second)}. {question}"
    return Problem(
        "logic",
        language,
        ["sets", a, b, first, second, odd],
        f"sets|{a}|{b}|{first}|{second}|{odd}",
        prompt,
        in_language(COLORS[answer], language),
        3,
    )


def _list(colors: list[int]) -> str:
    words = [COLORS[color][0] for color in colors]
    return ", ".join(words[:-1]) + f" and {words[-1]}"


def _truth(rng: Random, language: str) -> Problem:
    """((p op q) op r) with negations: true or false?"""
    zh = language == "zh"
    letters = rng.choice(("pqr", "abc", "xyz", "klm", "stu", "uvw", "def", "ghi"))
    values = [rng.random() < 0.5 for _ in range(3)]
    ops = [rng.choice(("and", "or")) for _ in range(2)]
    negated = [rng.random() < 0.3 for _ in range(3)]
    # Whether the bracket stands last.
    swap = rng.random() < 0.5

    negation = "非" if zh else "not "
    terms = [(negation if n else "") + letter for n, letter in zip(negated, letters, strict=True)]
    word = {"and": "且", "or": "或"} if zh else {"and": " and ", "or": " or "}
    inner = f"({terms[0]}{word[ops[0]]}{terms[1]})"
    left, right = (terms[2], inner) if swap else (inner, terms[2])
    whole = f"{left}{word[ops[1]]}{right}"

    if zh:
        facts = "，".join(f"{letter}为{BOOLS[not v][1]}" for letter, v in zip(letters, values, strict=True))
        prompt = f"{facts}。{whole}是真是假？"
    else:
        facts = ", ".join(f"{letter} is {BOOLS[not v][0]}" for letter, v in zip(letters, values, strict=True))
        prompt = f"{facts}. Is {whole} true or false?"
    spec = ["truth", letters, values, ops, negated]
    value = _evaluate(values, ops, negated)
    return Problem(
        "logic", language, spec, f"truth|{spec}|{swap}", prompt, in_language(BOOLS[not value], language), 2
    )


def _evaluate(values: list[bool], ops: list[str], negated: list[bool]) -> bool:
    a, b, c = (value != n for value, n in zip(values, negated, strict=True))
    return _apply(ops[1], _apply(ops[0], a, b), c)


def _apply(op: str, a: bool, b: bool) -> bool:
    return (a and b) if op == "and" else (a or b)


# --- solutions --------------------------------------------------------------------------------------------------------


def think(spec: list, language: str) -> Steps:
    """Chains of conclusions; a step's value is what is concluded."""
    return THINK[spec[0]](spec)


def _think_order(spec: list) -> Steps:
    """Each fact rules one out; who is left is the answer."""
    _, relation, people, end, facts = spec
    more, _, _, more_zh, _, _ = RELATIONS[relation]
    out = []
    for a, b in facts:
        loser, other = (a, b) if end else (b, a)
        value = yield Step(f"{a} is {more}: not §", f"{a}比{b}{more_zh}：不是§", loser, [other])
        out.append(value)
    # After a mistake nobody may be left.
    left = [person for person in people if person not in out] or people
    return (yield Step("That leaves §", "剩下§", left[0], people))


def _think_liars(spec: list) -> Steps:
    _, people, honest, says, count_lies = spec
    lies = int(not honest)
    for a, b, claim in zip(people, people[1:], says, strict=False):
        fact_en, fact_zh = TRUTH[not honest]
        right = TRUTH[0] if honest == claim else TRUTH[1]
        value = yield Step(f"{a} {fact_en}, so {b} §", f"{a}{fact_zh}，所以{b}§", right, TRUTH)
        honest = tuple(value) == TRUTH[0]
        lies += not honest
    if not count_lies:
        return YES if honest else NO
    return (yield Step("The number of liars is §", "说谎的有§个", lies))


def _think_turns(spec: list) -> Steps:
    _, at, turns = spec
    for turn in turns:
        quarters, turn_zh = TURNS[turn]
        en, zh = COMPASS[at]
        right = COMPASS[(at + quarters) % 4]
        value = yield Step(f"From {en} turn {turn} to §", f"面向{zh}，{turn_zh}到§", right, COMPASS)
        at = COMPASS.index(tuple(value))
    return COMPASS[at]


def _think_days(spec: list) -> Steps:
    _, at, shifts = spec
    for shift in shifts:
        en, zh = DAYS[at]
        sign_en, sign_zh = ("plus", "加") if shift > 0 else ("minus", "减")
        right = DAYS[(at + shift) % 7]
        value = yield Step(
            f"{en} {sign_en} {abs(shift)} is §", f"{zh}{sign_zh}{abs(shift)}天是§", right, DAYS
        )
        at = DAYS.index(tuple(value))
    return DAYS[at]


def _think_sets(spec: list) -> Steps:
    """Look up the first person's colors in the second's list, until one settles it."""
    _, _, b, first, second, odd = spec
    verdicts = (("also", "也"), ("not", "没有"))
    for color in first:
        en, zh = COLORS[color]
        right = verdicts[color not in second]
        value = yield Step(f"{en}: {b} §", f"{zh}：{b}§", right, verdicts)
        missing = tuple(value) == verdicts[1]
        if missing == odd:
            return COLORS[color]
    # After a mistake no color may fit.
    return COLORS[first[-1]]


def _think_truth(spec: list) -> Steps:
    """The bracket first, then the whole; negations are done in the head."""
    _, _, values, ops, negated = spec
    left = values[0] != negated[0]
    for i, op in enumerate(ops):
        right = values[i + 1] != negated[i + 1]
        left_en, left_zh = BOOLS[not left]
        right_en, right_zh = BOOLS[not right]
        op_zh = "且" if op == "and" else "或"
        result = BOOLS[not _apply(op, left, right)]
        value = yield Step(f"{left_en} {op} {right_en} is §", f"{left_zh}{op_zh}{right_zh}为§", result, BOOLS)
        left = tuple(value) == BOOLS[0]
    return BOOLS[not left]


THINK: dict[str, Callable[[list], Steps]] = {
    "order": _think_order,
    "liars": _think_liars,
    "turns": _think_turns,
    "days": _think_days,
    "sets": _think_sets,
    "truth": _think_truth,
}
