"use strict";
// Everything that a model or a user wrote goes through text nodes: it is never markup.
const SVG = "http://www.w3.org/2000/svg";
const COLORS = 6;

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => put(document.createElementNS(SVG, tag), attributes, children);

const number = (value) => {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
};
const time = (seconds) => {
  if (seconds < 100) return `${Math.round(seconds * 10) / 10} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};
const state = (name) => el("span", { class: `state ${name}` }, name);

// A table that is wider than a phone scrolls by itself.
function table(label, head, rows) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", {},
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, place) => {
        if (cell instanceof HTMLTableCellElement) return cell;
        return place === 0 ? el("th", { scope: "row" }, cell) : el("td", {}, cell);
      }))))));
}

// --- the figure ---

function figure(data) {
  const wide = 158, high = 50, across = 178, down = 84, margin = 70;
  const { boxes, arrows } = data.figure;
  const byName = Object.fromEntries(boxes.map((box) => [box.name, box]));
  const most = Math.max(...boxes.map((box) => box.place)) + 1;
  const levels = Math.max(...boxes.map((box) => box.level)) + 1;
  const count = {};
  for (const box of boxes) count[box.level] = (count[box.level] || 0) + 1;
  const x = (box) => margin + (most - count[box.level]) * across / 2 + box.place * across;
  const y = (box) => box.level * down + 4;
  const width = 2 * margin + most * across, height = levels * down;
  // What passes other levels goes around their boxes, each in a lane of its own.
  const lanes = { left: 0, right: 0 };
  const lines = arrows.map(([from, to]) => {
    const a = byName[from], b = byName[to];
    const x1 = x(a) + wide / 2, y1 = y(a) + high, x2 = x(b) + wide / 2, y2 = y(b);
    const middle = (y1 + y2) / 2;
    let path = `M${x1} ${y1} C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
    if (b.level - a.level > 1) {
      const side = x1 + x2 <= 2 * margin + most * across ? "left" : "right";
      const away = 10 + 12 * lanes[side]++ % (margin - 10);
      const lane = side === "left" ? margin - away : width - margin + away - 20;
      path = `M${x1} ${y1} C${x1} ${y1 + 24} ${lane} ${y1 + 4} ${lane} ${y1 + 34} L${lane} ${y2 - 34} C${lane} ${y2 - 4} ${x2} ${y2 - 24} ${x2} ${y2}`;
    }
    return svg("path", { class: "arrow", d: path });
  });
  const drawn = boxes.map((box) => {
    const score = (data.scores[box.checkpoint] || {}).reasoning;
    const known = score ? `reasoning ${(100 * score["pass@1"]).toFixed(1)} %` : box.kind;
    const line = ["done", "given"].includes(box.state) ? known : box.state;
    const body = [
      svg("rect", { class: "box", x: x(box), y: y(box), width: wide, height: high, rx: 6 }),
      svg("g", { class: box.state }, svg("circle", { class: "dot", cx: x(box) + 13, cy: y(box) + 17, r: 5 })),
      svg("text", { x: x(box) + 25, y: y(box) + 21 }, box.name.slice(0, 20)),
      svg("text", { class: "faint", x: x(box) + 25, y: y(box) + 39 }, line.slice(0, 22)),
    ];
    if (box.state === "given") return svg("g", {}, body);
    return svg("a", { href: `#stage-${box.name}` }, body);
  });
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The figure" },
    svg("svg", { id: "figure", width, height, viewBox: `0 0 ${width} ${height}` }, lines, drawn));
}

// --- scores ---

function details(score) {
  const texts = [];
  if (typeof score.tokens === "number") texts.push(`${Math.round(score.tokens)} tokens`);
  // Right and well-formed, where that is less.
  if (typeof score.strict === "number" && score.strict < score["pass@1"]) texts.push(`${(100 * score.strict).toFixed(1)} strict`);
  if (typeof score.truncated === "number" && score.truncated >= 0.0005) texts.push(`${(100 * score.truncated).toFixed(1)} % cut off`);
  if (typeof score.reflection === "number" && score.reflection >= 0.0005) texts.push(`${(100 * score.reflection).toFixed(1)} % reflect`);
  return texts;
}

function scores(data) {
  const names = Object.keys(data.scores);
  const suites = [...new Set(names.flatMap((name) => Object.keys(data.scores[name])))]
    .filter((suite) => names.some((name) => typeof (data.scores[name][suite] || {})["pass@1"] === "number"));
  const top = {};
  for (const suite of suites) {
    top[suite] = Math.max(...names.map((name) => (data.scores[name][suite] || {})["pass@1"] ?? -1));
  }
  const rows = names.map((name) => [name, ...suites.map((suite) => {
    const score = data.scores[name][suite];
    if (!score || typeof score["pass@1"] !== "number") return el("td", { class: "number" }, "–");
    const best = score["pass@1"] === top[suite] && suite !== "over-refusal";
    const error = typeof score.stderr === "number" ? ` ± ${(100 * score.stderr).toFixed(1)}` : "";
    return el("td", { class: best ? "number best" : "number" },
      (100 * score["pass@1"]).toFixed(1) + error,
      details(score).map((text) => el("small", {}, text)));
  })]);
  return table("Scores", ["checkpoint", ...suites], rows);
}

function differences(data) {
  const pairs = [...new Set(data.differences.map((row) => `${row.a} − ${row.b}`))];
  const suites = [...new Set(data.differences.map((row) => row.suite))];
  const points = (share) => (100 * share).toFixed(1);
  const rows = pairs.map((pair) => [pair, ...suites.map((suite) => {
    const row = data.differences.find((each) => `${each.a} − ${each.b}` === pair && each.suite === suite);
    if (!row) return el("td", { class: "number" }, "–");
    const certain = row.low > 0 || row.high < 0;
    return el("td", { class: certain ? "number best" : "number" }, points(row.difference),
      el("small", {}, `${points(row.low)} to ${points(row.high)}`), el("small", {}, `${number(row.n)} problems`));
  })]);
  return table("Paired differences", ["checkpoints", ...suites], rows);
}

// --- curves ---

function panel({ title, series }, phases) {
  const width = 320, height = 150, left = 58, bottom = 20, right = 6, top = 8;
  const all = series.flatMap((one) => one.points);
  const xs = all.map((point) => point[0]), ys = all.map((point) => point[1]);
  const least = Math.min(...xs), last = Math.max(...xs);
  let low = Math.min(...ys), high = Math.max(...ys);
  if (low === high) { low -= 0.5; high += 0.5; }
  const x = (step) => left + (step - least) / (last - least || 1) * (width - left - right);
  const y = (value) => height - bottom - (value - low) / (high - low) * (height - bottom - top);
  // A stage has one color in all panels.
  const color = (place) => series[place].color ?? place;
  const lines = series.map((one, place) => svg("polyline", {
    points: one.points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
    fill: "none", "stroke-width": 1.6, style: `stroke: var(--c${color(place) % COLORS})`,
    "stroke-dasharray": color(place) < COLORS ? null : "4 3",
  }));
  const marks = phases.filter((step) => step > least && step < last).map((step) => svg("line",
    { class: "axis", "stroke-dasharray": "2 3", x1: x(step), x2: x(step), y1: top, y2: height - bottom }));
  const ends = series.map((one) => `${one.name} ${number(one.points.at(-1)[1])}`).join(", ");
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, title), " ",
      series.length < 2 ? null : series.map((one, place) => [" ", el("span", { class: "key", style: `--color: var(--c${color(place) % COLORS})` }, one.name)])),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} from step ${least} to ${last}; at the end: ${ends}` },
      svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
      marks, lines,
      svg("text", { class: "faint", x: left - 5, y: top + 8, "text-anchor": "end" }, number(high)),
      svg("text", { class: "faint", x: left - 5, y: height - bottom, "text-anchor": "end" }, number(low)),
      svg("text", { class: "faint", x: left, y: height - 4 }, `step ${least}`),
      svg("text", { class: "faint", x: width - right, y: height - 4, "text-anchor": "end" }, String(last))));
}

// One curve of each RL stage: how length, answers and language grow, with and without a reward.
function overlays(stages) {
  const wanted = [["length in tokens", 0], ["right answers", 0], ["reflection words per 1,000 tokens", 0], ["rewards by part", "language"], ["entropy", 0], ["KL to the reference", 0]];
  const trained = stages.filter((one) => one.panels.some((each) => each.title === "length in tokens"));
  return wanted.map(([title, which]) => {
    const series = trained.flatMap((one, color) => {
      const all = (one.panels.find((each) => each.title === title) || { series: [] }).series;
      const found = which === 0 ? all[0] : all.find((each) => each.name === which);
      return found ? [{ name: one.name, points: found.points, color }] : [];
    });
    return { title: which === 0 ? title : `reward for ${which}`, series };
  }).filter((each) => each.series.length > 1);
}

// --- stages ---

function verdict(gate) {
  if (gate.met === null) return state("open");
  return el("span", { class: `state ${gate.met ? "done" : "stale"}` }, gate.met ? "met" : "not met");
}

function response({ step, prompt, response, rewards }) {
  const parts = Object.entries(rewards).map(([name, value]) => `${name} ${number(value)}`).join(", ");
  return el("article", { class: "problem" },
    el("p", {}, el("strong", {}, `after ${number(step)} updates`), el("span", { class: "faint" }, ` ${parts}`)),
    el("p", {}, prompt), el("div", { class: "said" }, response || "(nothing)"));
}

function stage(one) {
  const facts = [`${one.kind}; ${time(one.wall_s)}`];
  if (one.attempts > 1) facts.push(`${one.attempts} attempts`);
  if (one.reads.length) facts.push(`reads ${one.reads.join(", ")}`);
  if (one.makes.length) facts.push(`makes ${one.makes.join(", ")}`);
  if (one.progress) facts.push(`at ${one.progress.done} of ${one.progress.total}`);
  const metrics = Object.entries(one.metrics).filter(([, value]) => typeof value === "number");
  return el("section", { id: `stage-${one.name}` },
    el("h3", {}, one.name, " ", state(one.state)),
    el("p", { class: "faint" }, facts.join("; ")),
    one.guards.map((text) => el("p", { class: "running" }, `Guard: ${text}`)),
    one.gates.map((gate) => el("p", {}, `requires ${gate.gate} `, verdict(gate), el("span", { class: "faint" }, ` ${gate.said}`))),
    one.notes.map((text) => el("p", { class: "faint" }, text)),
    one.panels.length ? el("div", { class: "panels" }, one.panels.map((each) => panel(each, one.phases))) : null,
    one.responses.length ? el("details", {}, el("summary", {}, "responses while it learned"), one.responses.map(response)) : null,
    metrics.length ? el("details", {}, el("summary", {}, `${metrics.length} numbers`),
      table(`Numbers of ${one.name}`, ["metric", "value"], metrics.map(([name, value]) => [name, number(value)]))) : null);
}

// --- samples ---

function said(reply) {
  if (!reply) return el("p", { class: "faint" }, "not asked");
  const verdict = reply.right === null ? "not judged" : reply.right ? "right" : "wrong";
  const color = { right: "done", wrong: "stale" }[verdict] || "missing";
  const close = reply.text.indexOf("</think>");
  const open = reply.text.startsWith("<think>");
  const thought = open ? reply.text.slice(7, close < 0 ? undefined : close) : "";
  const rest = open ? (close < 0 ? "" : reply.text.slice(close + 8)) : reply.text;
  return el("div", {},
    el("p", {}, el("span", { class: `state ${color}` }, verdict),
      el("span", { class: "faint" }, ` ${reply.tokens} tokens${reply.finished ? "" : ", cut off"}`)),
    thought ? el("details", {}, el("summary", {}, "thinking"), el("div", { class: "said" }, thought)) : null,
    el("div", { class: "said" }, rest || "(nothing)"));
}

function samples(data) {
  const { checkpoints, problems, total } = data.samples;
  const domains = [...new Set(problems.map((problem) => problem.domain))];
  const choose = (id, label, options, chosen) => {
    const field = el("select", { id }, options.map((option) => el("option", option === chosen ? { selected: "" } : {}, option)));
    return [field, el("label", { for: id }, label, field)];
  };
  const [first, firstLabel] = choose("sample-a", "checkpoint", checkpoints, checkpoints[0]);
  const [second, secondLabel] = choose("sample-b", "beside", checkpoints, checkpoints.includes("r1") ? "r1" : checkpoints.at(-1));
  const [domain, domainLabel] = choose("sample-domain", "kind", ["all", ...domains], "all");
  const [verdict, verdictLabel] = choose("sample-verdict", "which", ["all", "right in the second", "wrong in the second", "changed", "gained", "lost"], "all");
  const find = el("input", { id: "sample-find", type: "search" });
  const shown = el("div", { id: "shown" });
  const told = el("p", { class: "faint", id: "sample-count", role: "status" });
  const more = el("button", { type: "button" }, "show more");
  const pass = {
    "all": () => true,
    "right in the second": (a, b) => b.right === true,
    "wrong in the second": (a, b) => b.right === false,
    "changed": (a, b) => a.right !== b.right,
    "gained": (a, b) => a.right === false && b.right === true,
    "lost": (a, b) => a.right === true && b.right === false,
  };
  let found = [], at = 0;
  const showMore = () => {
    for (const problem of found.slice(at, at + 10)) {
      shown.append(el("article", { class: "problem" },
        el("p", {}, el("strong", {}, problem.domain), " ", problem.prompt || problem.id),
        problem.answer ? el("p", { class: "faint" }, `answer: ${problem.answer}`) : null,
        el("div", { class: "sides" }, [first.value, second.value].map((name) =>
          el("div", {}, el("h3", {}, name), said(problem.replies[name]))))));
    }
    at += 10;
    more.hidden = at >= found.length;
  };
  const update = () => {
    const words = find.value.toLowerCase();
    found = problems.filter((problem) => {
      const a = problem.replies[first.value], b = problem.replies[second.value];
      if (!a || !b || (domain.value !== "all" && problem.domain !== domain.value)) return false;
      if (!pass[verdict.value](a, b)) return false;
      return !words || [problem.prompt || "", a.text, b.text].some((text) => text.toLowerCase().includes(words));
    });
    told.textContent = `${found.length} problems of ${problems.length} in this page; samples.parquet has all ${total} samples`;
    shown.replaceChildren();
    at = 0;
    showMore();
  };
  for (const field of [first, second, domain, verdict]) field.addEventListener("change", update);
  find.addEventListener("input", update);
  more.addEventListener("click", showMore);
  update();
  return [el("div", { class: "controls" }, firstLabel, secondLabel, domainLabel, verdictLabel,
    el("label", { for: "sample-find" }, "with the words", find)), told, shown, more];
}

// --- the page ---

function counted(counts) {
  return Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, count]) => `${name} ${number(count)}`).join(", ");
}

function cost({ gpu_hours, money, price }) {
  return el("p", { class: "faint" }, `${number(gpu_hours)} GPU hours, ${money.toFixed(2)} of money at ${number(price)} an hour`);
}

function draw(data) {
  const done = data.stages.filter((one) => one.state === "done").length;
  const guards = data.stages.flatMap((one) => one.guards.map((text) => [one.name, text]));
  const gates = data.stages.flatMap((one) => one.gates.map((gate) => [one.name, gate.gate, verdict(gate), gate.said]));
  const together = overlays(data.stages);
  const parts = [
    ["Figure", data.figure.boxes.length ? [figure(data)] : []],
    ["Scores", Object.keys(data.scores).length ? [el("p", { class: "faint" }, "Percent ± standard error; in bold the highest. For over-refusal lower is better."), scores(data)] : []],
    ["Differences", data.differences.length ? [el("p", { class: "faint" }, "On the same problems, in points, with 95 % intervals; bold where the interval leaves out 0."), differences(data)] : []],
    ["Samples", data.samples.problems.length ? samples(data) : []],
    ["Curves", together.length ? [el("div", { class: "panels" }, together.map((each) => panel(each, [])))] : []],
    ["Guards", guards.length ? [table("What the guards found", ["stage", "finding"], guards)] : []],
    ["Gates", gates.length ? [table("What stages require", ["stage", "requires", "verdict", "numbers"], gates)] : []],
    ["Stages", data.stages.map(stage)],
    ["Data", data.cards.length ? [table("Datasets", ["dataset", "rows", "tokens a row", "domains", "left out"], data.cards.map((card) =>
      [card.name, number(card.rows ?? "–"), card.tokens === null ? "–" : number(card.tokens), counted(card.domains), counted(card.dropped) || "nothing"]))] : []],
    ["Departures", data.departures.length ? [el("p", { class: "faint" }, "Fields that cite the paper, with another value than their default, which is the paper's where it states one."),
      table("Departures from the paper", ["field", "here", "default", "section", "stages"], data.departures.map((row) =>
        [row.field, String(row.value), String(row.default), row.source, row.stages.join(", ")]))] : []],
    ["Config", [
      data.config.length ? el("details", {}, el("summary", {}, "values and where they are stated"), el("pre", { tabindex: 0 }, data.config.join("\n"))) : null,
      table("Versions", ["library", "version"], Object.entries(data.versions).map(([name, versions]) => [name, versions.join(", ")]))]],
  ].filter(([, content]) => content.length);
  document.getElementById("page").replaceChildren(
    el("h1", {}, data.run),
    el("p", { class: "faint" }, `${done} of ${data.stages.length} stages done in ${time(data.wall_s)} on ${data.device || "an unknown machine"}; written ${data.written}${data.running ? "; still running" : ""}`),
    ...(data.cost ? [cost(data.cost)] : []),
    el("nav", { "aria-label": "Sections" }, parts.map(([title]) => el("a", { href: `#${title.toLowerCase()}` }, title))),
    ...parts.map(([title, content]) => el("section", { id: title.toLowerCase() }, el("h2", {}, title), content)));
}

// A page of a running run is written anew each minute. Who reads further down is left alone.
function watch() {
  if (window.scrollY < 100) location.reload();
}

document.addEventListener("DOMContentLoaded", () => {
  const data = JSON.parse(document.getElementById("content").textContent);
  draw(data);
  if (data.running) setInterval(watch, 60000);
});
