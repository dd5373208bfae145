"""logic: orderings, liars, directions, weekdays, sets, truth values."""

from __future__ import annotations

from random import Random

from r1pipe.embedded.lexicon import HE, NAMES_ZH, SHE
from r1pipe.embedded.problem import Problem, Step, Steps

# (comparative, superlative, opposite superlative) and the Chinese word; 'less' asks the other end
RELATIONS = (
    ("older", "oldest", "youngest", "大", "年纪最大", "年纪最小"),
    ("taller", "tallest", "shortest", "高", "最高", "最矮"),
    ("faster", "fastest", "slowest", "快", "最快", "最慢"),
    ("richer", "richest", "poorest", "有钱", "最有钱", "最没钱"),
    ("heavier", "heaviest", "lightest", "重", "最重", "最轻"),
    ("stronger", "strongest", "weakest", "强", "最强", "最弱"),
)
NAMES = SHE[:22] + HE[:22]  # short ones: they are repeated often
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
TURNS = {"left": (-1, "向左转"), "right": (1, "向右转"), "back": (2, "向后转")}
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


def draw(rng: Random, language: str) -> Problem:
    """One logic problem."""
    return rng.choice((_order, _order, _liars, _turns, _days, _sets, _truth))(rng, language)


def _order(rng: Random, language: str) -> Problem:
    zh = language == "zh"
    count = rng.choice((3, 3, 4))
    people = rng.sample(NAMES_ZH if zh else NAMES, count)  # from most to least
    relation, end = rng.randrange(len(RELATIONS)), rng.choice((0, 1))
    more, most, least, more_zh, most_zh, least_zh = RELATIONS[relation]
    facts = [(people[i], people[i + 1]) for i in range(count - 1)]
    rng.shuffle(facts)
    if zh:
        prompt = "，".join(f"{a}比{b}{more_zh}" for a, b in facts) + f"。谁{(most_zh, least_zh)[end]}？"
    else:
        ask = rng.choice(("Who is the {}?", "Who is {}?", "Name the {} one.", "Which of them is the {}?")).format(
            (most, least)[end]
        )
        prompt = (". " if rng.random() < 0.6 else ", ").join(f"{a} is {more} than {b}" for a, b in facts) + ". " + ask
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
    zh = language == "zh"
    people = rng.sample(NAMES_ZH if zh else NAMES, rng.choice((2, 3, 3)))
    honest = [rng.random() < 0.5 for _ in people]  # of the first, it is said; each speaks of the next
    count_lies = rng.random() < 0.7
    says = [honest[i] == honest[i + 1] for i in range(len(people) - 1)]  # 'tells the truth' or 'lies'
    if zh:
        prompt = f"{people[0]}{TRUTH[not honest[0]][1]}。" + "".join(
            f"{a}说{b}{TRUTH[not s][1]}。" for a, b, s in zip(people, people[1:], says, strict=False)
        )
        prompt += "几个人说谎？" if count_lies else f"{people[-1]}说真话吗？"
    else:
        prompt = f"{people[0]} {TRUTH[not honest[0]][0]}. " + " ".join(
            f"{a} says {b} {TRUTH[not s][0]}." for a, b, s in zip(people, people[1:], says, strict=False)
        )
        prompt += " How many of them lie?" if count_lies else f" Is {people[-1]} honest?"
    answer = (
        str(honest.count(False))
        if count_lies
        else (("是" if honest[-1] else "否") if zh else ("yes" if honest[-1] else "no"))
    )
    spec = ["liars", people, honest[0], says, count_lies]
    return Problem(
        "logic", language, spec, f"liars|{people}|{honest}|{count_lies}", prompt, answer, len(says) + count_lies
    )


def _turns(rng: Random, language: str) -> Problem:
    name = rng.choice(NAMES_ZH if language == "zh" else NAMES)
    start, turns = (
        rng.randrange(4),
        [rng.choice(("left", "right", "right", "left", "back")) for _ in range(rng.choice((2, 3, 3)))],
    )
    end = (start + sum(TURNS[t][0] for t in turns)) % 4
    steps = rng.randint(2, 40)
    if language == "zh":
        prompt = (
            f"{name}面向{COMPASS[start][1]}，走{steps}步，" + "，".join(TURNS[t][1] for t in turns) + "。现在面向哪边？"
        )
    else:
        prompt = (
            f"{name} faces {COMPASS[start][0]}, walks {steps} steps, turns " + ", ".join(turns) + ". Which way now?"
        )
    spec = ["turns", start, turns]
    return Problem(
        "logic",
        language,
        spec,
        f"turns|{name}|{steps}|{start}|{turns}",
        prompt,
        COMPASS[end][language == "zh"],
        len(turns),
    )


def _days(rng: Random, language: str) -> Problem:
    start, shifts = (
        rng.randrange(7),
        [rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) * rng.choice((1, 1, -1)) for _ in range(rng.choice((2, 2, 3)))],
    )
    end = (start + sum(shifts)) % 7
    name = rng.choice(NAMES_ZH if language == "zh" else NAMES)
    if language == "zh":
        prompt = (
            f"今天是{DAYS[start][1]}。{name}"
            + "，再".join(f"往{'后' if s > 0 else '前'}数{abs(s)}天" for s in shifts)
            + "，是星期几？"
        )
    else:
        prompt = (
            f"Today is {DAYS[start][0]}. {name} goes "
            + ", then ".join(f"{abs(s)} day{'s' * (abs(s) > 1)} {'on' if s > 0 else 'back'}" for s in shifts)
            + ". Which day is it?"
        )
    return Problem(
        "logic",
        language,
        ["days", start, shifts],
        f"days|{name}|{start}|{shifts}",
        prompt,
        DAYS[end][language == "zh"],
        len(shifts),
    )


def _sets(rng: Random, language: str) -> Problem:
    zh = language == "zh"
    a, b = rng.sample(NAMES_ZH if zh else NAMES, 2)
    picks = rng.sample(range(10), 5)
    common = picks[0]
    first, second = [common, *picks[1:3]], [common, *picks[3:5]]
    rng.shuffle(first)
    rng.shuffle(second)
    odd = rng.random() < 0.5  # ask what both like, or what the first likes and is not in the rest
    if odd:
        second = [v for v in first if v != common] + [picks[3]]
        rng.shuffle(second)
    if zh:
        prompt = (
            f"{a}喜欢"
            + "、".join(COLORS[v][1] for v in first)
            + f"，{b}喜欢"
            + "、".join(COLORS[v][1] for v in second)
            + (f"。哪个只有{a}喜欢？" if odd else "。哪个两人都喜欢？")
        )
    else:
        prompt = f"{a} likes {_list(first)}; {b} likes {_list(second)}. " + (
            f"Which color does only {a} like?" if odd else "Which color do both like?"
        )
    return Problem(
        "logic",
        language,
        ["sets", a, b, first, second, odd],
        f"sets|{a}|{b}|{first}|{second}|{odd}",
        prompt,
        COLORS[common][zh],
        3,
    )


def _list(colors: list[int]) -> str:
    return ", ".join(COLORS[v][0] for v in colors[:-1]) + f" and {COLORS[colors[-1]][0]}"


def _truth(rng: Random, language: str) -> Problem:
    """((p op q) op r), with negations; the count of true ones is asked in a third of them, to leave less to chance."""
    letters = rng.choice(("pqr", "abc", "xyz", "klm", "stu", "uvw", "def", "ghi"))
    values = [rng.random() < 0.5 for _ in range(3)]
    ops = [rng.choice(("and", "or")) for _ in range(2)]
    negated = [rng.random() < 0.3 for _ in range(3)]
    swap = rng.random() < 0.5
    zh = language == "zh"
    terms = [
        ("not " if n else "") + c if not zh else ("非" if n else "") + c for n, c in zip(negated, letters, strict=True)
    ]
    word = {"and": "且", "or": "或"} if zh else {"and": " and ", "or": " or "}
    inner = f"({terms[0]}{word[ops[0]]}{terms[1]})"
    whole = f"{terms[2]}{word[ops[1]]}{inner}" if swap else f"{inner}{word[ops[1]]}{terms[2]}"
    given = ("，" if zh else ", ").join(
        f"{c}{'为' if zh else ' is '}{BOOLS[not v][zh]}" for c, v in zip(letters, values, strict=True)
    )
    prompt = f"{given}。{whole}是真是假？" if zh else f"{given[0]}{given[1:]}. Is {whole} true or false?"
    spec = ["truth", letters, values, ops, negated]
    value = _walk_truth(values, ops, negated)
    return Problem("logic", language, spec, f"truth|{spec}|{swap}", prompt, BOOLS[not value][zh], 2)


def _walk_truth(values: list[bool], ops: list[str], negated: list[bool]) -> bool:
    a, b, c = (v != n for v, n in zip(values, negated, strict=True))
    inner = (a and b) if ops[0] == "and" else (a or b)
    return (inner and c) if ops[1] == "and" else (inner or c)


def think(spec: list, language: str) -> Steps:
    """Chains of conclusions; a step's value is what is concluded."""
    return {
        "order": _think_order,
        "liars": _think_liars,
        "turns": _think_turns,
        "days": _think_days,
        "sets": _think_sets,
        "truth": _think_truth,
    }[spec[0]](spec, language)


def _think_order(spec: list, language: str) -> Steps:
    """Each fact rules one out; who is left is the answer."""
    _, relation, people, end, facts = spec
    more, most, least, more_zh, most_zh, least_zh = RELATIONS[relation]
    out = []
    for a, b in facts:
        loser, other = (a, b) if end else (b, a)
        out.append((yield Step(f"{a} is {more}: not §", f"{a}比{b}{more_zh}：不是§", loser, [other])))
    left = [p for p in people if p not in out] or people
    return (yield Step("That leaves §", "剩下§", left[0], people))


def _think_liars(spec: list, language: str) -> Steps:
    _, people, first, says, count_lies = spec
    honest, lies = first, int(not first)
    for i, said in enumerate(says):
        a, b = people[i], people[i + 1]
        fact = TRUTH[not honest]
        right = TRUTH[0] if honest == said else TRUTH[1]
        value = yield Step(f"{a} {fact[0]}, so {b} §", f"{a}{fact[1]}，所以{b}§", right, TRUTH)
        honest = tuple(value) == TRUTH[0]
        lies += not honest
    if not count_lies:
        return ("yes", "是") if honest else ("no", "否")
    count = yield Step("The number of liars is §", "说谎的有§个", lies)
    return count


def _think_turns(spec: list, language: str) -> Steps:
    _, at, turns = spec
    for turn in turns:
        value = yield Step(
            f"From {COMPASS[at][0]} turn {turn} to §",
            f"面向{COMPASS[at][1]}，{TURNS[turn][1]}到§",
            COMPASS[(at + TURNS[turn][0]) % 4],
            COMPASS,
        )
        at = COMPASS.index(tuple(value))
    return COMPASS[at]


def _think_days(spec: list, language: str) -> Steps:
    _, at, shifts = spec
    for s in shifts:
        value = yield Step(
            f"{DAYS[at][0]} {'plus' if s > 0 else 'minus'} {abs(s)} is §",
            f"{DAYS[at][1]}{'加' if s > 0 else '减'}{abs(s)}天是§",
            DAYS[(at + s) % 7],
            DAYS,
        )
        at = DAYS.index(tuple(value))
    return DAYS[at]


def _think_sets(spec: list, language: str) -> Steps:
    _, a, b, first, second, odd = spec
    found: tuple[str, str] | None = None
    verdicts = (("also", "也"), ("not", "没有"))
    for v in first:
        value = yield Step(f"{COLORS[v][0]}: {b} §", f"{COLORS[v][1]}：{b}§", verdicts[v not in second], verdicts)
        if (tuple(value) == verdicts[1]) == odd:
            found = COLORS[v]
            break
    return found or COLORS[first[-1]]


def _think_truth(spec: list, language: str) -> Steps:
    _, letters, values, ops, negated = spec
    at: bool | None = None
    for i in range(2):
        left = values[0] != negated[0] if at is None else at
        right = values[i + 1] != negated[i + 1]
        result = (left and right) if ops[i] == "and" else (left or right)
        zh_op = "且" if ops[i] == "and" else "或"
        one, two = BOOLS[not left], BOOLS[not right]
        value = yield Step(f"{one[0]} {ops[i]} {two[0]} is §", f"{one[1]}{zh_op}{two[1]}为§", BOOLS[not result], BOOLS)
        at = tuple(value) == BOOLS[0]
    return BOOLS[not at]
