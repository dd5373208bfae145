"""The sentences of word problems, all written for this world; words.py draws the numbers and fills the slots.

Slots: {A} {B} people, {p}/{P} pronoun, {q} possessive, {r} relative, {n}/{o} noun plural/singular, {c}/{cs} container
singular/plural, {l} place, {s} shop, {v} verb; {x} {y} {z} {w} the numbers. A story is its parts in order, one text drawn from each.
"""

from __future__ import annotations

# --- a stock that changes: opening, one to three events, question --------------------------------------------------------------

OPENINGS_EN = (
    "{A} has {x} {n}.", "{A} starts with {x} {n}.", "There are {x} {n} at {A}'s {l}.", "{A} keeps {x} {n} in a {c}.", "{x} {n} are in {A}'s {c}.",
    "{A} owns {x} {n}.", "{A} brings {x} {n} to the {l}.", "{A}'s {c} holds {x} {n}.", "{A} counts {x} {n}.", "This morning {A} had {x} {n}.",
    "{A}'s {r} leaves {q} {x} {n}.", "In {A}'s {c} there are {x} {n}.", "{A}'s {l} has {x} {n}.", "{A} carries {x} {n}.", "{A} puts {x} {n} in a {c}.",
    "On Monday {A} has {x} {n}.", "{A} and {q} {r} own {x} {n}.", "{A} saved {x} {n}.", "At first {A}'s {c} holds {x} {n}.", "With {x} {n} in a {c}, {A} visits the {l}.",
)
GAINS_EN = ("{P} {v} {y} more.", "Then {p} {v} {y}.", "{P} {v} another {y}.", "{A} {v} {y} at the {l}.", "{q2} {r} brings {y} more.", "Later {A} {v} {y}.",
            "Next {p} {v} {y} new {n}.", "{B} hands over {y}.", "{P} also {v} {y}.", "After lunch {p} {v} {y} {n}.", "{y} more come from {B}.", "That day {A} {v} {y} extra.")
LOSSES_EN = ("{P} {v} {y}.", "Then {p} {v} {y} of them.", "{P} gives {y} to {B}.", "{A} {v} {y} at the {l}.", "{q2} {r} takes {y}.", "Later {A} {v} {y}.",
             "Next {p} {v} {y} {n}.", "{B} takes {y} away.", "{P} also {v} {y}.", "Before dinner {p} {v} {y}.", "{y} go to {B}.", "By night {A} {v} {y}.")
DOUBLES_EN = ("Then the number grows {y}-fold.", "Soon there are {y} times as many.", "{A} makes it {y} times as many.", "By spring {p} has {y} times that.")
STOCK_ASKS_EN = (
    "How many {n} does {A} have now?", "How many {n} are there now?", "How many {n} remain?", "How many {n} does {p} end up with?", "What number of {n} is left?",
    "Count the {n} now.", "How many {n} in total now?", "How many does {A} have at the end?", "Find the number of {n} now.", "After all this, how many {n}?",
    "How large is the pile of {n}?", "Now how many {n} can {A} count?", "How many {n} would {A} find?", "Say how many {n} {A} has.", "What is the final count of {n}?",
    "How many {n} will {A} take home?", "So how many {n} are with {A}?", "Tell the number of {n} at the end.", "With how many {n} is {A} left?", "How many are there in the end?",
)
OPENINGS_ZH = ("{A}有{x}{m}{n}。", "{l}有{x}{m}{n}。", "{A}带来{x}{m}{n}。", "一开始有{x}{m}{n}。", "{A}家里有{x}{m}{n}。", "早上{A}有{x}{m}{n}。", "{A}和{B}共有{x}{m}{n}。", "{A}数了数，有{x}{m}{n}。", "{A}原来有{x}{m}{n}。", "桌上有{x}{m}{n}。")
GAINS_ZH = ("{v}{y}{m}。", "后来{v}{y}{m}。", "{B}给了{y}{m}。", "又来了{y}{m}。", "再{v}{y}{m}。", "下午{v}{y}{m}。", "第二天{v}{y}{m}。", "{A}又{v}{y}{m}。")
LOSSES_ZH = ("{v}{y}{m}。", "后来{v}{y}{m}。", "给{B}{y}{m}。", "{B}拿走{y}{m}。", "再{v}{y}{m}。", "晚上{v}{y}{m}。", "第二天{v}{y}{m}。", "{A}又{v}{y}{m}。")
DOUBLES_ZH = ("后来变成{y}倍。", "数量变为{y}倍。", "不久有了{y}倍。")
STOCK_ASKS_ZH = ("现在有多少{m}{n}？", "还有多少{m}{n}？", "现在一共有几{m}？", "最后有多少{m}{n}？", "{A}现在有几{m}{n}？", "最后剩几{m}？", "求现在的数量。", "这时{n}有多少{m}？", "{A}手里有多少{m}？", "一共还有几{m}{n}？")

# before any of the questions
LEADS_EN = ("So ", "Then ", "Now ", "In the end, ", "After that, ", "Tell me, ", "By then, ", "At last, ", "If so, ", "Next, ", "Well, ", "By night, ")
LEADS_ZH = ("请问", "那么", "这样", "请说", "算一算，", "于是")

# --- stories of a fixed build: (parts in English), (parts in Chinese) ------------------------------------------------------------

STORIES: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]] = {
    # x a unit, y units, then z away
    "rate-less": ((
        ("{A} {v} {x} {n} a day for {y} days.", "Each day {A} {v} {x} {n}, {y} days long.", "{A} {v} {x} {n} an hour and works {y} hours.", "Every week {A} {v} {x} {n}, for {y} weeks.", "For {y} days {A} {v} {x} {n} daily.", "{A} {v} {x} {n} each morning for {y} mornings."),
        ("Of these, {z} are lost.", "{q2} {r} takes {z}.", "{z} of them go to the {s}.", "Then {z} are damaged.", "{B} returns {z} of them.", "But {z} must be done again."),
        ("How many good {n} are left?", "How many {n} remain?", "How many {n} does that leave?", "What number of {n} stays?", "How many {n} still count?", "Find the {n} that remain.", "How many {n} does {A} keep?")),
        (("{A}每天{v}{x}{m}{n}，{v}了{y}天。", "{y}天里，{A}每天{v}{x}{m}{n}。", "{A}每小时{v}{x}{m}{n}，共{y}小时。"), ("其中坏了{z}{m}。", "给了{B}{z}{m}。", "后来少了{z}{m}。"), ("还有多少{m}？", "剩下几{m}{n}？", "还剩多少{m}{n}？"))),
    "rate-more": ((
        ("{A} {v} {x} {n} a day for {y} days.", "In each of {y} weeks {A} {v} {x} {n}.", "{A} {v} {x} {n} per hour, {y} hours in all.", "Daily for {y} days, {A} {v} {x} {n}.", "{A} {v} {x} {n} every evening on {y} evenings."),
        ("{B} adds {z} more.", "{P} already had {z}.", "{q2} {r} does {z} too.", "On the last day {p} does {z} extra.", "The {s} sends {z} more."),
        ("How many {n} is that in all?", "How many {n} are there altogether?", "What is the total of {n}?", "How many {n} come together?", "Count all the {n}.", "How many {n} does it make?", "Give the sum of {n}.")),
        (("{A}每天{v}{x}{m}{n}，{v}了{y}天。", "{y}天里，{A}每天{v}{x}{m}{n}。", "{A}每次{v}{x}{m}{n}，{v}了{y}次。"), ("{B}又加了{z}{m}。", "原来有{z}{m}。", "后来又有{z}{m}。"), ("一共有多少{m}{n}？", "共有几{m}？", "总共有多少{m}？"))),
    "groups": ((
        ("The {s} has {y} {cs} with {x} {n} each.", "{A} fills {y} {cs}, {x} {n} in each.", "There are {x} {n} in every {c}, and {A} has {y} {cs}.", "{y} {cs} hold {x} {n} each.", "{A} orders {y} {cs} of {x} {n}.", "In the {l} stand {y} {cs}, each with {x} {n}."),
        ("{z} {n} are sold.", "{A} uses {z} of them.", "{z} turn out bad.", "{B} takes {z} {n}.", "Visitors take {z}.", "A {r} needs {z} {n}."),
        ("How many {n} are left?", "How many {n} stay there?", "How many {n} are still there?", "What is left of the {n}?", "How many {n} can still be used?", "How many {n} has the {s} now?", "Find how many {n} remain.")),
        (("{l}有{y}{c}{n}，每{c}{x}{m}。", "{A}有{y}{c}{n}，每{c}{x}{m}。", "每{c}有{x}{m}{n}，共{y}{c}。"), ("卖了{z}{m}。", "用去{z}{m}。", "{B}拿走{z}{m}。"), ("还有几{m}{n}？", "还剩多少{m}？", "剩下多少{m}{n}？"))),
    "loose": ((
        ("{A} has {y} {cs} of {x} {n} and {z} loose ones.", "Besides {z} single {n}, {A} has {y} {cs} of {x}.", "{y} {cs} with {x} {n} each and {z} more {n} lie in the {l}.", "At the {s} {A} buys {y} {cs} of {x} {n} and {z} extra."),
        ("How many {n} are there?", "How many {n} does {A} have altogether?", "What is the whole number of {n}?", "How many {n} is that?", "How many {n} did {p} get?", "Add up the {n}.", "How many {n} are in the {l}?")),
        (("{A}有{y}{c}{n}，每{c}{x}{m}，另有{z}{m}。", "{y}{c}{n}，每{c}{x}{m}，再加{z}{m}。", "{l}有{y}{c}{n}，每{c}{x}{m}，又有{z}{m}。"), ("一共多少{m}？", "共有几{m}{n}？", "{n}总共几{m}？"))),
    # B = x + y; together
    "more-both": ((
        ("{A} has {x} {n} and {B} has {y} more.", "{B} has {y} more {n} than {A}, who has {x}.", "{A} found {x} {n}; {B} found {y} more than {A}.", "{A} owns {x} {n}, {y} fewer than {B}.", "{A} holds {x} {n}, and {q} {r} {B} holds {y} more."),
        ("How many {n} do they have together?", "How many {n} do both have?", "What is their total?", "How many {n} are there for the two?", "How many {n} do the two own?", "Together, how many {n}?", "If they put all in one {c}, how many {n}?", "Give the number of {n} both hold.")),
        (("{A}有{x}{m}{n}，{B}比{A}多{y}{m}。", "{B}比{A}多{y}{m}{n}，{A}有{x}{m}。", "{A}有{x}{m}{n}，比{B}少{y}{m}。"), ("两人一共有多少{m}？", "他们共有几{m}{n}？", "两人共有多少{m}{n}？"))),
    "fewer-both": ((
        ("{A} has {x} {n} and {B} has {y} fewer.", "{B} has {y} fewer {n} than {A}, who has {x}.", "{A} got {x} {n}, {y} more than {B}.", "{A} picked {x} {n}; {B} picked {y} less."),
        ("How many {n} do they have together?", "How many {n} do both have?", "What is the total for both?", "In all, how many {n} do they hold?", "How many {n} have {A} and {B}?", "How many {n} lie before the two?")),
        (("{A}有{x}{m}{n}，{B}比{A}少{y}{m}。", "{B}比{A}少{y}{m}{n}，{A}有{x}{m}。", "{A}有{x}{m}{n}，比{B}多{y}{m}。"), ("两人一共有多少{m}？", "他们共有几{m}{n}？", "两人共有多少{m}{n}？"))),
    "times-both": ((
        ("{A} has {x} {n}. {B} has {y} times as many.", "{B} has {y} times as many {n} as {A}, who has {x}.", "{A} sold {x} {n} and {B} sold {y} times that.", "{A} got {x} {n}; {q} {r} got {y} times as many."),
        ("How many {n} is that together?", "How many {n} for both?", "What do the two have in all?", "How many {n} in sum?", "How many {n} do the pair have?", "Find the {n} of both.")),
        (("{A}有{x}{m}{n}，{B}的{n}是{A}的{y}倍。", "{B}的{n}是{A}的{y}倍，{A}有{x}{m}。"), ("两人一共有多少{m}？", "他们共有几{m}{n}？", "两人合起来有多少{m}？"))),
    "times-diff": ((
        ("{A} has {x} {n}. {B} has {y} times as many.", "{B} caught {y} times as many {n} as {A}, who caught {x}.", "{A} keeps {x} {n}, {B} keeps {y} times that.", "{A} shows {x} {n}; {q} {r} shows {y} times as many."),
        ("How many more is that?", "What is the difference?", "By how many are the {n} apart?", "How many more {n} are on the larger side?", "How many {n} lie between them?", "How many fewer has {A}?")),
        (("{A}有{x}{m}{n}，{B}的{n}是{A}的{y}倍。", "{B}的{n}是{A}的{y}倍，{A}有{x}{m}。"), ("{B}比{A}多几{m}？", "{A}比{B}少多少{m}？", "两人相差几{m}？"))),
    # money
    "change": ((
        ("A {o} costs ${x}. {A} buys {y} and pays ${z}.", "{A} buys {y} {n} at ${x} each with ${z}.", "At the {s}, {n} cost ${x} each; {A} takes {y} and gives ${z}.", "With ${z}, {A} buys {y} {n} for ${x} each.", "{A} pays ${z} for {y} {n} that cost ${x} each.", "Having ${z}, {A} gets {y} {n}, ${x} a piece."),
        ("How much change is due?", "How many dollars come back?", "How much money is left?", "How much does {A} get back?", "What change does {p} get?", "How many dollars does {A} still have?", "What does the {s} return?", "How much of the money remains?")),
        (("一{m}{n}{x}元，{A}买{y}{m}，付{z}元。", "{A}有{z}元，买{y}{m}{n}，每{m}{x}元。", "每{m}{n}{x}元，{A}用{z}元买{y}{m}。"), ("找回多少元？", "还剩多少元？", "应找多少钱？", "还有多少钱？"))),
    "bill": ((
        ("{A} buys {y} {n} at ${x} each and a {o2} for ${z}.", "Each {o} costs ${x}. {A} takes {y}, and a {o2} at ${z}.", "For {y} {n} at ${x} each and one {o2} at ${z} {A} pays.", "The {s} sells {n} at ${x}. {A} buys {y} and a ${z} {o2}."),
        ("How much does {p} pay?", "What is the bill?", "How many dollars is that?", "How much money does {A} need?", "What does it all cost?", "How much must {A} spend?", "Give the price of all.")),
        (("{A}买{y}{m}{n}，每{m}{x}元，又花{z}元买{n2}。", "每{m}{n}{x}元，{A}买{y}{m}，另外花了{z}元。"), ("一共花多少元？", "共付多少元？", "一共要多少钱？"))),
    "earn": ((
        ("{A} earns ${x} an hour and works {y} hours.", "{A} gets ${x} for each {o}, and sells {y}.", "For {y} days {A} earns ${x} a day.", "The {s} pays {A} ${x} a shift for {y} shifts.", "{A} saves ${x} a week for {y} weeks."),
        ("{P} spends ${z} on a {o2}.", "Then ${z} goes to {B}.", "Food costs {p3} ${z}.", "{P} pays ${z} for a {o2}.", "{q2} {r} borrows ${z}.", "Rent takes ${z}."),
        ("How much is left?", "How many dollars remain?", "What does {p} have then?", "How much can {A} keep?", "How much money has {A} now?", "What is in {q} purse?")),
        (("{A}每天赚{x}元，做了{y}天。", "{A}每周存{x}元，存了{y}周。", "{A}每小时赚{x}元，共{y}小时。"), ("花了{z}元买{n}。", "又用去{z}元。", "给{B}{z}元。"), ("还剩多少元？", "还有多少钱？", "{A}还有几元？"))),
    # sharing
    "share-more": ((
        ("{A} has {x} {n} and gets {y} more.", "{A} has {x} {n}, {B} has {y}.", "{x} {n} and {y} other {n} are on a table.", "{A} brings {x} {n}, {q} {r} {y}."),
        ("They share them among {z} children.", "All go into {z} equal {cs}.", "{z} friends split them evenly.", "{P} packs them in {z} equal {cs}.", "The {z} players get equal parts."),
        ("How many {n} in each part?", "How many {n} for each?", "How many {n} does one get?", "What is one share?", "How many {n} per part?", "Each part has how many {n}?")),
        (("{A}有{x}{m}{n}，又来{y}{m}。", "{A}有{x}{m}{n}，{B}有{y}{m}。"), ("平均分成{z}份。", "平均分给{z}人。", "分成一样的{z}{c}。"), ("每份几{m}？", "每份有多少{m}{n}？", "一份是几{m}？"))),
    "share-less": ((
        ("{A} has {x} {n} and {v} {y}.", "Of {x} {n}, {A} {v} {y}.", "{A} takes {x} {n} and {v} {y} of them."),
        ("The rest go to {z} friends evenly.", "The rest fill {z} equal {cs}.", "{z} children share the rest.", "What stays is split in {z} equal parts."),
        ("How many {n} in each part?", "How many {n} for each one?", "How many {n} does everyone get?", "What does each get?", "How big is one part?", "How many {n} go to one?")),
        (("{A}有{x}{m}{n}，{v}{y}{m}。", "{x}{m}{n}，{v}{y}{m}。"), ("其余平均分成{z}份。", "剩下的平均分给{z}人。"), ("每份几{m}？", "每份多少{m}{n}？", "一份有几{m}？"))),
    # ages
    "age-sum": ((
        ("{A} is {x} years old. {B} is {y} years older.", "{B} is {y} years older than {A}, who is {x}.", "{A} is {x}, and {q} {r} {B} is {y} years older."),
        ("How old will {B} be in {z} years?", "What is the age of {B} after {z} years?", "In {z} years, how old is {B}?", "After {z} years, what is the age of {B}?", "Give the age of {B} {z} years on.")),
        (("{A}今年{x}岁，{B}比{A}大{y}岁。", "{B}比{A}大{y}岁，{A}今年{x}岁。"), ("{z}年后{B}几岁？", "再过{z}年{B}多少岁？", "{B}{z}年后多大？"))),
    "age-young": ((
        ("{A} is {x} years old. {B} is {y} years younger.", "{B} is {y} years younger than {A}, who is {x}.", "{A} is {x}, {y} years older than {B}."),
        ("How old will {B} be in {z} years?", "How old is {B} after {z} years?", "When {z} years have passed, how old is {B}?", "What age does {B} reach in {z} years?")),
        (("{A}今年{x}岁，{B}比{A}小{y}岁。", "{B}比{A}小{y}岁，{A}今年{x}岁。"), ("{z}年后{B}几岁？", "再过{z}年{B}多少岁？", "{B}{z}年后多大？"))),
    # ways and times
    "trip": ((
        ("A trip is {x} km long. {A} drives {y} km, then {z} km.", "{A} must go {x} km. {P} walks {y} km and rides {z} km.", "The road to the {l} is {x} km; {A} does {y} km and then {z} km.", "Of {x} km, {A} runs {y} km and cycles {z} km.", "A ship sails {x} km: {y} km by noon, {z} km by night."),
        ("How many km are left?", "How far is the rest?", "How much of the way remains?", "How far is it still?", "How many km has {A} to go?", "What distance is left?", "How long is the last part?")),
        (("全程{x}公里，{A}先走{y}公里，又走{z}公里。", "去{l}要走{x}公里，已走{y}公里，再走{z}公里。"), ("还有多少公里？", "还要走几公里？", "剩下多少公里？"))),
    "pages": ((
        ("A book has {x} pages. {A} reads {y} pages a day for {z} days.", "{A} has {x} tasks and does {y} a day for {z} days.", "A wall needs {x} bricks; {A} lays {y} an hour for {z} hours.", "From {x} meters of rope {A} cuts {z} parts of {y} meters.", "A tank holds {x} liters. {A} uses {y} liters a day for {z} days.", "Of {x} seats, {z} rows of {y} are taken.", "A roll has {x} feet of cloth. {A} cuts {z} pieces of {y} feet.", "A jug has {x} ounces. {A} pours {z} cups of {y} ounces."),
        ("How many are left?", "How much remains?", "How many still wait?", "What is left over?", "What number stays?", "How much is not used?", "What is the rest?")),
        (("一本书有{x}页，{A}每天看{y}页，看了{z}天。", "有{x}米布，每件用{y}米，做了{z}件。", "水池有{x}升水，每天用{y}升，用了{z}天。", "{l}有{x}个座位，{z}排坐满，每排{y}人。"), ("还剩多少？", "还有几个没用？", "剩下多少？"))),
    "bus": ((
        ("A bus has {x} riders. {y} get off and {z} get on.", "{x} people ride a train; {y} leave and {z} enter.", "In the {l} are {x} guests. {y} go home and {z} arrive.", "A class of {x} loses {y} pupils and gains {z}.", "A ship with {x} sailors drops {y} and picks up {z}.", "The choir has {x} singers; {y} quit, {z} join."),
        ("How many are there now?", "How many people is that now?", "How many are inside?", "How many stay?", "What is the new number?", "How many persons can you count now?", "How many heads are there?")),
        (("车上有{x}人，下去{y}人，上来{z}人。", "{l}有{x}人，走了{y}人，来了{z}人。", "班里有{x}人，走了{y}人，又来{z}人。"), ("现在有多少人？", "现在几人？", "车上或{l}还有几人？"))),
    "target": ((
        ("{A} needs {x} {n}. {P} has {y} and {B} gives {z}.", "A {o2} needs {x} {n}; {A} brings {y} and {B} {z}.", "{A} wants {x} {n}. {P} finds {y}, then {z} more.", "To win, {A} must get {x} {n}; {p} has {y} and gets {z}."),
        ("How many more are needed?", "How many {n} are missing?", "How many {n} does {A} lack?", "How many must {p} still find?", "What number is missing?", "How many {n} are yet to come?")),
        (("{A}要{x}{m}{n}，已有{y}{m}，又得到{z}{m}。", "需要{x}{m}{n}，{A}有{y}{m}，{B}有{z}{m}。"), ("还差几{m}？", "还要多少{m}？", "还少几{m}{n}？"))),
    "kinds": ((
        ("{A} has {x} {n}: {y} red, {z} blue and the rest green.", "Of {A}'s {x} {n}, {y} are old, {z} are new, the rest broken.", "The {s} has {x} {n}; {y} are small, {z} are large, the others medium.", "{x} {n} lie in a {c}: {y} black, {z} white, the rest brown.", "Among {x} {n}, {y} are cheap, {z} dear, the rest free."),
        ("How many are of the last kind?", "How many belong to the rest?", "How many {n} are neither?", "How many of the third kind?", "What is the number of the rest?", "How many others are there?")),
        (("{x}{m}{n}，红的{y}{m}，白的{z}{m}，其余是黄的。", "{A}有{x}{m}{n}，大的{y}{m}，小的{z}{m}，其余是中等的。"), ("其余有几{m}？", "第三种有几{m}？", "其余是多少{m}？"))),
    "three": ((
        ("{A} has {x} {n}, {B} has {y} and {q} {r} {z}.", "On three days {A} {v} {x}, {y} and {z} {n}.", "In May {A} {v} {x} {n}, in June {y}, in July {z}.", "Three {cs} hold {x}, {y} and {z} {n}.", "The {s} sold {x} {n} at noon, {y} at five, {z} at night."),
        ("How many {n} in all three?", "How many {n} altogether?", "What do the three come to?", "Sum up the {n}.", "How many {n} over the three?", "All in all, how many {n}?")),
        (("{A}有{x}{m}{n}，{B}有{y}{m}，老师有{z}{m}。", "三天里{A}{v}了{x}、{y}、{z}{m}{n}。"), ("三个数共多少{m}？", "一共有多少{m}{n}？", "共有几{m}？"))),
}
