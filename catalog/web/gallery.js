"use strict";
// Everything that comes from the catalogue reaches the page through textContent or a checked relative URL, never as HTML.
const $ = (id) => document.getElementById(id);
const { assets, made, library, command, roles, served: live } = JSON.parse($("data").textContent);
const PAGE = 60, DONE = ["ok", "rejected", "unjudged"];
const REASONS = ["wrong object", "two faces", "lumpy shape", "holes", "floating bits", "wrong colours", "blurry texture", "part missing", "not my style"];
const WORDS = { fidelity: "likeness to the prompt", consistency: "views agree", view_agreement: "views that match the prompt", janus_score: "signs of two faces",
  start_gain: "gain over its start", aesthetic: "looks", mesh_iou: "mesh fits splat", r_precision: "prompt found among others", finding_errors: "errors in files",
  finding_warnings: "warnings in files", machine_s: "work" };
const KEYS = { "arrows, j k": "the next asset", "a": "accept; once more takes it back", "r": "reject; once more takes it back", "1 to 5, 0": "stars, no stars", "e": "reason and note",
  "u": "undo", "x, space": "select, or not", "Shift and arrows": "select a range (or Shift and click a box)", "Ctrl A, Esc": "select all shown, none", "Enter": "look at it in 3D",
  "t": "take the selection away: ZIP, list, export", "/": "search", "g": "one row a prompt", "?": "these keys" };

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const button = (act, text, properties) => { const node = element("button", { type: "button", textContent: text, ...properties }); node.dataset.act = act; return node; };
const label = (name) => WORDS[name] || name.replaceAll("_", " ");
const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function number(value) {
  if (value === null || value === undefined) return null;
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
function work(seconds) {
  if (seconds === null || seconds === undefined) return null;
  return seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${number(seconds / 3600)} h`;
}
const day = (ms) => new Date(ms).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// --- verdicts: kept in this browser until the library has them; a decision's id is a UUIDv7, its time ------------------

const KEPT = `splatmill verdicts of ${library}`;
const byId = new Map(assets.map((asset) => [asset.asset_id, asset]));
let pending = new Map(), saved = new Set(), undone = [], last = 0, keeps = true;

const timeOf = (id) => parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
function newId(after) {
  last = Math.max(Date.now(), last + 1, after ? timeOf(after) + 1 : 0);
  const time = last.toString(16).padStart(12, "0");
  const noise = Array.from(crypto.getRandomValues(new Uint8Array(10)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${noise.slice(0, 3)}-8${noise.slice(3, 6)}-${noise.slice(6, 18)}`;
}
function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) || "{}");
    pending = new Map((kept.decisions || []).filter((each) => byId.has(each.asset_id)).map((each) => [each.asset_id, each]));
    saved = new Set(kept.saved || []);
    $("by").value = $("by").value || kept.by || "";
  } catch { keeps = false; }
  for (const [id, decision] of pending) if (byId.get(id).reviews.includes(decision.id)) pending.delete(id);
}
function keep() {
  const ids = new Set([...pending.values()].map((each) => each.id));
  saved = new Set([...saved].filter((id) => ids.has(id)));
  try { localStorage.setItem(KEPT, JSON.stringify({ decisions: [...pending.values()], saved: [...saved], by: $("by").value.trim() })); } catch { keeps = false; }
  tell();
}
const conflict = (asset) => pending.has(asset.asset_id) && asset.review && asset.review.id > pending.get(asset.asset_id).id;
const standing = (asset) => (conflict(asset) ? asset.review : pending.get(asset.asset_id) || asset.review) || {};
const content = ({ verdict = null, stars = null, reason = "", note = "" }) => ({ verdict, stars, reason, note });

function decide(targets, change, words) {
  if (!targets.length) return say("nothing is selected, and no asset has the focus");
  undone.push(targets.map((asset) => [asset, pending.get(asset.asset_id), content(standing(asset))]));
  for (const asset of targets) put(asset, { ...content(standing(asset)), ...change });
  settle(targets, `${words}: ${targets.length === 1 ? targets[0].asset_id : many(targets.length, "asset")}`);
}
function put(asset, said) {
  pending.set(asset.asset_id, { id: newId(asset.review?.id), asset_id: asset.asset_id, ...said });
}
function settle(targets, words) {
  keep();
  for (const asset of targets) redraw(asset);
  say(words);
  if (live) send();
}
function verdict(targets, verdict) {
  const back = targets.length && targets.every((asset) => standing(asset).verdict === verdict);
  decide(targets, back ? { verdict: null } : verdict === "accepted" ? { verdict, reason: "" } : { verdict }, back ? "taken back" : verdict);
}
function undo() {
  const before = undone.pop();
  if (!before) return say("nothing to undo");
  for (const [asset, decision, said] of before) if (live) put(asset, said); else if (decision) pending.set(asset.asset_id, decision); else pending.delete(asset.asset_id);
  settle(before.map(([asset]) => asset), `undone: ${many(before.length, "asset")}`);
}

let sending = null;
async function send() { // served: the catalogue has it at once; what fails waits here and goes with the next
  if (sending) { sending.again = true; return; }
  sending = { again: false };
  tell();
  const sent = [...pending.values()];
  try {
    const answer = await fetch("/reviews", { method: "POST", headers: { "Content-Type": "application/json", "X-Splatmill-Token": live.token }, body: JSON.stringify({ decisions: sent }) });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    for (const review of told.reviews) {
      const asset = byId.get(review.asset_id), mine = pending.get(review.asset_id);
      asset.review = review;
      if (mine && sent.includes(mine)) pending.delete(review.asset_id);
      redraw(asset);
    }
    for (const name of told.newer) say(`${name}: somebody decided later, and that stands`);
  } catch (error) { say(`not recorded: ${error.message}`); }
  const { again } = sending;
  sending = null;
  keep();
  if (again) send();
}

function download(name, document_) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(document_, null, 1)], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
function save() {
  if (live) return send();
  const by = $("by").value.trim();
  if (!by) { say("write your name first: verdicts are somebody's"); $("by").focus(); return; }
  const stamp = new Date().toISOString().slice(0, 16).replaceAll(/[-:]/g, ""), name = `reviews-${stamp}.json`;
  download(name, { library, decisions: [...pending.values()].map((each) => ({ ...each, by })) });
  saved = new Set([...pending.values()].map((each) => each.id));
  keep();
  for (const id of pending.keys()) redraw(byId.get(id));
  say(`${name} is saved. To record it: splatmill review import ${name}`);
}

// --- a card ----------------------------------------------------------------------------------------------------------

function facts(pairs) {
  const list = element("dl", {});
  for (const [name, value, title] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", { textContent: name, title: title || "" }), element("dd", { textContent: value }));
  }
  return list.children.length ? list : null;
}

function picture(asset) {
  const link = element(asset.view ? "a" : "div", { className: "picture" });
  if (asset.view) { link.href = asset.view; link.title = "turn it in 3D"; }
  if (!asset.preview) {
    const error = [asset.error_type, asset.error_message].filter(Boolean).join(": ");
    link.className += " bare";
    link.append(element("p", { className: error ? "error" : "none", textContent: error || (asset.status === "ok" ? "no picture" : asset.status), tabIndex: error ? 0 : -1 }));
    return link;
  }
  link.append(element("img", { src: asset.preview, alt: asset.prompt || asset.asset_id, loading: "lazy", decoding: "async" }));
  if (asset.turntable) {
    const turn = element("img", { className: "turn", alt: "" });
    const start = () => { if (!turn.hasAttribute("src")) turn.src = asset.turntable; };
    link.addEventListener("pointerenter", start);
    link.addEventListener("focus", start);
    link.append(turn);
  }
  if (asset.image) link.append(element("img", { className: "from", src: asset.image, alt: "the picture it was made from", loading: "lazy" }));
  if (asset.view) link.append(element("span", { className: "open", textContent: "3D" }));
  return link;
}

const tags = (asset) => Object.entries(asset.tags || {}).map(([name, value]) => name === "category" ? value : `${name}: ${value}`);

function badges(asset, kind, where) {
  const row = element("div", { className: "badges" }, element("span", { className: "badge " + kind, textContent: asset.status + where }));
  if (asset.delivered_from === "start") row.append(element("span", { className: "badge wait", textContent: "its start", title: "distillation made it worse, so the start is delivered" }));
  if (asset.duplicates?.length) row.append(element("span", { className: "badge wait", textContent: "looks like " + asset.duplicates.join(", ") }));
  for (const tag of tags(asset)) {
    const chip = button("tag", tag, { className: "tag", title: "only these" });
    chip.dataset.tag = tag;
    row.append(chip);
  }
  return row;
}

function review(asset) {
  const { verdict, stars, reason, note } = standing(asset), mine = pending.get(asset.asset_id), theirs = asset.review;
  const block = element("div", { className: "review", role: "group", ariaLabel: "verdict" });
  const rate = element("span", { className: "stars", role: "group", ariaLabel: stars ? many(stars, "star") : "no stars" });
  for (let n = 1; n <= 5; n++) { const star = button("star", n <= (stars || 0) ? "★" : "☆", { ariaLabel: many(n, "star"), ariaPressed: String(n === stars) }); star.dataset.star = n; rate.append(star); }
  block.append(button("accept", "accept", { ariaPressed: String(verdict === "accepted") }), button("reject", "reject", { ariaPressed: String(verdict === "rejected") }),
    rate, button("why", "reason", { ariaLabel: "reason and note" }));
  const words = [reason, note].filter(Boolean).map((text) => `“${text}”`).join(" ");
  const from = mine && !conflict(asset) ? (live ? "being recorded" : saved.has(mine.id) ? "in a file, not in the library yet" : "not saved yet") : theirs ? `by ${theirs.by}, ${day(theirs.at)}` : "";
  if (words || from) block.append(element("p", { className: "words" }, words, words && from ? " · " : "", from));
  if (conflict(asset)) {
    const told = element("p", { className: "conflict", textContent: `You had decided “${mine.verdict || "open"}” before; ${theirs.by} decided later (${day(theirs.at)}), and that stands. ` });
    told.append(button("mine", "decide mine again"), " ", button("theirs", "leave it"));
    block.append(told);
  }
  return block;
}

function listed(className, summary, lines) {
  return lines.length ? element("details", { className }, element("summary", { textContent: summary }), element("ul", {}, ...lines.map((text) => element("li", { textContent: text })))) : null;
}

function card(asset) {
  const kind = asset.status === "ok" ? "ok" : ["running", "requested", "unjudged"].includes(asset.status) ? "wait" : "bad";
  const error = [asset.error_type, asset.error_message].filter(Boolean).join(": "), prompt = asset.prompt || asset.asset_id;
  const all = Object.entries(asset.metrics || {}).sort(([a], [b]) => a.localeCompare(b));
  const more = all.length ? element("details", {}, element("summary", { textContent: many(all.length, "figure") })) : null;
  more?.addEventListener("toggle", () => more.append(facts(all.map(([name, value]) => [label(name), number(value), name]))), { once: true });
  const found = asset.findings || [], files = element("div", { className: "files" });
  for (const { label, url, download } of [...(asset.view ? [{ label: "3D view", url: asset.view }] : []), ...asset.files])
    files.append(element("a", { href: url, textContent: label, ...(download ? { download } : {}) }));
  const pick = element("input", { type: "checkbox", checked: chosen.has(asset), ariaLabel: "select " + asset.asset_id });
  const head = [["faces", asset.faces === null ? null : number(asset.faces) + (asset.face_budget ? " / " + number(asset.face_budget) : "")],
    ...["fidelity", "consistency"].map((name) => [label(name), number(asset[name]), name]),
    ["work", work(asset.machine_s), "machine_s"], ["licence", asset.licence_class]];
  const strip = asset.stages ? element("details", {}, element("summary", { textContent: "before and after, by stage" }),
    element("a", { className: "strip", href: asset.stages }, element("img", { src: asset.stages, alt: "points, shaped splat, final splat, mesh, textured asset", loading: "lazy" }))) : null;
  const tries = asset.tries?.length ? element("details", { className: "tries", open: view.has("group") }, element("summary", { textContent: `${asset.tries.length} tries` }),
    element("div", {}, ...asset.tries.map((each) => element("figure", {}, each.picture ? element("img", { src: each.picture, alt: `seed ${each.seed}`, loading: "lazy" }) : null,
      element("figcaption", { textContent: [`seed ${each.seed}`, each.fate].filter(Boolean).join(": ") }))))) : null;
  const text = element("div", { className: "text" },
    element("p", { className: "prompt", textContent: prompt, title: asset.prompt || "" }),
    asset.part_prompts ? element("p", { className: "parts", textContent: "put together from " + asset.part_prompts.join(" + ") }) : null,
    element("p", { className: "id", textContent: [asset.asset_id, asset.recipe, asset.seed === null ? null : "seed " + asset.seed].filter(Boolean).join(" · ") }),
    asset.prompt_warnings ? element("p", { className: "unread", textContent: "prompt not read whole: " + asset.prompt_warnings.join("; "), tabIndex: 0 }) : null,
    badges(asset, kind, asset.error_stage ? ` in ${asset.error_stage}` : ""),
    asset.why?.length ? element("ul", { className: "why" }, ...asset.why.map((line) => element("li", { textContent: line }))) : null,
    error && asset.preview ? element("p", { className: "error", textContent: error, tabIndex: 0 }) : null,
    review(asset),
    facts(head),
    strip, tries,
    listed(asset.finding_errors ? "faults bad" : "faults", many(found.length, "finding") + (asset.finding_errors ? `, ${asset.finding_errors} of them errors` : ""), found),
    more,
    files);
  const node = element("article", { id: "asset-" + asset.asset_id, tabIndex: -1 }, element("label", { className: "pick" }, pick), picture(asset), text);
  mark(node, asset);
  for (const each of node.querySelectorAll(FOCUSABLE)) each.tabIndex = -1;
  nodes.set(asset, node);
  owners.set(node, asset);
  return node;
}

function mark(node, asset) {
  const { verdict, stars } = standing(asset);
  node.dataset.verdict = verdict || "";
  node.ariaLabel = [asset.prompt || asset.asset_id, asset.status, verdict ? "you: " + verdict : "", stars ? many(stars, "star") : "", chosen.has(asset) ? "selected" : ""].filter(Boolean).join(", ");
  node.classList.toggle("chosen", chosen.has(asset));
  node.classList.toggle("unsure", conflict(asset));
}

function redraw(asset) { // the verdict alone: what is open on the card stays open, and the focus where it was
  const node = nodes.get(asset);
  if (!node) return;
  const old = node.querySelector(".review"), focus = old.contains(document.activeElement) ? document.activeElement.dataset : null, fresh = review(asset);
  if (current !== node) for (const each of fresh.querySelectorAll(FOCUSABLE)) each.tabIndex = -1;
  old.replaceWith(fresh);
  mark(node, asset);
  if (focus) ([...fresh.querySelectorAll("button")].find((each) => each.dataset.act === focus.act && each.dataset.star === focus.star) || node).focus();
}

// --- what is shown: the address has it all -----------------------------------------------------------------------------

const values = { status: (asset) => [asset.status], verdict: (asset) => verdicts(asset), tag: tags, recipe: (asset) => [asset.recipe] };
function verdicts(asset) {
  const { verdict, stars } = standing(asset);
  return [verdict || "open", ...(stars ? [many(stars, "star")] : []), ...(pending.has(asset.asset_id) ? ["not in the library yet"] : []), ...(conflict(asset) ? ["decided twice"] : [])];
}
const figure = (asset, name) => name === "stars" ? standing(asset).stars : asset.metrics?.[name] ?? (typeof asset[name] === "number" ? asset[name] : null);
const names = [...new Set(assets.flatMap((asset) => Object.keys(asset.metrics || {})).concat("faces", "fidelity", "consistency", "machine_s", "stars", "seed"))].sort((a, b) => label(a).localeCompare(label(b)));
const texts = { newest: (asset) => asset.last_seen_at || "", name: (asset) => asset.asset_id, prompt: (asset) => asset.prompt || "", status: (asset) => asset.status };
const haystacks = new Map();
function haystack(asset) {
  if (!haystacks.has(asset)) haystacks.set(asset, [asset.asset_id, asset.prompt, ...(asset.part_prompts || []), ...(asset.prompt_warnings || []), ...tags(asset), asset.recipe, asset.status, asset.review?.verdict, asset.review?.reason,
    asset.review?.note, ...(asset.why || []), asset.error_stage, asset.error_type, asset.error_message].join(" ").toLowerCase());
  return haystacks.get(asset);
}
const FOCUSABLE = "a, button, input, select, summary, [tabindex]";
const nodes = new Map(), owners = new Map(), chosen = new Set();
let view = new URLSearchParams(), found = [], shown = 0, feed = null, current = null, anchor = null;

function bounds() { // address: least.fidelity=0.3&most.faces=5000
  return [...view].filter(([name, value]) => /^(least|most)\./.test(name) && value !== "" && isFinite(value)).map(([name, value]) => [name, name.slice(name.indexOf(".") + 1), Number(value)]);
}
function sorted(list) {
  const name = view.get("sort") || "newest", up = view.has("up") ? 1 : -1;
  if (texts[name]) { // texts: from the beginning, except the newest first
    const way = name === "newest" ? up : -up;
    return list.map((asset) => [texts[name](asset), asset]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * way).map(([, asset]) => asset);
  }
  const known = list.map((asset) => [figure(asset, name), asset]), has = known.filter(([value]) => value !== null && value !== undefined);
  return [...has.sort(([a], [b]) => (a - b) * up), ...known.filter(([value]) => value === null || value === undefined)].map(([, asset]) => asset);
}
function apply() {
  const words = (view.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean), limits = bounds();
  const keep = Object.entries(values).map(([name, of]) => [of, view.get(name)]).filter(([, value]) => value);
  found = sorted(assets.filter((asset) => keep.every(([of, value]) => of(asset).includes(value)) && words.every((word) => haystack(asset).includes(word))
    && limits.every(([kind, name, value]) => { const has = figure(asset, name); return has !== null && has !== undefined && (kind.startsWith("least") ? has >= value : has <= value); })));
  if (view.has("group")) {
    found = [...Map.groupBy(found, (asset) => asset.prompt).values()].flat();
  }
  const done = found.filter((asset) => DONE.includes(asset.status)).length, ok = found.filter((asset) => asset.status === "ok").length;
  $("summary").textContent = (found.length < assets.length ? `${found.length.toLocaleString("en")} of ` : "") + `${many(assets.length, "asset")} · ${ok} ok`
    + (done > ok ? ` · ${done - ok} rejected or unjudged` : "") + (found.length > done ? ` · ${found.length - done} not delivered` : "");
  nodes.clear(); owners.clear();
  $("cards").replaceChildren();
  shown = 0; feed = current = null;
  show();
  if (!found.length) $("cards").append(element("p", { className: "empty", textContent: "nothing matches" }));
}
function row(name) {
  feed = element("div", { className: "feed", role: "feed", ariaLabel: name });
  if (!view.has("group")) return $("cards").append(feed);
  const of = found.filter((asset) => (asset.prompt || "no prompt") === name);
  $("cards").append(element("section", {}, element("h2", { textContent: name }), element("p", { className: "id", textContent: `${many(of.length, "asset")}, seeds ${[...new Set(of.map((each) => each.seed))].join(", ")}` }), feed));
}
function show() {
  let prompt = shown ? found[shown - 1].prompt : NaN;
  for (const asset of found.slice(shown, shown + PAGE)) {
    if (!feed || (view.has("group") && asset.prompt !== prompt)) row(view.has("group") ? asset.prompt || "no prompt" : "assets");
    prompt = asset.prompt;
    const node = card(asset);
    node.setAttribute("aria-posinset", ++shown);
    node.setAttribute("aria-setsize", found.length);
    feed.append(node);
  }
  if (!current && shown) rove(nodes.get(found[0]));
  $("more").hidden = shown >= found.length;
  $("more").textContent = `show more (${found.length - shown} left)`;
}
function rove(node) { // Tab reaches the controls of one card; arrows go from card to card
  if (!node || node === current) return;
  for (const [card_, index] of [[current, -1], [node, 0]]) if (card_) { card_.tabIndex = index; for (const each of card_.querySelectorAll(FOCUSABLE)) each.tabIndex = index; }
  current = node;
}

function read() { // the address into the controls
  view = new URLSearchParams(location.hash.slice(1));
  for (const name of ["q", ...Object.keys(values)]) $(name).value = view.get(name) || "";
  $("sort").value = view.get("sort") || "newest";
  $("up").ariaPressed = String(view.has("up"));
  $("group").checked = view.has("group");
  limit();
  apply();
}
function set(name, value) { // a control into the address
  if (value) view.set(name, value); else view.delete(name);
  const text = view.toString().replaceAll("=&", "&").replace(/=$/, "");
  history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  if (name !== "figure") apply();
}
function limit() {
  const name = $("figure").value;
  $("least").value = view.get("least." + name) ?? "";
  $("most").value = view.get("most." + name) ?? "";
  $("bounds").replaceChildren(...bounds().map(([kind, of, value]) => {
    const off = button("bound", `${label(of)} ${kind.startsWith("least") ? "≥" : "≤"} ${value} ✕`, { className: "tag", title: "remove" });
    off.addEventListener("click", () => { set(kind, ""); limit(); });
    return element("li", {}, off);
  }));
  const range = assets.map((asset) => figure(asset, name)).filter((value) => value !== null && value !== undefined && isFinite(value));
  const [least, most] = range.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  $("least").placeholder = range.length ? number(least) : ""; $("most").placeholder = range.length ? number(most) : "";
}

// --- selection, keys, what is done with many ---------------------------------------------------------------------------

const say = (words) => { $("said").textContent = words; };
function tell() {
  $("count").textContent = `${many(chosen.size, "asset")} selected`;
  for (const node of $("selected").querySelectorAll("button, label")) node.hidden = !chosen.size && !["all"].includes(node.dataset.act);
  $("unsaved").hidden = !pending.size || Boolean(sending);
  const fresh = [...pending.values()].filter((each) => !saved.has(each.id)).length;
  $("waiting").textContent = live ? `${many(pending.size, "verdict")} not recorded yet` : `${many(pending.size, "verdict")} not in the library yet${fresh < pending.size ? `, ${fresh} not in a file` : ""}${keeps ? "" : "; this browser keeps nothing, so save before you close it"}`;
  $("save").textContent = live ? "try again" : "save verdicts";
  $("name").hidden = Boolean(live);
}
function choose(list, on, alone) {
  const before = alone ? [...chosen] : [];
  if (alone) chosen.clear();
  for (const asset of list) if (on) chosen.add(asset); else chosen.delete(asset);
  for (const asset of new Set([...before, ...list])) {
    const node = nodes.get(asset);
    if (node) { mark(node, asset); node.querySelector(".pick input").checked = chosen.has(asset); }
  }
  tell();
}
const span = (a, b) => { const [from, to] = [found.indexOf(a), found.indexOf(b)].sort((x, y) => x - y); return found.slice(Math.max(from, 0), to + 1); };
const focused = () => owners.get(document.activeElement?.closest?.("article"));
const targets = () => chosen.size ? [...chosen] : focused() ? [focused()] : [];

function go(step, range) {
  const here = focused() || owners.get(current), at = found.indexOf(here), to = found[Math.max(0, Math.min(found.length - 1, focused() ? at + step : at))];
  if (!to) return;
  while (!nodes.has(to)) show();
  if (range) { anchor ??= here; choose(span(anchor, to), true, true); } else anchor = to;
  nodes.get(to).focus();
  nodes.get(to).scrollIntoView({ block: "nearest" });
}
function columns() {
  const cards = [...(current?.parentElement.children || [])], top = cards[0]?.offsetTop;
  return Math.max(1, cards.filter((node) => node.offsetTop === top).length);
}
function why(list) {
  if (!list.length) return say("nothing is selected, and no asset has the focus");
  const { reason, note } = standing(list[0]), used = assets.map((asset) => standing(asset).reason).filter(Boolean);
  $("reason-of").textContent = `Reason: ${list.length === 1 ? list[0].asset_id : many(list.length, "asset")}`;
  $("because").value = reason || ""; $("note").value = note || "";
  $("known").replaceChildren(...[...new Set([...REASONS, ...used])].map((value) => element("option", { value })));
  $("reasons").replaceChildren(...REASONS.map((text, n) => button("because", `${n + 1} ${text}`, { onclick: () => finish(text) })));
  const finish = (text) => { $("reason").close(); decide(list, { reason: text.trim(), note: $("note").value.trim() }, "reason kept"); };
  $("because-ok").onclick = () => finish($("because").value);
  $("reason").onkeydown = (event) => {
    const typed = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
    if (!typed && REASONS[event.key - 1]) { event.preventDefault(); finish(REASONS[event.key - 1]); }
    if (event.key === "Enter" && event.target === $("because")) { event.preventDefault(); finish($("because").value); }
  };
  $("reason").showModal();
}
function take() {
  const list = chosen.size ? [...chosen] : found, ids = list.map((asset) => asset.asset_id);
  $("take-of").textContent = `Take away ${many(list.length, "asset")}`;
  $("command").textContent = command;
  $("ids").onclick = () => { download("selection.json", { asset_ids: ids }); say("selection.json is saved: " + command); };
  $("copy").onclick = () => navigator.clipboard.writeText(command).then(() => say("copied"), () => say("this browser copies nothing from here: mark the text"));
  if (live) {
    $("zip").hidden = false;
    $("zip").elements.token.value = live.token;
    $("zip").elements.asset_ids.value = JSON.stringify(ids);
  }
  $("take").showModal();
}

const acts = {
  accept: (list) => verdict(list, "accepted"),
  reject: (list) => verdict(list, "rejected"),
  star: (list, node) => rate(list, Number(node.dataset.star)),
  why, take, save,
  tag: (list, node) => { set("tag", node.dataset.tag); read(); scrollTo(0, 0); },
  mine: ([asset]) => { const said = content(pending.get(asset.asset_id)); put(asset, said); settle([asset], "your verdict stands again: " + asset.asset_id); },
  theirs: ([asset]) => { pending.delete(asset.asset_id); settle([asset], "left as it is: " + asset.asset_id); },
  all: () => { choose(found, true); say(`${many(found.length, "asset")} selected`); },
  none: () => { choose([...chosen], false); say("nothing selected"); },
  drop: () => {
    if (!confirm(`Forget ${many(pending.size, "verdict")} that the library does not have?`)) return;
    const list = [...pending.keys()].map((id) => byId.get(id));
    pending.clear();
    settle(list, "forgotten");
  },
};
function rate(list, stars) {
  const same = list.length && list.every((asset) => standing(asset).stars === stars);
  decide(list, { stars: stars && !same ? stars : null }, stars && !same ? many(stars, "star") : "no stars");
}

document.addEventListener("click", (event) => {
  const node = event.target.closest("[data-act]"), asset = owners.get(event.target.closest("article"));
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  if (node && node.tagName === "BUTTON" && acts[node.dataset.act]) acts[node.dataset.act](asset ? [asset] : targets(), node);
  const box = event.target.closest(".pick input");
  if (box) {
    choose(event.shiftKey && anchor ? span(anchor, asset) : [asset], box.checked);
    anchor = asset;
  }
});
document.addEventListener("focusin", (event) => rove(event.target.closest("article")));
document.addEventListener("keydown", (event) => {
  const { key } = event, typing = event.target.closest("input:not([type=checkbox]), select, textarea, dialog"), on = event.target.closest("a, button, summary, input");
  if (key === "Escape" && typing && !event.target.closest("dialog")) { (current || document.body).focus(); return; }
  if (typing || event.altKey || event.metaKey || (event.ctrlKey && key.toLowerCase() !== "a")) return;
  if (event.ctrlKey) { event.preventDefault(); acts.all(); return; }
  const letter = key.toLowerCase(), keys = {
    a: () => acts.accept(targets()), r: () => acts.reject(targets()), e: () => why(targets()), u: undo, t: take,
    x: () => { const asset = focused(); if (asset) { choose([asset], !chosen.has(asset)); anchor = asset; } },
    j: () => go(1, event.shiftKey), k: () => go(-1, event.shiftKey), g: () => { $("group").checked = !$("group").checked; set("group", $("group").checked ? "1" : ""); },
    arrowright: () => go(1, event.shiftKey), arrowleft: () => go(-1, event.shiftKey), arrowdown: () => go(columns(), event.shiftKey), arrowup: () => go(-columns(), event.shiftKey),
    home: () => go(-found.length), end: () => go(found.length), escape: acts.none, "/": () => $("q").focus(), "?": () => $("keys").showModal(),
  };
  if (key === " " && !on) keys[" "] = keys.x;
  if (key === "Enter" && !on) keys.enter = () => { const asset = focused(); if (asset?.view) location.href = asset.view; };
  if (/^[0-5]$/.test(key)) keys[key] = () => rate(targets(), Number(key));
  if (!keys[letter]) return;
  event.preventDefault();
  keys[letter]();
  if (event.shiftKey && "ar".includes(letter) && !chosen.size) go(1);
});

function options(select, list, first) {
  select.append(...(first === undefined ? [] : [element("option", { value: "", textContent: first })]), ...list.map(([value, text]) => element("option", { value, textContent: text ?? value })));
}
for (const [name, of] of Object.entries(values)) {
  const unique = name === "verdict" ? ["open", "accepted", "rejected", "5 stars", "4 stars", "3 stars", "2 stars", "1 star", "not in the library yet", "decided twice"] : [...new Set(assets.flatMap(of).filter(Boolean))].sort();
  options($(name), unique.map((value) => [value]), "all");
  $(name).parentElement.hidden = unique.length < 2;
  $(name).addEventListener("input", () => set(name, $(name).value));
}
options($("sort"), Object.keys(texts).map((name) => [name]));
for (const select of [$("sort"), $("figure")]) options(select, names.map((name) => [name, label(name)]));
options($("stars"), [["0", "none"], ...[1, 2, 3, 4, 5].map((n) => [n])], "");
$("stars").addEventListener("input", () => { if ($("stars").value) decide(targets(), { stars: Number($("stars").value) || null }, "stars"); $("stars").value = ""; });
$("q").addEventListener("input", () => set("q", $("q").value));
$("sort").addEventListener("input", () => set("sort", $("sort").value === "newest" ? "" : $("sort").value));
$("up").addEventListener("click", () => { $("up").ariaPressed = String($("up").ariaPressed !== "true"); set("up", $("up").ariaPressed === "true" ? "1" : ""); });
$("group").addEventListener("input", () => set("group", $("group").checked ? "1" : ""));
$("figure").addEventListener("input", limit);
for (const kind of ["least", "most"]) $(kind).addEventListener("change", () => { set(`${kind}.${$("figure").value}`, $(kind).value); limit(); });
$("by").addEventListener("change", keep);
$("more").addEventListener("click", show);
new IntersectionObserver(([entry]) => { if (entry.isIntersecting && !$("more").hidden) show(); }, { rootMargin: "600px" }).observe($("more"));
addEventListener("hashchange", read);
addEventListener("storage", (event) => { if (event.key === KEPT) { const before = [...pending.keys()]; load(); for (const id of new Set([...before, ...pending.keys()])) redraw(byId.get(id)); tell(); } });
$("help").addEventListener("click", () => $("keys").showModal());
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
for (const [key, text] of Object.entries(KEYS)) $("key-list").append(element("dt", { textContent: key }), element("dd", { textContent: text }));
$("roles").append(...roles.map(({ role, label }) => element("label", { className: "check" }, element("input", { type: "checkbox", name: "role", value: role, checked: role === "glb" }), " " + label)));
$("made").textContent = `made ${made}`;
$("filters").open = innerWidth > 640;
load();
keep();
read();
if (live && pending.size) send();
document.documentElement.dataset.ready = String(assets.length);
