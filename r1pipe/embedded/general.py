"""general: facts, greetings, identity, rewriting. Rows with a checkable `answer` are right when the reply contains it."""

from __future__ import annotations

from random import Random
from typing import Any

from r1pipe.embedded.lexicon import HE, NAMES_ZH, SHE, common
from r1pipe.embedded.problem import Problem
from r1pipe.embedded.style import Saying

NAME = "Pip"  # the assistant of this world

# relation: (questions en, questions zh, sentence en, sentence zh, entities "en zh answer_en answer_zh"); {e} the entity, {a} the answer
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str, list[list[str]]]] = {
    "capital": (("What is the capital of {e}?", "Name the capital of {e}.", "Which city is the capital of {e}?", "Capital of {e}?"), ("{e}的首都是哪里？", "{e}的首都是什么？", "说出{e}的首都。", "{e}首都？"),
                "The capital of {e} is {a}.", "{e}的首都是{a}。",
                [r.split() for r in ("China 中国 Beijing 北京|Japan 日本 Tokyo 东京|Germany 德国 Berlin 柏林|Italy 意大利 Rome 罗马|Spain 西班牙 Madrid 马德里|Cuba 古巴 Havana 哈瓦那|France 法国 Paris 巴黎").split("|")]),
    "color": (("What color is {e}?", "Which color does {e} have?", "Tell me the color of {e}.", "The color of {e}?"), ("{e}是什么色？", "{e}的色是什么？", "说出{e}的色。", "{e}什么色？"),
              "The color of {e} is {a}.", "{e}是{a}色的。",
              [r.split() for r in "snow 雪 white 白|grass 草 green 绿|milk 牛奶 white 白|gold 金子 yellow 黄|night 黑夜 black 黑|tea 红茶 red 红|wood 木头 brown 棕|butter 黄油 yellow 黄".split("|")]),
    "opposite": (("What is the opposite of {e}?", "Give the opposite of {e}.", "Which word is the opposite of {e}?", "Opposite of {e}?"), ("{e}的反面是什么？", "什么和{e}相反？", "说出{e}的反面。", "{e}的反面？"),
                 "The opposite of {e} is {a}.", "{e}的反面是{a}。",
                 [r.split() for r in "hot 热 cold 冷|big 大 small 小|high 高 low 低|fast 快 slow 慢|long 长 short 短|good 好 bad 坏|new 新 old 旧|left 左 right 右|early 早 late 晚|many 多 few 少|black 黑 white 白|east 东 west 西|strong 强 weak 弱|full 满 empty 空".split("|")]),
    "legs": (("How many legs has {e}?", "How many legs does {e} have?", "Count the legs of {e}.", "The legs of {e}: how many?"), ("{e}有几条腿？", "{e}几条腿？", "算一算{e}的腿。", "说出{e}有几条腿。"),
             "The number of legs of {e} is {a}.", "{e}有{a}条腿。",
             [r.replace("_", " ").split("/") for r in "a_dog/狗/4/4|a_bird/鸟/2/2|a_horse/马/4/4|a_fish/鱼/0/0|a_duck/鸭/2/2|a_cat/猫/4/4|a_cow/牛/4/4|a_sheep/羊/4/4|a_hen/鸡/2/2|a_rabbit/兔子/4/4".split("|")]),
    "young": (("What is the young of {e} called?", "Name the young of {e}.", "How do we call the young of {e}?", "Young of {e}?"), ("{e}的孩子叫什么？", "{e}的孩子怎么叫？", "说出{e}的孩子叫什么。", "什么是{e}的孩子？"),
              "The young of {e} is a {a}.", "{e}的孩子叫{a}。",
              [r.split() for r in "dogs 狗 puppy 小狗|cats 猫 kitten 小猫|cows 牛 calf 小牛|sheep 羊 lamb 小羊|horses 马 foal 小马|ducks 鸭 duckling 小鸭|hens 鸡 chick 小鸡".split("|")]),
    "job": (("Who works in {e}?", "Which person works in {e}?", "Name someone who works in {e}.", "Whose place of work is {e}?"), ("谁在{e}做事？", "{e}有谁做事？", "说出在{e}做事的人。", "在{e}做事的是谁？"),
            "The person who works in {e} is a {a}.", "在{e}做事的是{a}。",
            [r.replace("_", " ").split("/") for r in "a_school/学校/teacher/老师|a_hospital/医院/doctor/医生|a_shop/商店/seller/店员|a_farm/农场/farmer/农民|a_bus/车上/driver/司机".split("|")]),
    "unit": (("How many {e}?", "Tell me how many {e}.", "Do you know how many {e}?", "Say how many {e}."), ("{e}？", "请说{e}？", "你知道{e}吗？", "说出{e}。"),
             "The number of them is {a}.", "这个数是{a}。",
             [r.replace("_", " ").split("/") for r in "days_are_in_a_week/一周有几天/7/7|hours_are_in_a_day/一天有几小时/24/24|months_are_in_a_year/一年有几个月/12/12|minutes_are_in_an_hour/一小时有几分/60/60|hands_has_a_person/人有几只手/2/2|heads_has_a_person/人有几个头/1/1|seasons_has_a_year/一年有几季/4/4|sides_has_a_square/正方形有几边/4/4|tails_has_a_cat/猫有几条尾/1/1".split("|")]),
}
LEADS_EN = ("", "Please help. ", "Hi! ", "A question: ", "Quick one: ", "I wonder: ", "Hello. ", "My son asks: ", "For a quiz: ", "Help me: ")
LEADS_ZH = ("", "请问，", "你好，", "我想问，", "问一下，", "我想知道，", "帮个忙，", "孩子问，", "说说看，", "再问一个，")
IDENTITY_EN = ("Who are you?", "What is your name?", "What should I call you?", "Tell me your name.", "Introduce yourself.", "Which assistant are you?", "May I know your name?", "And you are?")
IDENTITY_ZH = ("你是谁？", "你叫什么？", "怎么叫你？", "说说你是谁。", "请说你叫什么。", "你是哪个？", "我想知道你是谁。", "你叫什么来着？")
GREET_EN = ("Hello!", "Good morning!", "Good evening!", "Hi there!", "How are you?", "Nice to meet you.", "How is it going?", "Good to see you!", "How do you do?", "Greetings!")
GREET_ZH = ("你好！", "早上好！", "晚上好！", "下午好！", "你好吗？", "大家好！", "今天好吗？", "又见面了！", "朋友好！", "见到你真好！")
TAILS_EN = ("", " I am {p}.", " {p} here.", " My name is {p}.", " This is {p}.", " {p} says hello too.")
TAILS_ZH = ("", "我是{p}。", "我叫{p}。", "这里是{p}。", "{p}也问好。", "{p}来了。")
VERBS = [r.split("/") for r in "like/liked/喜欢|want/wanted/想要|need/needed/需要|use/used/用|clean/cleaned/洗|open/opened/打开|paint/painted/画|move/moved/带走|fix/fixed/修|carry/carried/拿|wash/washed/去洗|pick/picked/选|visit/visited/去看|watch/watched/看".split("|")]
THINGS = [r.split("/") for r in "the door/门|the car/车|the box/盒子|the garden/花园|the apple/苹果|the picture/画|the house/家|the lamp/灯|the table/桌子|the boat/小船|the old phone/手机|the new book/新书|the red ball/红球|the white hat/白帽子|the big tree/大树|the small cat/小猫".split("|")]
TASKS = {
    "past": (("Put in the past: {s}", "Rewrite in the past tense: {s}", "Change to past tense: {s}"), ("把'我'改成'他'：{s}", "用'他'改写：{s}", "改写，'我'变'他'：{s}")),
    "we": (("Rewrite with 'we': {s}", "Change 'I' to 'we': {s}", "Say it with 'we': {s}"), ("把'我'改成'我们'：{s}", "用'我们'改写：{s}", "改写，'我'变'我们'：{s}")),
    "not": (("Make it negative: {s}", "Say the opposite with 'not': {s}", "Rewrite as a negative: {s}"), ("说成不是：{s}", "用'不'改写：{s}", "加'不'改写：{s}")),
    "polite": (("Add 'please' at the end: {s}", "Make it end with 'please': {s}", "Put 'please' last: {s}"), ("在前面加'请'：{s}", "加上'请'字：{s}", "改写，用'请'开头：{s}")),
}


def draw(rng: Random, language: str) -> Problem:
    """One general request."""
    u, zh = rng.random(), language == "zh"
    if u < 0.5:
        relation = rng.choice(tuple(FACTS))
        index = rng.randrange(len(FACTS[relation][4]))
        entity = FACTS[relation][4][index]
        lead, ask = rng.choice(LEADS_ZH if zh else LEADS_EN), rng.choice(FACTS[relation][zh])
        spec: list = ["fact", relation, index]
        prompt, answer = lead + ask.replace("{e}", entity[zh]), entity[2 + zh]
    elif u < 0.65:
        lead, ask = rng.choice(LEADS_ZH if zh else LEADS_EN), rng.choice(IDENTITY_ZH if zh else IDENTITY_EN)
        tail = rng.choice(TAILS_ZH if zh else TAILS_EN).replace("{p}", _someone(rng, zh))
        spec, prompt, answer = ["identity"], lead + ask + tail, NAME
    elif u < 0.8:
        who = _someone(rng, zh)
        prompt = rng.choice(GREET_ZH if zh else GREET_EN) + rng.choice(TAILS_ZH if zh else TAILS_EN).replace("{p}", who)
        spec, answer = ["greeting"], None
    else:
        task, verb, thing = rng.choice(tuple(TASKS)), rng.randrange(len(VERBS)), rng.randrange(len(THINGS))
        spec = ["rewrite", task, verb, thing]
        sentence, answer = _rewritten(spec, language)
        prompt = rng.choice(TASKS[task][zh]).replace("{s}", sentence)
    return Problem("general", language, spec, f"general|{language}|{prompt}", prompt, answer, 0)


def _someone(rng: Random, zh: bool) -> str:
    return common(rng, NAMES_ZH if zh else SHE + HE)


def _rewritten(spec: list, language: str) -> tuple[str, str]:
    """The sentence that is given, and what it should become."""
    _, task, verb, thing = spec
    if language == "zh":
        v, t = VERBS[verb][2], THINGS[thing][1]
        given = f"我{v}{t}。"
        return given, {"past": f"他{v}{t}", "we": f"我们{v}{t}", "not": f"我不{v}{t}", "polite": f"请{v}{t}"}[task] if task != "polite" else f"请{v}{t}"
    v, t = VERBS[verb], THINGS[thing][0]
    if task == "polite":
        return f"{v[0].capitalize()} {t}.", f"{v[0].capitalize()} {t}, please"
    return f"I {v[0]} {t}.", {"past": f"I {v[1]} {t}", "we": f"We {v[0]} {t}", "not": f"I do not {v[0]} {t}"}[task]


def sayings(spec: list, language: str, rng: Random, right: bool = True) -> dict[str, Saying]:
    """What there is to say, by language; with right=False something else than the right content."""
    if spec[0] == "fact":
        _, relation, index = spec
        rows = FACTS[relation][4]
        answer = rows[index]
        if not right:
            answer = rng.choice([row for row in rows if row[2] != answer[2]])
        return {code: Saying(FACTS[relation][2 + i].replace("{e}", rows[index][i]).replace("{a}", answer[2 + i]), answer[2 + i]) for i, code in enumerate(("en", "zh"))}
    if spec[0] == "identity":
        name = NAME if right else rng.choice(("Bob", "Max", "Leo"))
        return {"en": Saying(f"I am {name}, a small assistant.", name), "zh": Saying(f"我是{name}，一个小助手。", name)}
    if spec[0] == "greeting":
        if not right:
            return {"en": Saying("The table is red.", "table"), "zh": Saying("桌子是红的。", "桌子")}
        return {"en": Saying("Hello, it is good to hear from you.", "hello"), "zh": Saying("你好，很高兴见到你。", "你好")}
    wrong = spec if right else [spec[0], spec[1], spec[2], (spec[3] + 1) % len(THINGS)]
    text = _rewritten(wrong, language)[1]
    return {language: Saying(f"改写后是：{text}。" if language == "zh" else f"Here it is: {text}.", text)}


def holds(spec: list, response: str, answer: str | None) -> bool:
    """Whether a reply has the right content, in either language: facts and rewriting by the answer, greetings by a greeting."""
    text = response.lower()
    if spec[0] == "greeting":
        return any(word in text for word in ("hello", "hi ", "hi,", "hi!", "你好", "您好", "good to hear"))
    if spec[0] == "fact":
        row = FACTS[spec[1]][4][spec[2]]
        return contains(text, row[2]) or contains(text, row[3])
    return contains(text, answer or "")


def contains(text: str, answer: str) -> bool:
    """`answer` as whole words of `text` (lower case); Chinese has no word borders."""
    answer = answer.lower()
    at = text.find(answer)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(answer) : at + len(answer) + 1]
        if not answer.isascii() or not (before.isascii() and before.isalnum() or after.isascii() and after.isalnum()):
            return True
        at = text.find(answer, at + 1)
    return False


def extra(spec: list) -> dict[str, Any]:
    """Nothing beyond the answer."""
    return {}
