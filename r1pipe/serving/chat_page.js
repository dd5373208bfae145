"use strict";
// What a model or a user wrote goes through text nodes: it is never markup.
const at = (id) => document.getElementById(id);
const content = JSON.parse(at("content").textContent);
const ENDED = "the chat has ended; start it again in the terminal, and open the address that it prints";

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// --- the conversation ---

// One side for each checkpoint that is asked: its name, and what was said with it.
let sides = [];
// The reply that is under way: { id, stopped }.
let current = null;

const chosen = () => [at("first").value, at("second").value].filter((name) => name);

function settle() {
  const names = chosen();
  names.forEach((model, place) => {
    // A second checkpoint begins with what was said with the first.
    sides[place] ??= { turns: place ? sides[0].turns.slice() : [] };
    sides[place].model = model;
  });
  sides.length = names.length;
}

function begin() {
  if (current) stop();
  sides = [];
  settle();
  at("talk").replaceChildren();
  at("hint").hidden = false;
  at("question").focus();
}

// Follow the reply, unless the user has scrolled up to read.
function following(change) {
  const page = document.documentElement;
  const atEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 60;
  change();
  if (atEnd) page.scrollTop = page.scrollHeight;
}

// --- a reply ---

function shown(model) {
  const article = el("article", { "aria-label": `Reply of ${model}` }, el("h2", {}, model));
  const thought = document.createTextNode("");
  const said = document.createTextNode("");
  const summary = el("summary", {}, "Thinking …");
  const thoughts = el("div", { class: "thought writes" }, thought);
  const thinking = el("details", { class: "thinking", open: "" }, summary, thoughts);
  const answer = el("div", { class: "said writes" }, said);
  const start = performance.now();
  const seconds = () => ((performance.now() - start) / 1000).toFixed(1);
  article.append(answer);
  const still = () => [thoughts, answer].forEach((node) => node.classList.remove("writes"));
  const below = (text, kind = "faint") => article.append(el("p", { class: kind }, text));

  return {
    article,
    // What is to be known before one reads.
    note: (text) => answer.before(el("p", { class: "faint" }, text)),
    think(text) {
      if (!thinking.isConnected) text = text.trimStart();
      if (!text) return;
      if (!thinking.isConnected) {
        answer.classList.remove("writes");
        answer.before(thinking);
      }
      thought.appendData(text);
    },
    say(text) {
      if (!said.data) text = text.trimStart();
      if (!text) return;
      if (!said.data && thinking.isConnected) {
        summary.textContent = `Thought for ${seconds()} s`;
        thinking.open = false;
        answer.classList.add("writes");
      }
      said.appendData(text);
    },
    end(tokens, remarks) {
      still();
      if (thinking.isConnected && !said.data) summary.textContent = `Thought for ${seconds()} s`;
      below([...remarks, `${tokens} tokens, ${seconds()} s`].join(" · "));
    },
    fail(text) {
      still();
      below(text, "faint bad");
      article.lastChild.setAttribute("role", "alert");
    },
  };
}

async function* lines(response) {
  const decoder = new TextDecoder();
  let waiting = "";
  for (const reader = response.body.getReader();;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (waiting + decoder.decode(value, { stream: true })).split("\n");
    waiting = parts.pop();
    yield* parts;
  }
}

function drawing() {
  const seed = at("seed").value;
  return {
    temperature: Number(at("temperature").value),
    top_p: Number(at("top_p").value),
    max_tokens: Number(at("max_tokens").value),
    seed: seed === "" ? null : Number(seed),
  };
}

async function reply(side, question, view, ask) {
  const body = JSON.stringify({ id: ask.id, model: side.model, turns: side.turns, question, ...drawing() });
  const response = await fetch("reply", { method: "POST", body });
  if (!response.ok) return view.fail(await response.text());
  let over = false;
  for await (const line of lines(response)) {
    const event = JSON.parse(line);
    following(() => {
      if ("thinking" in event) view.think(event.thinking);
      if ("said" in event) view.say(event.said);
      if ("status" in event) at("status").textContent = event.status;
      if ("note" in event && side.noted !== side.model + event.note) {
        // Once for a checkpoint, not with each reply.
        side.noted = side.model + event.note;
        view.note(event.note);
      }
      if ("error" in event) view.fail(event.error);
      if ("end" in event) view.end(event.end.tokens, event.end.remarks);
    });
    over = "error" in event || "end" in event;
    if (!event.end) continue;
    side.turns.splice(0, event.end.dropped);
    if (event.end.summary) {
      side.turns.push({ role: "user", content: question }, { role: "assistant", content: event.end.summary });
    }
  }
  if (!over) view.fail(ENDED);
}

async function ask(question) {
  // randomUUID is missing where the address is not this machine's own.
  const asked = { id: crypto.getRandomValues(new Uint32Array(4)).join("-"), stopped: false };
  current = asked;
  at("hint").hidden = true;
  at("send").hidden = true;
  at("stop").hidden = false;
  const row = el("div", { class: "sides" });
  at("talk").append(el("p", { class: "asked" }, question), row);
  for (const side of sides) {
    // Who stops a reply means the question, whoever else would have been asked.
    if (asked.stopped) break;
    const view = shown(side.model);
    row.append(view.article);
    view.article.scrollIntoView({ block: "nearest" });
    window.scrollTo(0, document.documentElement.scrollHeight);
    try {
      await reply(side, question, view, asked);
    } catch {
      view.fail(ENDED);
    }
  }
  if (current !== asked) return;
  current = null;
  at("status").textContent = "";
  at("send").hidden = false;
  at("stop").hidden = true;
}

function stop() {
  current.stopped = true;
  fetch("stop", { method: "POST", body: current.id }).catch(() => {});
}

// --- what the user does ---

for (const name of content.offered) {
  at("first").append(el("option", { value: name }, name));
  at("second").append(el("option", { value: name }, name));
}
at("second").prepend(el("option", { value: "" }, "no other"));
at("first").value = content.asked[0];
at("second").value = content.asked[1] || "";
for (const [name, value] of Object.entries(content.drawing)) at(name).value = value ?? "";

for (const id of ["first", "second"]) {
  at(id).addEventListener("change", () => {
    settle();
    if (at("talk").childElementCount) {
      at("talk").append(el("p", { class: "between faint" }, `now asked: ${chosen().join(" and ")}`));
      window.scrollTo(0, document.documentElement.scrollHeight);
    }
  });
}
for (const button of at("examples").children) {
  button.addEventListener("click", () => {
    at("question").value = button.textContent;
    at("form").requestSubmit();
  });
}
at("new").addEventListener("click", begin);
at("stop").addEventListener("click", () => {
  stop();
  at("question").focus();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("form").requestSubmit();
});
// A field that is folded away cannot be shown to be wrong.
at("form").addEventListener("invalid", () => { at("settings").open = true; }, true);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || current) return;
  at("question").value = "";
  ask(question);
});
begin();
