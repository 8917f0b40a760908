// The dashboard: reads the public API, draws it, and asks for a key where the server wants one. Keeps nothing else.

const MEANINGS = {
  client: "waits for the client", queue: "waits in a queue", prefill: "reads its prompt", recompute: "reads it again",
  decode: "writes", tool: "runs a function", pause: "waits to try again", cache: "answered from the cache",
};
const EVERY_MS = 2000;
const $ = (id) => document.getElementById(id);
const seconds = (s) => s.toFixed(s === 0 || s >= 10 ? 1 : s >= 1 ? 2 : s >= 0.1 ? 3 : 4);
const count = (n) => Number(n).toLocaleString("en");

let chosen = null;
let follower = null;
let drawn = "";
let unfinished = false;

class NoKey extends Error {}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) throw new NoKey();
  return answer;
}

async function read(path) {
  const answer = await ask(path);
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.detail), { status: answer.status });
  return body;
}

// -- making elements: text is always text, never markup --------------------------------------------

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "text", "title", "path"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null).map((child) => child instanceof Node ? child : String(child)));
  return node;
}

const number = (value) => make("td", { class: "n" }, value);
const cell = (value, kind) => make("td", { class: kind }, value);

function fill(id, rows) {
  $(id).tBodies[0].replaceChildren(...rows);
}

// -- all programs ------------------------------------------------------------------------------------

async function programs() {
  const status = $("status").value;
  const page = await read(`/v1/programs?limit=100${status ? `&status=${status}` : ""}`);
  const held = document.activeElement?.dataset?.program;
  fill("programs", page.data.map((one) => make("tr", { "aria-current": one.id === chosen ? "true" : null },
    cell(make("button", { type: "button", "data-program": one.id, onclick: () => choose(one.id, true) }, one.id.slice(-12))),
    cell(one.workflow), cell(one.status, one.status), number(seconds(one.seconds)),
    number(`${one.calls_ended} / ${one.calls}`))));
  if (!page.data.length) fill("programs", [make("tr", {}, make("td", { colspan: 5, class: "soft" }, "none yet"))]);
  if (held) document.querySelector(`[data-program="${CSS.escape(held)}"]`)?.focus();
  return page.data.filter((one) => one.status === "running").length;
}

// -- one program -------------------------------------------------------------------------------------

function choose(id, focus) {
  chosen = id;
  drawn = "";
  location.hash = id;
  $("told").textContent = "";
  follow(id);
  show(id).then(() => focus && $("program-h").focus()).catch(failed);
}

// Events tell when something has happened; what it is stands in the timeline.
async function follow(id) {
  follower?.abort();
  const mine = follower = new AbortController();
  try {
    const answer = await ask(`/v1/programs/${id}/events`, { signal: mine.signal });
    const stream = answer.body.getReader();
    let due = false;
    for (;;) {
      const { done } = await stream.read();
      if (due || mine.signal.aborted) { if (done) return; continue; }
      due = true;
      setTimeout(() => { due = false; if (chosen === id) show(id).catch(failed); }, done ? 0 : 300);
      if (done) return;
    }
  } catch (fault) {
    if (!mine.signal.aborted) failed(fault);
  }
}

async function show(id) {
  const timeline = await read(`/v1/programs/${id}/timeline`);
  const same = JSON.stringify(timeline);
  if (id !== chosen || same === drawn) return;
  drawn = same;
  unfinished = timeline.status === "running";
  $("program").hidden = false;
  $("program-h").textContent = `Program ${id}`;
  $("about").textContent = `${timeline.workflow}: ${timeline.status}, ${seconds(timeline.seconds)} s, ` +
    `${timeline.calls.length} calls. ${unfinished ? "So far it" : "Its end"} waited for: ` +
    (Object.entries(timeline.causes).map(([cause, s]) => `${cause} ${seconds(s)} s`).join(", ") || "nothing");
  $("legend").replaceChildren(...Object.entries(MEANINGS).map(([cause, meaning]) => make("li", {},
    make("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, make("rect", { width: 10, height: 10, class: cause })),
    ` ${cause}: ${meaning}`)));
  const shown = timeline.calls.slice(0, 500);
  $("gantt").replaceChildren(gantt(timeline, shown));
  $("graph").replaceChildren(graph(timeline, shown));
  fill("calls", shown.map((call) => make("tr", {},
    cell(named(call)), cell(call.state, call.state), number(count(call.prompt_tokens)), number(count(call.cached_tokens)),
    number(count(call.output_tokens)), number(seconds(spent(lived(timeline, call)))), cell(answered(id, call)))));
}

const spent = (spans) => spans.reduce((sum, span) => sum + span.end_s - span.start_s, 0);

function answered(program, call) {
  if (!call.cache) return call.kind === "llm" ? "engine" : "tool";
  const about = `${call.cache.tier} hit, ${call.cache.category}, ${call.cache.similarity.toFixed(3)} `;
  return make("span", {}, about, make("button", {
    type: "button", "aria-label": `Report the bad hit of ${call.id}`, onclick: () => report(program, call.id),
  }, "report bad hit"));
}

async function report(program, call) {
  const answer = await ask("/v1/cache/report", {
    method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({ program, call, reason: "reported on the dashboard" }),
  });
  const body = await answer.json();
  $("told").textContent = answer.ok ? `Entry ${body.entry} is in quarantine: it is served no more.` : body.detail;
}

const named = (call) => call.stage && !call.id.startsWith(call.stage) ? `${call.id} ${call.stage}` : call.id;

// What a call has done, and what it does now: that is known of the calls that the end waits for.
function lived(timeline, call) {
  const last = call.spans.at(-1)?.end_s ?? 0;
  const now = timeline.path.filter((step) => step.call === call.id && step.cause && step.end_s > last);
  return [...call.spans, ...now.map((step) => ({ ...step, start_s: Math.max(last, step.start_s) }))];
}

function gantt(timeline, calls) {
  const left = 170, width = 900, row = 20, height = calls.length * row + 24;
  const end = Math.max(timeline.seconds, 1e-6);
  const x = (s) => left + (width - left - 10) * s / end;
  const critical = new Set(timeline.critical_path);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" },
    make("title", {}, `Timeline of ${calls.length} calls over ${seconds(end)} s`));
  for (let tick = 0; tick <= 5; tick++) {
    const at = x(end * tick / 5);
    svg.append(make("line", { x1: at, x2: at, y1: 18, y2: height, class: "axis" }),
      make("text", { x: at, y: 12, "text-anchor": tick === 5 ? "end" : "middle" }, `${seconds(end * tick / 5)} s`));
  }
  calls.forEach((call, index) => {
    const y = 20 + index * row;
    svg.append(make("text", { x: 4, y: y + 14 }, (critical.has(call.id) ? "▸ " : "") + short(named(call), 24)));
    for (const span of lived(timeline, call)) {
      svg.append(make("rect", { x: x(span.start_s), y: y + 3, width: Math.max(1, x(span.end_s) - x(span.start_s)),
        height: row - 6, class: span.cause },
        make("title", {}, `${call.id}: ${span.cause} ${seconds(span.end_s - span.start_s)} s`)));
    }
  });
  return svg;
}

// Each call one column right of the last one that it needs.
function graph(timeline, calls) {
  const known = new Set(calls.map((call) => call.id)), column = new Map(), used = [], places = new Map();
  for (const call of calls) {
    const needs = call.after.filter((name) => known.has(name));
    const at = needs.length ? 1 + Math.max(...needs.map((name) => column.get(name) ?? 0)) : 0;
    column.set(call.id, at);
    used[at] = (used[at] ?? 0) + 1;
    places.set(call.id, { x: 10 + at * 190, y: 10 + (used[at] - 1) * 44 });
  }
  const width = 20 + used.length * 190, height = 20 + Math.max(1, ...used.filter(Boolean)) * 44;
  const critical = new Set(timeline.critical_path);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" },
    make("title", {}, `Graph of ${calls.length} calls`));
  for (const call of calls) {
    const to = places.get(call.id);
    for (const name of call.after) {
      const from = places.get(name);
      if (!from) continue;
      const a = [from.x + 150, from.y + 16], b = [to.x, to.y + 16], bend = (a[0] + b[0]) / 2;
      const both = critical.has(name) && critical.has(call.id) ? " critical" : "";
      svg.append(make("path", { class: `edge${both}`, d: `M${a} C${bend},${a[1]} ${bend},${b[1]} ${b}` }));
    }
  }
  for (const call of calls) {
    const { x, y } = places.get(call.id);
    svg.append(make("g", {}, make("title", {}, `${call.id}, ${call.kind}, ${call.state}`),
      make("rect", { x, y, width: 150, height: 32, rx: call.kind === "llm" ? 3 : 16,
        class: critical.has(call.id) ? "box critical" : "box" }),
      make("text", { x: x + 75, y: y + 20, "text-anchor": "middle" }, short(named(call), 20))));
  }
  return svg;
}

const short = (text, most) => text.length <= most ? text : `…${text.slice(1 - most)}`;

// -- memory, engines, cache --------------------------------------------------------------------------

async function engines() {
  const [engines, leases] = await Promise.all([read("/v1/engines"), read("/v1/leases")]);
  fill("engines", engines.data.map((one) => make("tr", {}, cell(one.name), cell(one.model ?? "–"),
    cell(one.status, one.status), number(one.restarts), number(count(one.capabilities?.kv_tokens ?? 0)), cell(one.reason))));
  const room = new Map(engines.data.map((one) => [one.name, one.capabilities]));
  $("memory").replaceChildren(...leases.data.map((books) => memory(books, room.get(books.engine))));
  if (!leases.data.length) $("memory").replaceChildren(make("p", { class: "soft" }, "no engine keeps leases yet"));
}

function memory(books, room) {
  const total = { device: room?.kv_tokens || 0, host: room?.host_kv_tokens || 0 };
  const bars = ["device", "host"].filter((tier) => total[tier] || books.tokens[tier]).map((tier) => {
    const held = books.tokens[tier] ?? 0, all = Math.max(total[tier], held, 1);
    return make("p", {}, `${tier}: ${count(held)} of ${count(total[tier])} tokens under lease `,
      make("svg", { viewBox: "0 0 300 10", width: 300, height: 10, "aria-hidden": "true" },
        make("rect", { width: 300, height: 10, class: "free" }),
        make("rect", { width: 300 * held / all, height: 10, class: tier })));
  });
  const ended = Object.entries(books.ended).map(([how, n]) => `${how} ${count(n)}`).join(", ") || "none";
  const rows = books.leases.slice(0, 100).map((lease) => make("tr", {},
    cell(make("button", { type: "button", onclick: () => choose(lease.program, true) }, lease.program.slice(-12))),
    cell(lease.call), cell(lease.tier), number(count(lease.tokens)),
    number(lease.ends_in_s === null ? "back" : seconds(lease.ends_in_s)), number(seconds(lease.recompute_s))));
  return make("div", {}, make("h3", {}, `${books.engine} (${books.rule})`), ...bars,
    make("p", { class: "soft" }, `leases ended: ${ended}; refused ${count(books.refused)}, demoted ${count(books.demoted)}`),
    rows.length ? make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Leases of ${books.engine}` },
      make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "Program"), make("th", {}, "Call"),
        make("th", {}, "Tier"), make("th", { class: "n" }, "Tokens"), make("th", { class: "n" }, "Ends in s"),
        make("th", { class: "n" }, "Saves s"))), make("tbody", {}, ...rows))) : null);
}

async function cache() {
  let stats;
  try {
    stats = await read("/v1/cache/stats");
  } catch (fault) {
    if (fault.status !== 404) throw fault;
    $("cache").hidden = true;
    $("cache-about").textContent = "off: start the server with --cache exact or --cache semantic";
    return;
  }
  $("cache").hidden = false;
  $("cache-about").textContent = `${stats.mode}: ${count(stats.entries)} entries in ${count(stats.partitions)} partitions, ` +
    `${count(stats.bytes)} bytes${stats.semantic ? "" : `; equal calls only: ${stats.why_not_semantic}`}. ` +
    "A bad hit is reported from its program's list of calls.";
  const used = stats.categories.filter((one) => one.lookups || one.entries);
  fill("cache", used.sort((a, b) => b.lookups - a.lookups).map((one) => make("tr", {}, cell(one.category), number(count(one.lookups)),
    number(`${count(one.exact_hits + one.semantic_hits + one.flight_hits)} (${(100 * one.hit_rate).toFixed(1)} %)`),
    number(`${one.false_hits} / ${one.judged_hits}`), number(one.threshold > 1 ? "never" : one.threshold.toFixed(3)),
    number(count(one.entries)), number(seconds(one.saved_s)))));
}

// -- the page ----------------------------------------------------------------------------------------

function failed(fault) {
  if (fault instanceof NoKey) {
    $("login").hidden = false;
    $("main").hidden = true;
    $("state").textContent = "an API key is needed";
    if (document.activeElement !== $("key")) $("key").focus();
  } else {
    $("state").textContent = `not up to date: ${fault.message}`;
  }
}

async function refresh() {
  if (document.hidden || !$("login").hidden) return;
  try {
    const [running] = await Promise.all([programs(), engines(), cache()]);
    $("main").hidden = false;
    $("forget").hidden = sessionStorage.getItem("key") === null;
    $("state").textContent = `${running} running`;
    if (chosen && unfinished && !$("calls").contains(document.activeElement)) await show(chosen);
  } catch (fault) {
    failed(fault);
  }
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key").value = "";
  $("login").hidden = true;
  refresh();
});
$("forget").addEventListener("click", () => { sessionStorage.removeItem("key"); location.reload(); });
$("status").addEventListener("change", refresh);
document.addEventListener("visibilitychange", refresh);
await refresh();
if (location.hash.length > 1) choose(location.hash.slice(1), false);
setInterval(refresh, EVERY_MS);
