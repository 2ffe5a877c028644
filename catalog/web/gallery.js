"use strict";
// Everything that comes from the catalogue reaches the page through textContent or a checked relative URL, never as HTML.
const { assets, made } = JSON.parse(document.getElementById("data").textContent);
const PAGE = 120;
const $ = (id) => document.getElementById(id);
const sorts = {
  "newest": (a, b) => (b.last_seen_at || "").localeCompare(a.last_seen_at || ""),
  "name": (a, b) => a.asset_id.localeCompare(b.asset_id),
  "fidelity": (a, b) => (b.fidelity ?? -1e9) - (a.fidelity ?? -1e9),
  "consistency": (a, b) => (b.consistency ?? -1e9) - (a.consistency ?? -1e9),
  "fewest faces": (a, b) => (a.faces ?? 1e12) - (b.faces ?? 1e12),
  "most work": (a, b) => (b.machine_s ?? 0) - (a.machine_s ?? 0),
};

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function number(value) {
  if (value === null || value === undefined) return null;
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function facts(pairs) {
  const list = element("dl", {});
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", { textContent: name }), element("dd", { textContent: value }));
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

function badges(asset, kind, where) {
  const row = element("div", { className: "badges" }, element("span", { className: "badge " + kind, textContent: asset.status + where }));
  if (asset.verdict) row.append(element("span", { className: "badge " + (asset.verdict === "accepted" ? "ok" : "bad"),
    textContent: asset.verdict + (asset.reviewed_by ? " by " + asset.reviewed_by : ""), title: asset.review_note || "" }));
  for (const tag of tags(asset)) {
    const chip = element("button", { type: "button", className: "tag", textContent: tag, title: "only these" });
    chip.addEventListener("click", () => { $("tag").value = tag; search(); scrollTo(0, 0); });
    row.append(chip);
  }
  return row;
}

const tags = (asset) => Object.entries(asset.tags || {}).map(([name, value]) => name === "category" ? value : `${name}: ${value}`);

function card(asset) {
  const kind = asset.status === "ok" ? "ok" : ["running", "requested"].includes(asset.status) ? "wait" : "bad";
  const where = asset.error_stage ? ` in ${asset.error_stage}` : "";
  const error = [asset.error_type, asset.error_message].filter(Boolean).join(": ");
  const all = Object.entries(asset.metrics || {}).sort(([a], [b]) => a.localeCompare(b));
  const more = facts(all.map(([name, value]) => [name, number(value)]));
  const found = asset.findings || [];
  const faults = found.length ? element("details", { className: asset.finding_errors ? "faults bad" : "faults" },
    element("summary", { textContent: `${found.length} ${found.length === 1 ? "finding" : "findings"}` + (asset.finding_errors ? `, ${asset.finding_errors} of them errors` : "") }),
    element("ul", {}, ...found.map((text) => element("li", { textContent: text })))) : null;
  const files = element("div", { className: "files" });
  const view = asset.view ? [{ label: "3D view", url: asset.view }] : [];
  for (const { label, url, download } of [...view, ...asset.files]) {
    files.append(element("a", { href: url, textContent: label, ...(download ? { download } : {}) }));
  }
  const head = [["faces", asset.faces === null ? null : number(asset.faces) + (asset.face_budget ? " / " + number(asset.face_budget) : "")],
    ["fidelity", number(asset.fidelity)], ["consistency", number(asset.consistency)],
    ["work", asset.machine_s === null ? null : number(Math.round(asset.machine_s)) + " s"], ["licence", asset.licence_class]];
  const text = element("div", { className: "text" },
    element("p", { className: "prompt", textContent: asset.prompt || asset.asset_id, title: asset.prompt || "" }),
    element("p", { className: "id", textContent: [asset.asset_id, asset.recipe, asset.seed === null ? null : "seed " + asset.seed].filter(Boolean).join(" · ") }),
    asset.prompt_warnings ? element("p", { className: "unread", textContent: "prompt not read whole: " + asset.prompt_warnings.join("; "), tabIndex: 0 }) : null,
    badges(asset, kind, where),
    error && asset.preview ? element("p", { className: "error", textContent: error, tabIndex: 0 }) : null,
    facts(head),
    faults,
    more ? element("details", {}, element("summary", { textContent: `${all.length} metrics` }), more) : null,
    files);
  return element("article", { id: "asset-" + asset.asset_id }, picture(asset), text);
}

function options(select, values, first) {
  select.append(...[first, ...values].map((value, i) => element("option", { value: i || !first.startsWith("all") ? value : "", textContent: value })));
}

const values = { status: (asset) => [asset.status], tag: tags, recipe: (asset) => [asset.recipe] };
for (const [name, of] of Object.entries(values)) {
  const unique = [...new Set(assets.flatMap(of).filter(Boolean))].sort();
  options($(name), unique, "all");
  $(name).parentElement.hidden = unique.length < 2;
}
options($("sort"), Object.keys(sorts).slice(1), Object.keys(sorts)[0]);

const haystack = new Map(assets.map((asset) => [asset, [asset.asset_id, asset.prompt, ...(asset.prompt_warnings || []), ...tags(asset), asset.recipe, asset.status,
  asset.verdict, asset.review_note, asset.error_stage, asset.error_type, asset.error_message].join(" ").toLowerCase()]));
let found = [], shown = 0;

function show() {
  const next = found.slice(shown, shown + PAGE);
  $("cards").append(...next.map(card));
  shown += next.length;
  $("more").hidden = shown >= found.length;
  $("more").textContent = `show more (${found.length - shown} left)`;
}

function search() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const keep = Object.entries(values).map(([name, of]) => [of, $(name).value]).filter(([, value]) => value);
  found = assets.filter((asset) => keep.every(([of, value]) => of(asset).includes(value))
    && words.every((word) => haystack.get(asset).includes(word)));
  found.sort(sorts[$("sort").value]);
  const ok = found.filter((asset) => asset.status === "ok").length;
  $("summary").textContent = (found.length < assets.length ? `${found.length} of ` : "") + `${assets.length} assets · ${ok} delivered`
    + (found.length > ok ? ` · ${found.length - ok} not` : "");
  $("cards").replaceChildren();
  shown = 0;
  show();
  if (!found.length) $("cards").append(element("p", { className: "empty", textContent: "nothing matches" }));
}

for (const name of ["search", ...Object.keys(values), "sort"]) $(name).addEventListener("input", search);
$("more").addEventListener("click", show);
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
$("made").textContent = `made ${made}`;
search();
document.documentElement.dataset.ready = String(assets.length);
